"""What no code can beat: Shannon's limit, and the normal approximation for blocks of finite length.

Rates are bits per complex symbol of the Gaussian channel with Es/N0 = snr; the channel is used n
times a block.
Source: Polyanskiy, Poor and Verdu, Channel coding rate in the finite blocklength regime, IEEE
Trans. Inf. Theory 56(5), 2010, equations 223 and 293; for a constellation the same with mean and
variance of its information density.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq

from hil.contract import Floats
from radio.modem import qam

_NODES = 64
"""Nodes of the Gauss-Hermite quadrature over the noise."""
_SEARCH_DB = (-25.0, 45.0)


def capacity(snr_db: ArrayLike) -> Floats:
    """Shannon's capacity log2(1 + snr), bits per symbol."""
    return np.log2(1 + 10 ** (np.asarray(snr_db, np.float64) / 10))


def shannon_limit_db(rate: float) -> float:
    """The SNR in dB at which capacity equals `rate` bits per symbol."""
    return float(10 * np.log10(2.0**rate - 1))


def gaussian_rate(snr_db: float, n: int, bler: float) -> float:
    """Bits per symbol at a block error rate, n symbols a block, any input of that power."""
    snr = 10 ** (snr_db / 10)
    dispersion = snr * (snr + 2) / (snr + 1) ** 2 * np.log2(np.e) ** 2
    return _normal_approximation(float(np.log2(1 + snr)), float(dispersion), n, bler)


def qam_rate(snr_db: float, n: int, bler: float, bits_per_symbol: int) -> float:
    """The same for equally likely points of QPSK to 256-QAM."""
    information, dispersion = information_density(snr_db, bits_per_symbol)
    return _normal_approximation(information, dispersion, n, bler)


def _normal_approximation(information: float, dispersion: float, n: int, bler: float) -> float:
    backoff = np.sqrt(dispersion / n) * stats.norm.isf(bler)
    return float(information - backoff + np.log2(n) / (2 * n))


def finite_length_db(rate: float, n: int, bler: float, bits_per_symbol: int | None = None) -> float:
    """The SNR in dB that n symbols a block need at least, in the normal approximation.

    Args:
        rate: bits per symbol, below bits_per_symbol.
        n: symbols of a block.
        bler: share of blocks lost, 0..1.
        bits_per_symbol: the constellation's; None: any input.
    """

    def excess(snr_db: float) -> float:
        if bits_per_symbol is None:
            return gaussian_rate(snr_db, n, bler) - rate
        return qam_rate(snr_db, n, bler, bits_per_symbol) - rate

    return float(brentq(excess, *_SEARCH_DB, xtol=1e-3))


@lru_cache(maxsize=4096)
def information_density(snr_db: float, bits_per_symbol: int) -> tuple[float, float]:
    """Mean (bits) and variance (bits squared) of the information density between a QAM symbol and
    what is received.

    Both axes are alike and independent, so that one is integrated and counted twice.
    """
    levels = np.sort(qam.axis_levels(bits_per_symbol).astype(np.float64))
    sigma = np.sqrt(10 ** (-snr_db / 10) / 2)
    nodes, weights = np.polynomial.hermite.hermgauss(_NODES)
    received = levels[:, None] + np.sqrt(2) * sigma * nodes
    distance = (received[:, :, None] - levels) ** 2 / (2 * sigma**2)
    exponent = distance.min(axis=2)
    mixture = np.exp(exponent[:, :, None] - distance).mean(axis=2)
    density = (exponent - nodes**2 - np.log(mixture)) / np.log(2)
    weight = np.broadcast_to(weights / np.sqrt(np.pi) / len(levels), density.shape)
    information = float(np.sum(weight * density))
    variance = float(np.sum(weight * (density - information) ** 2))
    return 2 * information, 2 * variance
