"""CP-OFDM: symbols on subcarriers to samples and back, the one-tap equaliser and the common-phase tracker.

256 subcarriers, a cyclic prefix of 32 samples, 200 used (±1..±100), 8 of them pilots; DC and the band edges stay empty,
so that a direct-conversion receiver's DC spike falls on nothing. Every grid here holds the used subcarriers in rising
order of frequency, with symbols of unit mean energy whatever the transmit level is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.pn import pn_bits

Grid = NDArray[np.complex64]
"""Subcarrier values, complex64[n_symbols, n_subcarriers]."""

N_FFT: Final = 256
CP_SAMPLES: Final = 32
SYMBOL_SAMPLES: Final = N_FFT + CP_SAMPLES
N_USED: Final = 200
_PILOT_SUBCARRIERS: Final = (-88, -63, -38, -13, 13, 38, 63, 88)

USED: Final = np.concatenate([np.arange(-100, 0), np.arange(1, 101)])
"""int[200], subcarrier numbers in use, rising."""
PILOTS: Final = np.flatnonzero(np.isin(USED, _PILOT_SUBCARRIERS))
"""int[8], positions of the pilots within USED."""
DATA: Final = np.flatnonzero(~np.isin(USED, _PILOT_SUBCARRIERS))
"""int[192], positions of the data subcarriers within USED."""
N_DATA: Final = 192

RMS_LEVEL: Final = 0.2
"""Transmitted rms amplitude; 14 dB below full scale leaves the peaks of OFDM room (one sample in 10^11 is clipped)."""
AMPLITUDE: Final = RMS_LEVEL * (N_FFT / N_USED) ** 0.5
"""Amplitude of a unit symbol on one subcarrier, under the unitary transform."""

WINDOW_BACKOFF: Final = 8
"""The receiver's window starts this many samples before the end of the prefix: room for early paths and for the
leading tail of a delay that falls between samples."""

PHASE_WINDOW: Final = 9
"""Symbols over which the common phase is averaged: 9.5 dB less pilot noise, at 2 MS/s a memory of 1.3 ms."""


def fill_used(values: Grid) -> Grid:
    """Time symbols complex64[n, 256] (no prefix) whose used subcarriers hold `values`, complex[n, 200]."""
    bins = np.zeros((len(values), N_FFT), np.complex64)
    bins[:, USED % N_FFT] = values
    return (np.fft.ifft(bins, axis=1, norm="ortho") * AMPLITUDE).astype(np.complex64)


def read_used(symbols: Grid) -> Grid:
    """Used subcarriers complex64[n, 200] of time symbols complex64[n, 256]."""
    bins = np.fft.fft(symbols, axis=1, norm="ortho")[:, USED % N_FFT]
    return (bins / AMPLITUDE).astype(np.complex64)


def pilot_symbols(n_symbols: int) -> NDArray[np.float32]:
    """Pilot values of a burst's first n_symbols symbols, float32[n_symbols, 8]: ±1, pseudo-random against lines."""
    return (1 - 2 * pn_bits(n_symbols * len(PILOTS)).astype(np.float32)).reshape(n_symbols, len(PILOTS))


def modulate(data: Grid) -> IQ:
    """Samples of a burst's body.

    Args:
        data: complex[n_symbols, 192], unit mean energy; row 0 is the first symbol after the preamble.

    Returns:
        complex64[n_symbols * 288], |iq| ≤ 1: the rare higher peak is limited in magnitude.
    """
    grid = np.empty((len(data), N_USED), np.complex64)
    grid[:, DATA] = data
    grid[:, PILOTS] = pilot_symbols(len(data))
    symbols = fill_used(grid)
    iq = np.concatenate([symbols[:, -CP_SAMPLES:], symbols], axis=1).ravel()
    peak = np.abs(iq)
    over = peak > 1.0
    if over.any():
        iq[over] /= peak[over] * np.float32(1 + 1e-6)
    return iq


def demodulate(iq: IQ) -> Grid:
    """Used subcarriers complex64[n_symbols, 200] of whole symbols; a rest shorter than a symbol is dropped.

    Args:
        iq: samples without carrier offset, from WINDOW_BACKOFF samples before the first symbol's prefix.
    """
    n_symbols = len(iq) // SYMBOL_SAMPLES
    frames = iq[: n_symbols * SYMBOL_SAMPLES].reshape(n_symbols, SYMBOL_SAMPLES)
    return read_used(frames[:, CP_SAMPLES:])


def track_phase(grid: Grid, channel: NDArray[np.complex64]) -> tuple[Grid, float]:
    """The grid with its common phase taken out, and the mean rotation in radians per symbol.

    A constant rotation (left-over carrier offset) is removed first; what remains is averaged over PHASE_WINDOW
    symbols, because eight pilots alone would put their own noise on every symbol.

    Args:
        grid: complex64[n_symbols, 200], from the first symbol after the preamble on.
        channel: complex64[200].
    """
    reference = channel[PILOTS] * pilot_symbols(len(grid))
    phasors = np.asarray(np.sum(grid[:, PILOTS] * np.conj(reference), axis=1), np.complex128)
    rotation = float(np.angle(np.sum(phasors[1:] * np.conj(phasors[:-1])))) if len(grid) > 1 else 0.0
    ramp = np.exp(1j * rotation * np.arange(len(grid)))
    half = PHASE_WINDOW // 2
    smooth = np.convolve(phasors * np.conj(ramp), np.ones(PHASE_WINDOW))[half : half + len(grid)]
    turns = np.exp(-1j * (np.angle(smooth) + rotation * np.arange(len(grid))))
    return grid * turns.astype(np.complex64)[:, None], rotation


def equalize(grid: Grid, channel: NDArray[np.complex64], noise_variance: float) -> tuple[Grid, NDArray[np.float32]]:
    """Data symbols complex64[n, 192] divided by the channel, and the noise variance float32[192] each then carries.

    Args:
        grid: complex64[n, 200], phase tracked.
        channel: complex64[200].
        noise_variance: N0 on a subcarrier before equalisation, > 0.
    """
    gains = channel[DATA]
    power = np.maximum(np.abs(gains) ** 2, np.float32(1e-9))
    weights = (np.conj(gains) / power).astype(np.complex64)
    return grid[:, DATA] * weights, (noise_variance / power).astype(np.float32)
