"""Levels of samples: power, lines, noise beside a line, noise on the subcarriers, clipping.

0 dBFS is the power of a complex tone of magnitude 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.signal import welch
from scipy.signal.windows import blackmanharris

from hil.contract import IQ, CalibrationError
from radio.modem import ofdm

_FLOOR: Final = 1e-20
MAIN_LOBE_BINS: Final = 4
"""Half the main lobe of the window (Blackman-Harris, 4 terms, side lobes -92 dB: Harris, Proc. IEEE
66(1), 1978)."""
_BESIDE_BINS: Final = np.arange(8, 41)
"""Bins in which the noise beside a line is read."""
_PIECES: Final = 1024
_WELCH_SAMPLES: Final = 1024
_CLIPPED: Final = 1 - 1.5 / 2048
"""A component at the highest code of a 12-bit converter, 2047/2048, or beyond."""


def dbfs(power: ArrayLike) -> NDArray[np.float64]:
    """Power, full scale = 1, in dB."""
    return np.asarray(10 * np.log10(np.maximum(np.asarray(power, np.float64), _FLOOR)))


def power(iq: IQ) -> float:
    """Mean power without the constant."""
    mean = iq.mean(dtype=np.complex128)
    return float(np.mean(np.abs(iq) ** 2, dtype=np.float64) - abs(mean) ** 2)


def clipped_share(iq: IQ) -> float:
    """Share of samples of which I or Q stands at the converter's end."""
    return float(np.mean(np.maximum(np.abs(iq.real), np.abs(iq.imag)) >= _CLIPPED))


def subcarrier_noise(iq: IQ) -> float:
    """Mean power on one used subcarrier of what holds noise alone, the constant left out."""
    frequency, density = welch(
        iq.astype(np.complex128), nperseg=_WELCH_SAMPLES, detrend="constant", return_onesided=False
    )
    subcarrier = np.abs(frequency) * ofdm.N_FFT
    inside = (subcarrier > 1.0) & (subcarrier < ofdm.N_USED / 2 + 0.5)
    return float(density[inside].mean()) / ofdm.N_FFT


# ------------------------------------------------------------------------------------------------
# lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A tone as it was received.

    Attributes:
        frequency: cycles per sample.
        power: power of the tone, less the noise in its place.
        noise: power that the noise has in its place.
    """

    frequency: float
    power: float
    noise: float

    @property
    def visible(self) -> bool:
        """True if it stands 6 dB out of the noise."""
        return self.power > 4 * self.noise


def tone(frequency: float, n_samples: int, amplitude: float) -> IQ:
    """A complex tone, complex64[n], that can be repeated without a seam.

    Args:
        frequency: cycles per sample, a multiple of 1 / n_samples.
        n_samples: length of one period.
        amplitude: 0..1.
    """
    phase = np.arange(n_samples) * frequency % 1.0
    return np.asarray(amplitude * np.exp(2j * np.pi * phase), np.complex64)


def find_line(iq: IQ, near: float, within: float) -> Line:
    """The strongest tone in a range, at its own measured frequency.

    The frequency is where the windowed transform is largest: close to maximum likelihood, and blind
    to other tones.

    Args:
        iq: complex64[n], n ≥ 4,096.
        near, within: middle and half width of the range, cycles per sample.

    Raises:
        CalibrationError: nothing stands out there.
    """
    n = len(iq)
    spectrum = np.abs(scipy.fft.fft(_window(n) * iq))
    bins = scipy.fft.fftfreq(n)
    inside = np.flatnonzero(np.abs(bins - near) <= within)
    rough = float(bins[inside[np.argmax(spectrum[inside])]])
    found = line_at(iq, _refined(iq, rough))
    if found.power < 30 * found.noise:
        raise CalibrationError(
            f"no tone within {within:.3g} of {near:.3g} cycles per sample "
            f"({float(dbfs(found.power)):.0f} dBFS, noise "
            f"{float(dbfs(found.noise)):.0f}); check cable and antenna, raise rx_gain_db or lower "
            "tx_attenuation_db"
        )
    return found


def line_at(iq: IQ, frequency: float) -> Line:
    """Line at one frequency, with the noise beside it."""
    n = len(iq)
    window = _window(n)
    turned = scipy.fft.fft(window * iq * np.exp(-2j * np.pi * (np.arange(n) * frequency % 1.0)))
    level = np.abs(turned) ** 2 / window.sum() ** 2
    # half of the values of an exponential distribution lie below ln 2 means; other lines do not
    # move the median
    noise = float(np.median(level[np.concatenate([_BESIDE_BINS, -_BESIDE_BINS])]) / np.log(2))
    return Line(frequency=frequency, power=max(float(level[0]) - noise, _FLOOR), noise=noise)


def _refined(iq: IQ, rough: float) -> float:
    """The frequency within a bin of `rough` at which the windowed transform is largest."""
    size = len(iq) // _PIECES * _PIECES
    turned = (_window(len(iq)) * iq * np.exp(-2j * np.pi * (np.arange(len(iq)) * rough % 1.0)))[
        :size
    ]
    pieces = turned.reshape(_PIECES, -1).sum(axis=1)
    times = np.arange(_PIECES) * (size // _PIECES)

    def weakness(offset: float) -> float:
        return -float(np.abs(np.exp(-2j * np.pi * offset * times) @ pieces))

    found = minimize_scalar(
        weakness, bounds=(-1 / size, 1 / size), method="bounded", options={"xatol": 1e-7 / size}
    )
    return rough + float(found.x)


@lru_cache(maxsize=4)
def _window(n_samples: int) -> NDArray[np.float64]:
    return np.asarray(blackmanharris(n_samples, sym=False), np.float64)
