"""One module's directions ⇄ rows of bytes: uniform coefficients, one float32 scale per direction.

A row is one direction: its scale (float32), the coefficients of b's column, the coefficients of a's
row. Either vector is padded to whole bytes, so a direction of one module always has the same
length. The rank-1 term of a row is scale · q_b ⊗ q_a; every step is an elementwise IEEE 754
operation or an integer sum, so all machines agree on each bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hil.contract import CodecError, ConfigError, LowRankFactors

COEFFICIENT_BITS = (4, 8)
SCALE_BYTES = 4
_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecTarget:
    """The quality that a payload is encoded with.

    Attributes:
        coefficient_bits: bits per coefficient of a direction, 4 or 8.
    """

    coefficient_bits: int

    def __post_init__(self) -> None:
        if self.coefficient_bits not in COEFFICIENT_BITS:
            raise ConfigError(
                f"coefficient_bits = {self.coefficient_bits}: the codec knows 4 and 8"
            )


def row_bytes(shape: tuple[int, int], bits: int) -> int:
    """Bytes of one direction of a module of shape (d_out, d_in)."""
    return SCALE_BYTES + sum(_vector_bytes(length, bits) for length in shape)


def quantise(factors: LowRankFactors, bits: int) -> NDArray[np.uint8]:
    """Rows of one module, uint8[r, row_bytes].

    A direction whose scale would lie below the smallest normal float32 is sent as zero.

    Raises:
        CodecError: a value that is not finite, or a direction too large for a float32 scale.
    """
    b, a = factors.b.T.astype(np.float64), factors.a.astype(np.float64)
    peak_b, peak_a = np.abs(b).max(axis=1), np.abs(a).max(axis=1)
    if not (np.isfinite(peak_b).all() and np.isfinite(peak_a).all()):
        raise CodecError(
            "a factor holds a value that is not finite; the training that made it has diverged"
        )
    limit = _limit(bits)
    scale = (peak_b / limit) * (peak_a / limit)
    if (scale > _HUGE).any():
        raise CodecError(
            f"direction {int(scale.argmax())} has scale {scale.max():.3g}, beyond float32's "
            f"{_HUGE:.3g}"
        )
    alive = scale >= _TINY
    sent_scale = np.where(alive, scale, 0.0).astype("<f4")
    return np.concatenate(
        [
            sent_scale[:, np.newaxis].view(np.uint8),
            _pack(_to_integers(b, peak_b, alive, limit), bits),
            _pack(_to_integers(a, peak_a, alive, limit), bits),
        ],
        axis=1,
    )


def dequantise(
    rows: NDArray[np.uint8], shape: tuple[int, int], bits: int, where: str
) -> LowRankFactors:
    """One module's factors from its rows, balanced: the two vectors of a direction have equal norm.

    Args:
        rows: uint8[r, row_bytes].
        shape: (d_out, d_in).
        bits: per coefficient, 4 or 8.
        where: opens the message of an error.
    Raises:
        CodecError: rows that no encoder writes.
    """
    split = SCALE_BYTES + _vector_bytes(shape[0], bits)
    with np.errstate(
        invalid="ignore"
    ):  # widening a signalling NaN warns; it is refused below like any other
        scale = rows[:, :SCALE_BYTES].copy().view("<f4")[:, 0].astype(np.float64)
    q_b = _unpack(rows[:, SCALE_BYTES:split], shape[0], bits, where)
    q_a = _unpack(rows[:, split:], shape[1], bits, where)
    norm_b, norm_a = _squared_norm(q_b), _squared_norm(q_a)
    wrong = (
        ~np.isfinite(scale)
        | np.signbit(scale)
        | ((scale > 0) != (norm_b > 0))
        | ((scale > 0) != (norm_a > 0))
    )
    if wrong.any():
        row = int(wrong.argmax())
        raise CodecError(
            f"{where}: direction {row} has scale {scale[row]:.3g} with squared coefficient norms "
            f"{norm_b[row]} and {norm_a[row]}; all three must be positive, or all zero"
        )
    ratio = np.sqrt(np.maximum(norm_a, 1) / np.maximum(norm_b, 1))
    b = np.sqrt(scale * ratio)[:, np.newaxis] * q_b
    a = np.sqrt(scale / ratio)[:, np.newaxis] * q_a
    return LowRankFactors(a=a.astype(np.float32), b=np.ascontiguousarray(b.T, dtype=np.float32))


def _limit(bits: int) -> int:
    """Largest coefficient; the range is symmetric, so the most negative code is never used."""
    return int(2 ** (bits - 1)) - 1


def _vector_bytes(length: int, bits: int) -> int:
    return (length * bits + 7) // 8


def _to_integers(
    vectors: NDArray[np.float64], peak: NDArray[np.float64], alive: NDArray[np.bool_], limit: int
) -> NDArray[np.int8]:
    """Each row divided by its own peak and rounded, half to even, to -limit..limit; zero where not
    alive."""
    safe_peak = np.where(alive, peak, 1.0)[:, np.newaxis]
    return np.where(alive[:, np.newaxis], np.rint(vectors / safe_peak * limit), 0).astype(np.int8)


def _pack(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Two's complement; of two 4-bit coefficients the first sits in the low half of the byte."""
    codes = integers.view(np.uint8)
    if bits == 8:
        return codes
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    pairs: NDArray[np.uint8] = (codes[:, 0::2] & np.uint8(0x0F)) | (codes[:, 1::2] << np.uint8(4))
    return pairs


def _unpack(codes: NDArray[np.uint8], length: int, bits: int, where: str) -> NDArray[np.int8]:
    """The opposite of _pack; int8[r, length]."""
    if bits == 8:
        integers = codes.view(np.int8)
    else:
        halves = np.stack([codes & 0x0F, codes >> 4], axis=2).reshape(len(codes), -1)
        integers = (halves ^ 8).view(np.int8) - np.int8(8)
        if integers[:, length:].any():
            raise CodecError(
                f"{where}: the padding after a vector of {length} coefficients is not zero"
            )
        integers = integers[:, :length]
    lowest, limit = int(integers.min()), _limit(bits)
    if lowest < -limit:
        raise CodecError(f"{where}: coefficient {lowest} lies outside -{limit}..{limit}")
    return integers


def _squared_norm(integers: NDArray[np.int8]) -> NDArray[np.int64]:
    norms: NDArray[np.int64] = np.square(integers, dtype=np.int64).sum(axis=1)
    return norms
