"""Seeded impairments of the air. Each takes samples and a Generator and gives samples; `Chain` applies several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hil.contract import IQ, ChannelModel, ConfigError
from radio.ofdm import AMPLITUDE


@dataclass(frozen=True, slots=True)
class Awgn:
    """White Gaussian noise at a stated Es/N0 per used subcarrier.

    The modem sends a unit symbol with amplitude `ofdm.AMPLITUDE` on each used subcarrier, and its transform is
    unitary, so that complex noise of variance AMPLITUDE² / (Es/N0) on every sample gives every subcarrier that ratio.
    The level is absolute: pauses get the same noise as bursts, and an attenuation before this lowers the SNR.
    """

    snr_db: float

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples plus noise."""
        if not np.isfinite(self.snr_db):
            raise ConfigError(f"channel SNR is {self.snr_db} dB; it must be finite")
        sigma = AMPLITUDE * 10 ** (-self.snr_db / 20) / 2**0.5
        noise = rng.standard_normal(2 * len(iq), np.float32)
        noise *= np.float32(sigma)
        return iq + noise.view(np.complex64)


@dataclass(frozen=True, slots=True)
class FrequencyOffset:
    """A carrier that lies cfo_hz above the receiver's oscillator, with a random start phase."""

    cfo_hz: float
    sample_rate_hz: float

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples, turning."""
        cycles = rng.uniform() + self.cfo_hz / self.sample_rate_hz * np.arange(len(iq))
        turn = np.empty(len(iq), np.complex64)
        turn.real = np.cos(2 * np.pi * cycles)
        turn.imag = np.sin(2 * np.pi * cycles)
        return iq * turn


@dataclass(frozen=True, slots=True)
class RandomDelay:
    """A pause of 0..max_samples before the samples, uniform."""

    max_samples: int

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples behind the pause."""
        return np.concatenate([np.zeros(int(rng.integers(self.max_samples + 1)), np.complex64), iq])


@dataclass(frozen=True, slots=True)
class Chain:
    """Impairments one after another."""

    models: tuple[ChannelModel, ...]

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples behind all of them."""
        for model in self.models:
            iq = model(iq, rng)
        return iq
