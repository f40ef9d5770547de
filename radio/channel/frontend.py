"""What the analogue ends of a radio do to samples, without memory: amplifier, mixer, converter.

Levels in dBFS are relative to full scale 1.0 of one component (I or Q).
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np

from hil.contract import IQ, ConfigError
from radio.modem.ofdm import RMS_LEVEL


@dataclass(frozen=True, slots=True)
class RappAmplifier:
    """A solid-state power amplifier: the magnitude bends towards saturation, the phase stays.

    Gain for small signals is 1; r becomes r / (1 + (r / saturation)^2p)^(1/2p).

    Attributes:
        backoff_db: saturation power over the modem's mean transmit power (`ofdm.RMS_LEVEL`).
        smoothness: p > 0; the larger, the sharper the bend.
    Source: Rapp, Effects of HPA nonlinearity on a 4-DPSK/OFDM signal, Proc. 2nd European Conf. on
    Satellite Communications, 1991.
    """

    backoff_db: float
    smoothness: float = 2.0

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples, amplified."""
        if not self.smoothness > 0:
            raise ConfigError(f"amplifier smoothness is {self.smoothness}; it must be positive")
        p = np.float32(self.smoothness)
        power = (iq.real**2 + iq.imag**2) / np.float32(RMS_LEVEL**2 * 10 ** (self.backoff_db / 10))
        return np.asarray(iq * (1 + power**p) ** (-1 / (2 * p)), np.complex64)


@dataclass(frozen=True, slots=True)
class IqImbalance:
    """A mixer whose branches differ in gain and are not at right angles: a mirror image of the
    spectrum is added.

    What the mixer does to the signal itself (a constant factor near 1) is left out, so that levels
    stay.

    Attributes:
        gain_db: amplitude of one branch over the other.
        phase_deg: departure from a right angle.
    Source: Valkama, Renfors and Koivunen, IEEE Trans. Signal Processing 49(10), 2001.
    """

    gain_db: float
    phase_deg: float

    @property
    def image(self) -> complex:
        """Amplitude of the image over the signal."""
        ratio = cmath.rect(10 ** (self.gain_db / 20), math.radians(self.phase_deg))
        return (1 - ratio) / (1 + ratio.conjugate())

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples and their image."""
        return np.asarray(iq + np.complex64(self.image) * np.conj(iq), np.complex64)


@dataclass(frozen=True, slots=True)
class DcOffset:
    """A steady carrier of the local oscillator, magnitude level_dbfs, equal in I and Q."""

    level_dbfs: float

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples, displaced."""
        return iq + np.complex64(cmath.rect(10 ** (self.level_dbfs / 20), math.pi / 4))


@dataclass(frozen=True, slots=True)
class Clipping:
    """A stage that limits I and Q each to ± level_dbfs."""

    level_dbfs: float

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples, limited."""
        limit = np.float32(10 ** (self.level_dbfs / 20))
        return np.clip(np.ascontiguousarray(iq).view(np.float32), -limit, limit).view(np.complex64)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A converter of `bits` bits for each of I and Q, two's complement over ±1: rounds and
    saturates."""

    bits: int

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples as the converter's codes, scaled back to full scale 1."""
        if not 1 <= self.bits <= 24:
            raise ConfigError(f"converter has {self.bits} bits; it must have 1 to 24")
        scale = np.float32(2 ** (self.bits - 1))
        codes = np.rint(np.ascontiguousarray(iq).view(np.float32) * scale)
        return np.asarray(np.clip(codes, -scale, scale - 1) / scale, np.float32).view(np.complex64)
