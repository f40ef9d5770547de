"""Another transmitter on the air: noise, a tone, bursts, or a recording."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from hil.contract import IQ, ConfigError
from radio.channel.noise_blocks import CountedNoise
from radio.channel.phasors import phasors

_MAX_SAMPLES: Final = 1 << 26
"""Longest recording, half a gigabyte."""
_STREAM: Final = 1 << 20
"""Number of an interferer's noise; radios count theirs from 0."""


class Waveform(Protocol):
    """Samples of unit mean power while they sound, wherever in the stream they are asked for."""

    def at(self, begin: int, n: int, rate_hz: float) -> IQ:
        """The samples at counts begin ... begin + n of a receiver's clock."""
        ...


@dataclass(frozen=True, slots=True)
class Interferer:
    """A waveform at a level over the receiver's noise.

    Attributes:
        inr_db: its mean power while it sounds over the noise, both in the whole sampled band.
        waveform: what it sends.
    """

    inr_db: float
    waveform: Waveform

    def at(self, begin: int, n: int, rate_hz: float) -> IQ:
        """Samples that add to noise of unit power (I and Q together)."""
        amplitude = np.float32(10 ** (self.inr_db / 20))
        return self.waveform.at(begin, n, rate_hz) * amplitude


class WhiteNoise:
    """White noise over the whole band."""

    def __init__(self, seed: int) -> None:
        self._noise = CountedNoise(seed, _STREAM)

    def at(self, begin: int, n: int, rate_hz: float) -> IQ:
        """See Waveform."""
        return self._noise.at(begin, n) * np.float32(0.5**0.5)


@dataclass(frozen=True, slots=True)
class Tone:
    """A carrier offset_hz above the receiver's centre; beyond the sampled band nothing is heard."""

    offset_hz: float

    def at(self, begin: int, n: int, rate_hz: float) -> IQ:
        """See Waveform."""
        if 2 * abs(self.offset_hz) >= rate_hz:
            return np.zeros(n, np.complex64)
        return phasors((begin + np.arange(n, dtype=np.float64)) * (self.offset_hz / rate_hz))


class Bursts:
    """White noise that sounds for the first part of each period, `duty` of it."""

    def __init__(self, seed: int, period_s: float, duty: float) -> None:
        self._duty = duty
        self._noise = WhiteNoise(seed)
        self._period_s = period_s

    def at(self, begin: int, n: int, rate_hz: float) -> IQ:
        """See Waveform."""
        times_s = (begin + np.arange(n, dtype=np.float64)) / rate_hz
        sounds = times_s % self._period_s < self._duty * self._period_s
        return self._noise.at(begin, n, rate_hz) * sounds.astype(np.float32)


class Recorded:
    """A recording, again and again; its mean power is brought to 1."""

    def __init__(self, samples: IQ, rate_hz: float) -> None:
        """A recording.

        Args:
            samples: complex64[n], not all 0.
            rate_hz: their rate; 0 = that of whoever asks.
        """
        samples = samples / np.abs(samples).max()  # squares of what is left do not overflow
        power = float(np.mean(np.abs(samples) ** 2, dtype=np.float64))
        self._samples: IQ = np.asarray(samples / np.float32(power**0.5), np.complex64)
        self._rate_hz = rate_hz
        self._resampled: tuple[float, IQ] = rate_hz, self._samples

    def at(self, begin: int, n: int, rate_hz: float) -> IQ:
        """See Waveform. Raises ConfigError: at this rate the recording would be too long."""
        samples = self._samples_at(rate_hz)
        return samples[(begin + np.arange(n)) % len(samples)]

    def _samples_at(self, rate_hz: float) -> IQ:
        if not self._rate_hz:
            return self._samples
        if self._resampled[0] != rate_hz:
            ratio = Fraction(rate_hz / self._rate_hz).limit_denominator(1000)
            if not 0 < ratio * len(self._samples) <= _MAX_SAMPLES:
                raise ConfigError(
                    f"interferer's recording: {len(self._samples)} samples at {self._rate_hz:g} Hz "
                    f"become too many or none at the radio's {rate_hz:g} Hz; take another part"
                )
            moved = resample_poly(self._samples, ratio.numerator, ratio.denominator)
            self._resampled = rate_hz, np.asarray(moved, np.complex64)
        return self._resampled[1]


# ------------------------------------------------------------------------------------------- files


def read_recorded(path: Path, rate_hz: float) -> Recorded:
    """A recording from a file.

    Args:
        path: a NumPy file (.npy) of complex[n], or either file of a SigMF recording with one
            channel of complex samples.
        rate_hz: rate of a .npy file; 0 = that of whoever listens. A SigMF recording has its own.

    Raises:
        ConfigError: it cannot be read, or its samples are no signal.
    """
    if path.suffix == ".npy":
        samples = _read_npy(path)
    else:
        samples, rate_hz = _read_sigmf(path)
    if samples.ndim != 1 or not np.iscomplexobj(samples):
        raise ConfigError(
            f"{path}: {samples.dtype}{list(samples.shape)}; an interferer is a row of complex "
            "samples"
        )
    if not 0 < len(samples) <= _MAX_SAMPLES:
        raise ConfigError(f"{path}: {len(samples)} samples; a recording has 1..{_MAX_SAMPLES}")
    heard: IQ = samples.astype(np.complex64)
    if not np.isfinite(heard).all() or not heard.any():
        raise ConfigError(f"{path}: samples that are not finite, or only zeros; record it anew")
    return Recorded(heard, rate_hz)


def _read_npy(path: Path) -> NDArray[np.generic]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; name another recording") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: not a NumPy file of numbers ({reason})") from error


def _read_sigmf(path: Path) -> tuple[NDArray[np.generic], float]:
    """Samples, and their rate."""
    import sigmf  # takes a tenth of a second, which only those who use it should wait
    from sigmf.error import SigMFError

    for ending in (".sigmf-meta", ".sigmf-data"):
        if not path.with_suffix(ending).is_file():
            raise ConfigError(f"{path.with_suffix(ending)}: no such file; a recording has both")
    try:
        facts = json.loads(path.with_suffix(".sigmf-meta").read_text(encoding="utf-8"))
        recording = sigmf.SigMFFile(metadata=facts, data_file=path.with_suffix(".sigmf-data"))
        rate_hz = float(recording.get_global_field(sigmf.SAMPLE_RATE_KEY) or 0)
        samples = np.asarray(recording.read_samples())
    except (OSError, SigMFError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: not a SigMF recording ({reason}); copy it anew") from error
    if not 0 < rate_hz < math.inf:
        raise ConfigError(f"{path}: sample rate {rate_hz:g} Hz; the metadata must say a rate")
    return samples, rate_hz
