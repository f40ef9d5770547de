"""CP-OFDM: symbols on subcarriers to samples, and windows of samples to subcarriers.

256 subcarriers, a cyclic prefix of 32 samples, 200 used (±1..±100), 8 of them pilots; DC and the
band edges stay empty, so that a direct-conversion receiver's DC spike falls on nothing. The pilots
move from symbol to symbol: five symbols in a row show every fifth subcarrier, 25 in a row show each
of the 200 exactly once. Every grid here holds the used subcarriers in rising order of frequency,
with symbols of unit mean energy whatever the transmit level is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hil.contract import IQ
from radio.modem.pn import pn_bits

Grid = NDArray[np.complex64]
"""Subcarrier values, complex64[n_symbols, n_subcarriers]."""

N_FFT: Final = 256
CP_SAMPLES: Final = 32
SYMBOL_SAMPLES: Final = N_FFT + CP_SAMPLES
N_USED: Final = 200
N_PILOTS: Final = 8
N_DATA: Final = N_USED - N_PILOTS
PILOT_PERIOD: Final = N_USED // N_PILOTS
"""Symbols after which the pilots are where they were; also their distance in one symbol."""

USED: Final = np.concatenate([np.arange(-100, 0), np.arange(1, 101)])
"""int[200], subcarrier numbers in use, rising."""


def _pilot_places() -> NDArray[np.intp]:
    """Positions of the pilots within USED, intp[25, 8], by symbol number modulo 25."""
    row = np.arange(PILOT_PERIOD)
    shift = (10 * row + row // 5) % PILOT_PERIOD
    return shift[:, None] + PILOT_PERIOD * np.arange(N_PILOTS)


PILOTS: Final = _pilot_places()
"""intp[25, 8], positions of the pilots within USED, by symbol number modulo 25."""
DATA: Final = np.array([np.setdiff1d(np.arange(N_USED), places) for places in PILOTS])
"""intp[25, 192], positions of the data subcarriers within USED, rising, by symbol number modulo
25."""

RMS_LEVEL: Final = 0.2
"""Transmitted rms amplitude; 14 dB below full scale leaves the peaks of OFDM room (one sample in
10^11 is clipped)."""
AMPLITUDE: Final = RMS_LEVEL * (N_FFT / N_USED) ** 0.5
"""Amplitude of a unit symbol on one subcarrier, under the unitary transform."""

WINDOW_BACKOFF: Final = 8
"""The receiver's window starts this many samples before the end of the prefix: room for early paths
and for the leading tail of a delay that falls between samples."""


def fill_used(values: Grid) -> Grid:
    """Time symbols complex64[n, 256] (no prefix) whose used subcarriers hold `values`, complex[n,
    200]."""
    bins = np.zeros((len(values), N_FFT), np.complex64)
    bins[:, USED % N_FFT] = values * np.float32(AMPLITUDE)
    return np.asarray(scipy.fft.ifft(bins, axis=1, norm="ortho", overwrite_x=True), np.complex64)


def read_used(symbols: Grid) -> Grid:
    """Used subcarriers complex64[n, 200] of time symbols complex64[n, 256]."""
    bins = scipy.fft.fft(symbols, axis=1, norm="ortho")
    half = N_USED // 2
    grid = np.empty((len(bins), N_USED), np.complex64)
    np.multiply(bins[:, -half:], np.float32(1 / AMPLITUDE), out=grid[:, :half])
    np.multiply(bins[:, 1 : half + 1], np.float32(1 / AMPLITUDE), out=grid[:, half:])
    return grid


def pilot_places(n_symbols: int) -> NDArray[np.intp]:
    """Positions of the pilots within USED in a burst's first n_symbols symbols, intp[n_symbols,
    8]."""
    return PILOTS[np.arange(n_symbols) % PILOT_PERIOD]


def data_places(n_symbols: int) -> NDArray[np.intp]:
    """Positions of the data subcarriers within USED in a burst's first n_symbols symbols,
    intp[n_symbols, 192]."""
    return DATA[np.arange(n_symbols) % PILOT_PERIOD]


def pilot_symbols(n_symbols: int) -> NDArray[np.float32]:
    """Pilot values of a burst's first n_symbols symbols, float32[n_symbols, 8]: ±1, pseudo-random
    against lines."""
    return (1 - 2 * pn_bits(n_symbols * N_PILOTS).astype(np.float32)).reshape(n_symbols, N_PILOTS)


def modulate(data: Grid) -> IQ:
    """Samples of a burst's body.

    Args:
        data: complex[n_symbols, 192], unit mean energy; row 0 is the first symbol after the
            preamble.

    Returns:
        complex64[n_symbols * 288], |iq| ≤ 1: the rare higher peak is limited in magnitude.
    """
    grid = np.empty((len(data), N_USED), np.complex64)
    np.put_along_axis(grid, data_places(len(data)), data.astype(np.complex64, copy=False), axis=1)
    np.put_along_axis(
        grid, pilot_places(len(data)), pilot_symbols(len(data)).astype(np.complex64), axis=1
    )
    symbols = fill_used(grid)
    iq = np.concatenate([symbols[:, -CP_SAMPLES:], symbols], axis=1).ravel()
    peak = np.abs(iq)
    over = peak > 1.0
    if over.any():
        iq[over] /= peak[over] * np.float32(1 + 1e-6)
    return iq
