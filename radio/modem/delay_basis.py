"""What a channel of limited delay can look like over the used subcarriers: orthonormal bases of
delay windows."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio.modem import ofdm

Basis = NDArray[np.complex64]
"""Orthonormal columns, complex64[200, rank]."""

MAX_DELAY: Final = ofdm.CP_SAMPLES
_WINDOW_LENGTHS: Final = (2, 5, 9, 14, 20, MAX_DELAY)
_FLAT: Final = 3e-4
"""Singular values below this share of the largest are left out: what that loses lies 60 dB down."""


@lru_cache(maxsize=1)
def whole() -> Basis:
    """Basis of every delay 0..32 samples after the receiver's window began."""
    return _basis(0.0, MAX_DELAY)


@lru_cache(maxsize=1)
def windows() -> tuple[Basis, ...]:
    """Bases of windows of delay of several lengths and places, whole() last, smaller ranks first
    within a place."""
    found: list[Basis] = []
    for length in _WINDOW_LENGTHS[:-1]:
        firsts = range(0, MAX_DELAY - length + 1, 1 if length < 9 else 2)
        found += [_basis(float(first), length) for first in firsts]
    return (*found, whole())


@lru_cache(maxsize=1)
def window_coordinates() -> tuple[Basis, NDArray[np.intp], NDArray[np.intp]]:
    """All windows as seen from whole().

    Returns:
        complex64[sum of ranks, rank of whole()]: takes coordinates in whole() to those in every
        window, one after the other; intp[n]: where each window's begin; intp[n]: their ranks.
    """
    ranks = np.array([basis.shape[1] for basis in windows()])
    stacked = np.concatenate([basis.conj().T @ whole() for basis in windows()])
    return np.ascontiguousarray(stacked), np.cumsum(ranks) - ranks, ranks


def _basis(first: float, length: float) -> Basis:
    delays = np.linspace(first, first + length, 2 * MAX_DELAY + 1)
    responses = np.exp(-2j * np.pi * np.outer(ofdm.USED, delays) / ofdm.N_FFT)
    basis, values, _ = np.linalg.svd(responses, full_matrices=False)
    return np.ascontiguousarray(basis[:, values > _FLAT * values[0]], np.complex64)
