"""QPSK to 256-QAM: bits to symbols, and back to soft values.

Constellations of 3GPP TS 38.211 §5.1.3-5.1.6: square, Gray, Es = 1; even bits steer the in-phase
axis, odd bits the quadrature axis. An LLR is positive for a 0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from radio.compiled import compiled

Bits = NDArray[np.uint8]
"""Bits 0 or 1, one a byte."""


@lru_cache(maxsize=4)
def axis_levels(bits_per_symbol: int) -> NDArray[np.float32]:
    """Level of one axis for each word of its bits (first bit highest), float32[2^(bits_per_symbol /
    2)]."""
    n = bits_per_symbol // 2
    words = np.arange(2**n)
    signs = 1 - 2 * (words[:, None] >> np.arange(n - 1, -1, -1) & 1)
    magnitude = np.ones(2**n)
    for place in range(n - 1, 0, -1):
        magnitude = 2.0 ** (n - place) - signs[:, place] * magnitude
    levels = signs[:, 0] * magnitude
    return np.asarray(levels / np.sqrt(2 * np.mean(levels**2)), np.float32)


@lru_cache(maxsize=4)
def _decision_tables(
    bits_per_symbol: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Levels in rising order [L]; for each of them and each bit the nearest level of the other
    value [L, n], and ±1 for a 0 or a 1 [L, n].

    Runs of equal bits in a Gray-labelled axis have even length, so that the nearest other level
    does not depend on where in the decision region of a level the sample lies.
    """
    levels = axis_levels(bits_per_symbol)
    n = bits_per_symbol // 2
    order = np.argsort(levels)
    rising = levels[order]
    bits = order[:, None] >> np.arange(n - 1, -1, -1) & 1
    other = np.empty((len(rising), n), np.float32)
    for place in range(len(rising)):
        for bit in range(n):
            rivals = rising[bits[:, bit] != bits[place, bit]]
            other[place, bit] = rivals[np.argmin(np.abs(rivals - rising[place]))]
    return rising, other, (1 - 2 * bits).astype(np.float32)


def map_bits(bits: Bits, bits_per_symbol: int) -> NDArray[np.complex64]:
    """Symbols complex64[len(bits) / bits_per_symbol] of unit mean energy.

    Args:
        bits: uint8[n], n a multiple of bits_per_symbol.
        bits_per_symbol: 2, 4, 6 or 8.
    """
    symbols = np.empty(len(bits) // bits_per_symbol, np.complex64)
    _map(np.ascontiguousarray(bits), axis_levels(bits_per_symbol), bits_per_symbol // 2, symbols)
    return symbols


@compiled()
def _map(bits, levels, n, symbols):  # type: ignore[no-untyped-def]
    for i in range(len(symbols)):
        real = imag = 0
        for j in range(n):
            real = real * 2 + bits[2 * (i * n + j)]
            imag = imag * 2 + bits[2 * (i * n + j) + 1]
        symbols[i] = complex(levels[real], levels[imag])


def demap(
    symbols: NDArray[np.complex64], noise_variance: NDArray[np.float32], bits_per_symbol: int
) -> NDArray[np.float32]:
    """Exact max-log LLRs in nats, float32[symbols.size * bits_per_symbol], in the order of
    map_bits.

    Args:
        symbols: equalised, any shape.
        noise_variance: N0 of each symbol, > 0; broadcasts against `symbols`.
        bits_per_symbol: 2, 4, 6 or 8.
    """
    scale = np.broadcast_to(1 / np.asarray(noise_variance, np.float32), symbols.shape)
    rising, other, signs = _decision_tables(bits_per_symbol)
    llrs = np.empty(symbols.size * bits_per_symbol, np.float32)
    axes = np.ascontiguousarray(symbols, np.complex64).reshape(-1).view(np.float32)
    _demap(axes, np.ascontiguousarray(scale).reshape(-1), rising, other, signs, llrs)
    return llrs


@compiled()
def _demap(axes, scale, rising, other, signs, llrs):  # type: ignore[no-untyped-def]
    n = other.shape[1]
    top = len(rising) - 1
    step = rising[1] - rising[0]
    for i in range(len(scale)):
        for axis in range(2):
            y = axes[2 * i + axis]
            place = int(
                min(max((y - rising[0]) / step + np.float32(0.5), np.float32(0)), np.float32(top))
            )
            near = rising[place]
            for j in range(n):
                far = other[place, j]
                # (y - far)² - (y - near)²
                distance = (near - far) * (2 * y - far - near)
                llrs[2 * (i * n + j) + axis] = signs[place, j] * distance * scale[i]
