"""Thermal noise, and the definition of SNR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hil.contract import IQ, ConfigError
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
