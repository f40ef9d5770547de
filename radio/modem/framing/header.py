"""What a burst says of itself: the fields, their packing, and the length of a burst on the air."""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from typing import Final

from hil.rounding import ceil_div
from radio.modem import ofdm, preamble
from radio.modem.framing.blocks import (
    LONG,
    MAX_PAYLOAD_BYTES,
    MAX_REPAIR_BLOCKS,
    Layout,
    block_count_of,
    layout_of,
)
from radio.modem.mcs import MCS_TABLE, Mcs

VERSION: Final = 2
MAX_BURST_SAMPLES: Final = 2**20

_HEADER: Final = struct.Struct(">BIHHHBI6s")
"""version (3 bits) and MCS (5 bits), session, burst, basis, first, block count, payload length,
tag."""
HEADER_BYTES: Final = _HEADER.size + 2
TAG_BYTES: Final = 6
_HEADER_SYMBOLS: Final = {False: 4, True: 8}


def header_symbols(robust: bool) -> int:
    """OFDM symbols of a header; twice as many behind the repeated preamble."""
    return _HEADER_SYMBOLS[robust]


def data_symbols(block_count: int, mcs: Mcs, layout: Layout = LONG) -> int:
    """OFDM symbols that the blocks fill; the last one may be padded."""
    return ceil_div(block_count * layout.coded_bits(mcs), ofdm.N_DATA * mcs.bits_per_symbol)


def burst_samples(
    block_count: int, mcs: Mcs, layout: Layout = LONG, *, robust: bool | None = None
) -> int:
    """Samples of a burst, preamble and header included.

    Args:
        block_count: data blocks; 0 for a sounding.
        mcs: the data blocks' MCS.
        layout: the payload's.
        robust: True behind the repeated preamble; None = as the MCS needs it.
    """
    robust = mcs.robust if robust is None else robust
    n_symbols = header_symbols(robust) + (
        data_symbols(block_count, mcs, layout) if block_count else 0
    )
    return len(preamble.samples(robust)) + n_symbols * ofdm.SYMBOL_SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstHeader:
    """What a burst says of itself.

    The blocks it carries are block_count members, from place `first` on, of a list: the source
    blocks that the feedback number `basis` showed as missing, rising (basis 0: all of them), then
    the payload's repair blocks.

    Attributes:
        session: number of the session, 0..2^32 - 1.
        burst: number of the burst in its session, 0..65535.
        mcs: the MCS of its data blocks; packed as its place in the table.
        basis: low 16 bits of a feedback's sequence number, 0 for none.
        first: place in the list.
        block_count: data blocks in it; 0 is a sounding burst.
        payload_bytes: length of the session's payload; 0 while it has none.
        tag: first 6 bytes of the payload's SHA-256; zeros while there is none.
        robust: True behind the repeated preamble; not packed, the preamble says it.
    """

    session: int
    burst: int
    mcs: Mcs
    basis: int
    first: int
    block_count: int
    payload_bytes: int
    tag: bytes
    robust: bool = False

    @property
    def layout(self) -> Layout:
        """The layout of its session's blocks."""
        return layout_of(self.payload_bytes)

    @property
    def n_symbols(self) -> int:
        """OFDM symbols after the preamble, header included."""
        return (self.n_samples - len(preamble.samples(self.robust))) // ofdm.SYMBOL_SAMPLES

    @property
    def n_samples(self) -> int:
        """Samples of the whole burst."""
        return burst_samples(self.block_count, self.mcs, self.layout, robust=self.robust)

    def pack(self) -> bytes:
        """24 bytes with a CRC-16 (x^16 + x^12 + x^5 + 1, start 0xFFFF)."""
        body = _HEADER.pack(
            VERSION << 5 | self.mcs.place,
            self.session,
            self.burst,
            self.basis,
            self.first,
            self.block_count,
            self.payload_bytes,
            self.tag,
        )
        return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")

    @classmethod
    def unpack(cls, packed: bytes, *, robust: bool = False) -> BurstHeader | None:
        """The header, or None if its CRC fails or it says what no sender says."""
        body, check = packed[: _HEADER.size], packed[_HEADER.size :]
        if len(packed) != HEADER_BYTES or binascii.crc_hqx(body, 0xFFFF) != int.from_bytes(
            check, "big"
        ):
            return None
        kind, session, burst, basis, first, block_count, payload_bytes, tag = _HEADER.unpack(body)
        if (
            kind >> 5 != VERSION
            or kind & 0x1F >= len(MCS_TABLE)
            or payload_bytes > MAX_PAYLOAD_BYTES
            or first + block_count
            > (block_count_of(payload_bytes) + MAX_REPAIR_BLOCKS if payload_bytes else 0)
        ):
            return None
        header = cls(
            session=session,
            burst=burst,
            mcs=MCS_TABLE[kind & 0x1F],
            basis=basis,
            first=first,
            block_count=block_count,
            payload_bytes=payload_bytes,
            tag=tag,
            robust=robust,
        )
        return header if header.n_samples <= MAX_BURST_SAMPLES else None
