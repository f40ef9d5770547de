"""Thermal noise, the definition of SNR, and what arrives with the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ, ConfigError
from radio.channel.interferer import Interferer
from radio.channel.trace import Trace
from radio.modem.ofdm import AMPLITUDE


@dataclass(frozen=True, slots=True)
class Awgn:
    """White Gaussian noise at a stated Es/N0 per used subcarrier.

    The modem sends a unit symbol with amplitude `ofdm.AMPLITUDE` on each used subcarrier, and its
    transform is unitary, so that complex noise of variance AMPLITUDE² / (Es/N0) on every sample
    gives every subcarrier that ratio. The level is absolute: pauses get the same noise as bursts,
    an attenuation before this lowers the SNR, and behind fading of unit mean power the ratio is the
    mean SNR.
    """

    snr_db: float

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples plus noise."""
        if not np.isfinite(self.snr_db):
            raise ConfigError(f"channel SNR is {self.snr_db} dB; it must be finite")
        sigma = AMPLITUDE * 10 ** (-self.snr_db / 20) / 2**0.5
        noise = rng.standard_normal(2 * len(iq), np.float32)
        noise *= np.float32(sigma)
        noisy: IQ = noise.view(np.complex64)
        noisy += iq
        return noisy


@dataclass(frozen=True, slots=True, kw_only=True)
class MovingNoise:
    """White Gaussian noise as Awgn's, at an SNR that moves with time, and an interferer above it.

    The noise moves, not the signal: levels of the signal are the same at every SNR.

    Attributes:
        snr_db: Es/N0 per used subcarrier, or its trace.
        interferer: an interferer whose level follows the noise, or None.
        begin_s: time of the first sample, in the trace as well.
        sample_rate_hz: rate of the samples.
    """

    snr_db: float | Trace
    interferer: Interferer | None
    begin_s: float
    sample_rate_hz: float

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples plus noise and interferer; the noise draws from `rng` what Awgn draws."""
        levels = self._noise_rms(len(iq))
        added: IQ = rng.standard_normal(2 * len(iq), np.float32).view(np.complex64)
        added *= np.float32(0.5**0.5)
        if self.interferer is not None:
            begin = round(self.begin_s * self.sample_rate_hz)
            added += self.interferer.at(begin, len(iq), self.sample_rate_hz)
        return np.asarray(iq + added * levels, np.complex64)

    def _noise_rms(self, n: int) -> NDArray[np.float32]:
        """Amplitude of the noise, I and Q together, at each sample."""
        if isinstance(self.snr_db, Trace):
            snr_db = self.snr_db.at(self.begin_s + np.arange(n) / self.sample_rate_hz)
        else:
            snr_db = np.asarray(self.snr_db, np.float64)
        return np.asarray(AMPLITUDE * 10 ** (-snr_db / 20), np.float32)
