"""Modulation: Gray constellations, the max-log demapper, and the choice between them.

Es = 1. Bits and levels follow 3GPP TS 38.211 §5.1 (QPSK, 16-QAM): even bits steer the in-phase axis, odd bits the
quadrature axis. An LLR is positive for a 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from radio.ofdm import Grid

Bits = NDArray[np.uint8]
"""Bits 0 or 1, one a byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcs:
    """A modulation and coding scheme.

    Attributes:
        name: as reports print it.
        bits_per_symbol: 2 (QPSK) or 4 (16-QAM).
        code_rate: information bits per modulated bit, 0..1.
        threshold_db: Es/N0 at which 10 % of the data blocks are lost.
    """

    name: str
    bits_per_symbol: int
    code_rate: float
    threshold_db: float


# thresholds measured in loopback, 1,600 blocks a point and MCS:
#   python -m calibration.snr --bursts 400 --low 10 --high 13 --step 0.25    (QPSK 11.77 dB)
#   python -m calibration.snr --bursts 400 --low 17 --high 20 --step 0.25    (16-QAM 18.64 dB)
MCS_TABLE: Final = (
    Mcs(name="QPSK", bits_per_symbol=2, code_rate=1.0, threshold_db=11.8),
    Mcs(name="16-QAM", bits_per_symbol=4, code_rate=1.0, threshold_db=18.6),
)
"""Rising in rate; a burst header names an entry by its place."""

IMPLEMENTATION_LOSS_DB: Final = 0.4
"""What channel estimate and phase tracking cost against known-channel theory."""

_A16: Final = float(1 / np.sqrt(10))


def map_bits(bits: Bits, bits_per_symbol: int) -> NDArray[np.complex64]:
    """Symbols complex64[len(bits) / bits_per_symbol] of unit mean energy."""
    signs = (1.0 - 2.0 * bits.reshape(-1, bits_per_symbol)).astype(np.float32)
    if bits_per_symbol == 2:
        axes = signs * np.float32(np.sqrt(0.5))
    else:
        axes = signs[:, :2] * (2.0 - signs[:, 2:]) * np.float32(_A16)
    return np.ascontiguousarray(axes, np.float32).view(np.complex64)[:, 0]


def demap(symbols: Grid, noise_variance: NDArray[np.float32], bits_per_symbol: int) -> NDArray[np.float32]:
    """Max-log LLRs float32[symbols.size * bits_per_symbol], positive for 0, in the order of map_bits.

    Args:
        symbols: equalised, any shape.
        noise_variance: N0 of each symbol, > 0; broadcasts against `symbols`.
        bits_per_symbol: 2 or 4.
    """
    scale = np.broadcast_to(1 / np.asarray(noise_variance, np.float32), symbols.shape).reshape(-1, 1)
    axes = np.ascontiguousarray(symbols, np.complex64).reshape(-1, 1).view(np.float32)
    if bits_per_symbol == 2:
        return np.asarray(axes * (scale * np.float32(8**0.5)), np.float32).ravel()
    a = np.float32(_A16)
    magnitude = np.abs(axes)
    # beyond the outer decision line the nearest level of the other sign stays at ∓a, the own one moves to ±3a
    sign_metric = 4 * a * axes + np.copysign(np.maximum(4 * a * (magnitude - 2 * a), 0), axes)
    llrs = np.concatenate([sign_metric, 4 * a * (2 * a - magnitude)], axis=1) * scale
    return np.asarray(llrs, np.float32).ravel()


def slice_llrs(llrs: NDArray[np.float32]) -> Bits:
    """Hard decisions, 0 or 1."""
    return (llrs < 0).astype(np.uint8)


def bit_error_rate(mcs: Mcs, snr_db: float) -> float:
    """Theory for the uncoded constellation over AWGN at Es/N0 = snr_db (Proakis, Digital Communications, §4.3)."""
    gamma = 10 ** (snr_db / 10)
    if mcs.bits_per_symbol == 2:
        return float(erfc(np.sqrt(gamma / 2)) / 2)
    q = [erfc(k * np.sqrt(gamma / 10)) / 2 for k in (1, 3, 5)]
    return float((3 * q[0] + 2 * q[1] - q[2]) / 4)


def block_error_rate(mcs: Mcs, snr_db: float, block_bits: int) -> float:
    """Expected share of lost blocks, 0..1, at a measured Es/N0."""
    rate = bit_error_rate(mcs, snr_db - IMPLEMENTATION_LOSS_DB)
    return float(-np.expm1(block_bits * np.log1p(-rate)))


def choose(snr_db: float, margin_db: float) -> Mcs:
    """The fastest entry whose threshold lies at or below snr_db - margin_db; the slowest if there is none."""
    fitting = [mcs for mcs in MCS_TABLE if mcs.threshold_db <= snr_db - margin_db]
    return fitting[-1] if fitting else MCS_TABLE[0]


@dataclass(slots=True)
class Adaptation:
    """The choice of MCS from measured SNR, with an outer loop on the block errors.

    Losses above the target widen the margin, few losses let it return to its start: a channel worse than its SNR says
    (fading, interference) is met with the slower scheme.

    Attributes:
        margin_db: taken off the measured SNR before the table is read.
    """

    margin_db: float = field(default=0.0)

    TARGET: Final = 0.1
    STEP_DB: Final = 2.0
    MAX_MARGIN_DB: Final = 4.0

    def choose(self, snr_db: float) -> Mcs:
        """The MCS for the next blocks."""
        return choose(snr_db, self.margin_db)

    def observe(self, block_error_rate: float) -> None:
        """Learn from the share of blocks lost, 0..1, in the last window."""
        step = self.STEP_DB * (block_error_rate - self.TARGET)
        self.margin_db = float(np.clip(self.margin_db + step, 0.0, self.MAX_MARGIN_DB))
