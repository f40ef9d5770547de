"""The blocks that a payload is cut into: their layout, their check bytes and their limits."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.rounding import ceil_div
from radio import ldpc
from radio.modem.mcs import Mcs

INDEX_BYTES: Final = 2
RESERVED_BYTES: Final = 16
"""Zeros for now: room for the tag of an authenticated cipher, in a block and in an answer."""
CRC_BYTES: Final = 3
MAX_REPAIR_BLOCKS: Final = 255
MAX_BLOCKS: Final = 2 ** (8 * INDEX_BYTES) - 1 - MAX_REPAIR_BLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a payload of some length is cut into blocks.

    Attributes:
        block_bytes: information bytes of a codeword.
        code: the LDPC code.
        max_code_rate: above this the code does not work; a faster MCS then keeps its modulation
            only.
    """

    block_bytes: int
    code: ldpc.LdpcCode
    max_code_rate: float

    @property
    def block_payload_bytes(self) -> int:
        """Payload bytes in a block."""
        return self.block_bytes - INDEX_BYTES - RESERVED_BYTES - CRC_BYTES

    def coded_bits(self, mcs: Mcs) -> int:
        """Bits of a block on the air, a whole number of symbols."""
        rate = min(mcs.code_rate, self.max_code_rate)
        # floats round some of the exact quotients up by one symbol: both ends agree on that
        return mcs.bits_per_symbol * -int(-8 * self.block_bytes // (rate * mcs.bits_per_symbol))


LONG: Final = Layout(block_bytes=1056, code=ldpc.code_for(8448, 1), max_code_rate=1.0)
"""Base graph 1 at its largest."""
SHORT: Final = Layout(block_bytes=160, code=ldpc.code_for(1280, 2), max_code_rate=2 / 3)
"""The layout of payloads that would leave most of a long block empty."""
SHORT_PAYLOAD_BYTES: Final = LONG.block_bytes // SHORT.block_bytes * SHORT.block_payload_bytes
MAX_PAYLOAD_BYTES: Final = MAX_BLOCKS * LONG.block_payload_bytes


def layout_of(payload_bytes: int) -> Layout:
    """The layout of a payload: short blocks where they take less air than one long block."""
    return SHORT if payload_bytes <= SHORT_PAYLOAD_BYTES else LONG


def block_count_of(payload_bytes: int) -> int:
    """Source blocks of a payload."""
    return ceil_div(payload_bytes, layout_of(payload_bytes).block_payload_bytes)


def split(payload: bytes) -> NDArray[np.uint8]:
    """Source blocks uint8[n, block_payload_bytes] of a payload; the last one is filled up with
    zeros."""
    size = layout_of(len(payload)).block_payload_bytes
    count = block_count_of(len(payload))
    return np.frombuffer(payload.ljust(count * size, b"\0"), np.uint8).reshape(count, size)


def pack_blocks(
    layout: Layout, tag: bytes, blocks: NDArray[np.uint8], indices: Sequence[int]
) -> NDArray[np.uint8]:
    """Information bytes uint8[k, block_bytes] of codewords: index, payload, reserve, check.

    Args:
        layout: the payload's.
        tag: the payload's.
        blocks: uint8[k, block_payload_bytes].
        indices: each block's place in its payload.
    """
    packed = np.zeros((len(indices), layout.block_bytes), np.uint8)
    packed[:, :INDEX_BYTES] = np.asarray(indices, ">u2").view(np.uint8).reshape(-1, INDEX_BYTES)
    packed[:, INDEX_BYTES : INDEX_BYTES + blocks.shape[1]] = blocks
    packed[:, -CRC_BYTES:] = check_bytes(tag, packed)
    return packed


def check_bytes(tag: bytes, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Check bytes uint8[k, 3]: CRC-24B, turned by the payload's tag so that no block of another
    payload passes."""
    crc = ldpc.crc24b(packed[:, :-CRC_BYTES]) ^ np.uint32(zlib.crc32(tag) & 0xFFFFFF)
    return crc.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
