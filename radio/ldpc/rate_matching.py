"""Which bits of the circular buffer are sent, in which order, and back (3GPP TS 38.212 §5.4.2).

Soft values: LLR > 0 means bit 0. Rate recovery turns float LLRs in nats into int16, LLR_PER_NAT to
a nat.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.compiled import compiled
from radio.ldpc.code import LdpcCode

LLR_PER_NAT: Final = 16
"""Steps of an int16 soft value in one nat."""

_MAX_LLR: Final = 32767
_LIMIT: Final = np.float32(_MAX_LLR)
_START_COLUMN: Final = {1: (0, 17, 33, 56), 2: (0, 13, 25, 43)}
"""Table 5.4.2.1-2: base column of the buffer at which each redundancy version starts."""


def rate_match(
    code: LdpcCode, buffer: NDArray[np.uint8], n_coded: int, bits_per_symbol: int, rv: int = 0
) -> NDArray[np.uint8]:
    """The bits on the air, uint8[n, n_coded], in the order of the modulator; past the buffer's end
    it starts anew.

    Args:
        code: the code.
        buffer: uint8[n, n_buffer] from encode.
        n_coded: bits to send for a block, a multiple of bits_per_symbol.
        bits_per_symbol: the modulation's, for the bit interleaver.
        rv: redundancy version 0 to 3.

    Raises:
        ConfigError: a shape, length or redundancy version that cannot be.
    """
    _check_shape("buffer", buffer.shape, code.n_buffer)
    return np.take(buffer, _order(code, n_coded, bits_per_symbol, rv), axis=1)


def rate_recover(
    code: LdpcCode, llr: NDArray[np.float32], bits_per_symbol: int, rv: int = 0
) -> NDArray[np.int16]:
    """The circular buffer's soft values, int16[n, n_buffer]: the inverse of rate_match.

    Copies of a bit are added up; a bit that was not sent is 0; filler bits are certain (32767).
    Values saturate at ±32767 and never wrap. An LLR that is NaN says nothing: it counts as 0.

    Args:
        code: the code.
        llr: float32[n, n_coded] in nats.
        bits_per_symbol: rate_match's.
        rv: rate_match's.

    Raises:
        ConfigError: a shape, length or redundancy version that cannot be.
    """
    if llr.ndim != 2:
        raise ConfigError(
            f"LDPC rate recovery got LLRs of shape {llr.shape}; expected (n, n_coded)"
        )
    order = _order(code, llr.shape[1], bits_per_symbol, rv)
    buffer = np.zeros((llr.shape[0], code.n_buffer), np.int16)
    buffer[:, code.filler_start : code.filler_start + code.n_fillers] = _MAX_LLR
    _gather(np.ascontiguousarray(llr, np.float32), order, buffer)
    return buffer


def combine(a: NDArray[np.int16], b: NDArray[np.int16]) -> NDArray[np.int16]:
    """Soft values of two receptions of the same blocks, added up: int16 of the same shape,
    saturating at ±32767.

    Args:
        a: int16[n, n_buffer] from rate_recover or combine.
        b: the same of another reception, at any redundancy version.

    Raises:
        ConfigError: shapes that differ.
    """
    if a.shape != b.shape:
        raise ConfigError(
            f"LDPC soft values of shapes {a.shape} and {b.shape} cannot be combined; they must be "
            "equal"
        )
    return np.clip(np.add(a, b, dtype=np.int32), -_MAX_LLR, _MAX_LLR).astype(np.int16)


@lru_cache(maxsize=64)
def _order(code: LdpcCode, n_coded: int, bits_per_symbol: int, rv: int) -> NDArray[np.int32]:
    """Place in the circular buffer of each bit on the air, int32[n_coded]."""
    if n_coded < 1 or bits_per_symbol < 1 or n_coded % bits_per_symbol:
        raise ConfigError(
            f"LDPC block of {n_coded} coded bits; must be whole symbols of {bits_per_symbol} bits"
        )
    if rv not in range(4):
        raise ConfigError(f"LDPC redundancy version is {rv}; there are 0 to 3")
    place = np.arange(code.n_buffer, dtype=np.int32)
    sendable = np.delete(place, slice(code.filler_start, code.filler_start + code.n_fillers))
    start = np.searchsorted(sendable, _START_COLUMN[code.base_graph][rv] * code.lifting_size)
    selected = np.resize(np.roll(sendable, -start), n_coded)
    order = np.ascontiguousarray(selected.reshape(bits_per_symbol, -1).T).ravel()
    order.flags.writeable = False
    return order


def _check_shape(name: str, shape: tuple[int, ...], width: int) -> None:
    if len(shape) != 2 or shape[1] != width:
        raise ConfigError(f"LDPC {name} has shape {shape}; expected (n, {width})")


@compiled()
def _gather(llr: NDArray[np.float32], order: NDArray[np.int32], buffer: NDArray[np.int16]) -> None:
    """Adds the LLRs of each block to what is in its buffer, in steps of the soft values."""
    total = np.empty(buffer.shape[1], np.float32)
    for block in range(llr.shape[0]):
        total[:] = buffer[block]
        for i in range(order.size):
            value = llr[block, i] * np.float32(LLR_PER_NAT)
            # limited one by one, so that infinities of both signs cannot add up to NaN
            if not np.isnan(value):
                total[order[i]] += min(max(value, -_LIMIT), _LIMIT)
        for place in range(total.size):
            buffer[block, place] = np.int16(np.rint(min(max(total[place], -_LIMIT), _LIMIT)))
