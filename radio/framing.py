"""From blocks of a payload to a burst's samples, and back from a burst that was found.

A burst is preamble, header, data. The header (24 bytes, CRC-16) is sent as QPSK, 16 times over 8 symbols, each copy
turned to other subcarriers; copies are combined by their LLRs. Data blocks have 1,152 modulated bits each and name
themselves: index, payload, CRC-32 seeded with the payload's tag. So any set of holes fits one burst, and a block of
another payload never passes.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio import mcs, ofdm, sync
from radio.pn import pn_bits

VERSION: Final = 1

# ------------------------------------------------------------------ layout of a block: change it here and nowhere else
BLOCK_BYTES: Final = 144
BLOCK_BITS: Final = 8 * BLOCK_BYTES
INDEX_BYTES: Final = 2
CRC_BYTES: Final = 4
BLOCK_PAYLOAD_BYTES: Final = BLOCK_BYTES - INDEX_BYTES - CRC_BYTES
MAX_BLOCKS: Final = 2 ** (8 * INDEX_BYTES) - 1
MAX_PAYLOAD_BYTES: Final = MAX_BLOCKS * BLOCK_PAYLOAD_BYTES
MAX_BLOCKS_PER_BURST: Final = 128

# -------------------------------------------------------------------------------------------------- layout of a header
_HEADER: Final = struct.Struct(">BIHHHI7s")
"""version and MCS (4 bits each), session, burst number, first block, block count, payload length, tag."""
HEADER_BYTES: Final = _HEADER.size + 2
TAG_BYTES: Final = 7
HEADER_SYMBOLS: Final = 8
HEADER_BITS_ON_AIR: Final = HEADER_SYMBOLS * ofdm.N_DATA * 2
_COPY_SYMBOLS: Final = HEADER_BYTES * 8 // 2
_N_COPIES: Final = HEADER_SYMBOLS * ofdm.N_DATA // _COPY_SYMBOLS

HEAD_SAMPLES: Final = sync.PREAMBLE_SAMPLES + HEADER_SYMBOLS * ofdm.SYMBOL_SAMPLES
"""Samples of a burst without data: a sounding burst."""

_SPREAD: Final = np.arange(ofdm.N_DATA) * 77 % ofdm.N_DATA
"""Order in which an OFDM symbol's data subcarriers are filled: neighbours in a block lie far apart in frequency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstHeader:
    """What a burst says of itself.

    Attributes:
        session: number of the session, 0..2^32 - 1.
        burst: number of the burst in its session, 0..65535.
        mcs: place in mcs.MCS_TABLE.
        first_block: lowest index among its blocks; 0 without blocks.
        block_count: data blocks in it; 0 is a sounding burst.
        payload_bytes: length of the session's payload; 0 while it has none.
        tag: first 7 bytes of the payload's SHA-256; zeros while there is none.
    """

    session: int
    burst: int
    mcs: int
    first_block: int
    block_count: int
    payload_bytes: int
    tag: bytes

    @property
    def n_symbols(self) -> int:
        """OFDM symbols after the preamble, header included."""
        return HEADER_SYMBOLS + data_symbols(self.block_count, mcs.MCS_TABLE[self.mcs])

    @property
    def n_samples(self) -> int:
        """Samples of the whole burst."""
        return sync.PREAMBLE_SAMPLES + self.n_symbols * ofdm.SYMBOL_SAMPLES

    def pack(self) -> bytes:
        """24 bytes with a CRC-16 (x^16 + x^12 + x^5 + 1, start 0xFFFF)."""
        body = _HEADER.pack(
            VERSION << 4 | self.mcs,
            self.session,
            self.burst,
            self.first_block,
            self.block_count,
            self.payload_bytes,
            self.tag,
        )
        return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")

    @classmethod
    def unpack(cls, packed: bytes) -> BurstHeader | None:
        """The header, or None if its CRC fails or it says what no sender says."""
        body, check = packed[: _HEADER.size], packed[_HEADER.size :]
        if len(packed) != HEADER_BYTES or binascii.crc_hqx(body, 0xFFFF) != int.from_bytes(check, "big"):
            return None
        kind, session, burst, first_block, block_count, payload_bytes, tag = _HEADER.unpack(body)
        if (
            kind >> 4 != VERSION
            or kind & 0xF >= len(mcs.MCS_TABLE)
            or block_count > MAX_BLOCKS_PER_BURST
            or payload_bytes > MAX_PAYLOAD_BYTES
            or first_block >= max(1, block_count_of(payload_bytes))
        ):
            return None
        return cls(
            session=session,
            burst=burst,
            mcs=kind & 0xF,
            first_block=first_block,
            block_count=block_count,
            payload_bytes=payload_bytes,
            tag=tag,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A burst ready to send."""

    header: BurstHeader
    iq: IQ


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSection:
    """What a burst's data symbols said.

    Attributes:
        blocks: index → payload bytes of the blocks whose CRC passed.
        passed: bool[n], by place in the burst; n < block_count if the burst was cut.
        packed: uint8[n, 144], hard decisions on each block.
    """

    blocks: dict[int, bytes]
    passed: NDArray[np.bool_]
    packed: NDArray[np.uint8]


def block_count_of(payload_bytes: int) -> int:
    """Data blocks of a payload."""
    return -(-payload_bytes // BLOCK_PAYLOAD_BYTES)


def data_symbols(block_count: int, scheme: mcs.Mcs) -> int:
    """OFDM symbols that the blocks fill; the last one may be padded."""
    return -(-block_count * BLOCK_BITS // (ofdm.N_DATA * scheme.bits_per_symbol))


MAX_BURST_SAMPLES: Final = (
    HEAD_SAMPLES + max(data_symbols(MAX_BLOCKS_PER_BURST, scheme) for scheme in mcs.MCS_TABLE) * ofdm.SYMBOL_SAMPLES
)
"""Samples of the longest burst."""


# ---------------------------------------------------------------------------------------------------------------- send


def build_burst(header: BurstHeader, payload: bytes, indices: Sequence[int]) -> Burst:
    """A burst with the named blocks of the payload.

    Args:
        header: its block_count equals len(indices).
        payload: the whole payload.
        indices: blocks, in any order, without gaps or with.
    """
    grid = modulated_header(header)
    if len(indices):
        packed = pack_blocks(payload, indices, header.tag)
        grid = np.concatenate([grid, modulated_data(packed, mcs.MCS_TABLE[header.mcs])])
    return Burst(header=header, iq=np.concatenate([sync.PREAMBLE, ofdm.modulate(grid)]))


def pack_blocks(payload: bytes, indices: Sequence[int], tag: bytes) -> NDArray[np.uint8]:
    """Blocks before scrambling, uint8[len(indices), 144]; the payload's last block is filled up with zeros."""
    seed = zlib.crc32(tag)
    rows = bytearray()
    for index in indices:
        begin = index * BLOCK_PAYLOAD_BYTES
        body = index.to_bytes(INDEX_BYTES, "big") + payload[begin : begin + BLOCK_PAYLOAD_BYTES]
        body = body.ljust(INDEX_BYTES + BLOCK_PAYLOAD_BYTES, b"\0")
        rows += body + zlib.crc32(body, seed).to_bytes(CRC_BYTES, "big")
    return np.frombuffer(bytes(rows), np.uint8).reshape(len(indices), BLOCK_BYTES)


def modulated_data(packed: NDArray[np.uint8], scheme: mcs.Mcs) -> ofdm.Grid:
    """Data symbols complex64[n_symbols, 192] of packed blocks uint8[n, 144], scrambled and spread over frequency."""
    bits = np.unpackbits(packed)
    room = data_symbols(len(packed), scheme) * ofdm.N_DATA * scheme.bits_per_symbol
    bits = np.concatenate([bits, np.zeros(room - len(bits), np.uint8)]) ^ pn_bits(room)
    grid = np.empty((room // (ofdm.N_DATA * scheme.bits_per_symbol), ofdm.N_DATA), np.complex64)
    grid[:, _SPREAD] = mcs.map_bits(bits, scheme.bits_per_symbol).reshape(grid.shape)
    return grid


def _copy_places() -> NDArray[np.intp]:
    """Which header symbol each of the 8 x 192 places carries, intp[1536]: every copy starts elsewhere in frequency."""
    copies = np.arange(_N_COPIES)[:, None]
    return ((np.arange(_COPY_SYMBOLS)[None, :] + 37 * copies) % _COPY_SYMBOLS).ravel()


_COPY_PLACES: Final = _copy_places()
_HEADER_PN: Final = pn_bits(HEADER_BITS_ON_AIR)


def modulated_header(header: BurstHeader) -> ofdm.Grid:
    """The header's symbols, complex64[8, 192]."""
    pairs = np.unpackbits(np.frombuffer(header.pack(), np.uint8)).reshape(_COPY_SYMBOLS, 2)
    bits = pairs[_COPY_PLACES].ravel() ^ _HEADER_PN
    return mcs.map_bits(bits, 2).reshape(HEADER_SYMBOLS, ofdm.N_DATA)


# ------------------------------------------------------------------------------------------------------------- receive


def read_header(symbols: ofdm.Grid, noise_variance: NDArray[np.float32]) -> BurstHeader | None:
    """The header from equalised symbols complex64[8, 192] with noise float32[192], or None if it does not pass."""
    llrs = mcs.demap(symbols, noise_variance, 2) * (1 - 2 * _HEADER_PN.astype(np.float32))
    total = np.zeros((_COPY_SYMBOLS, 2), np.float32)
    np.add.at(total, _COPY_PLACES, llrs.reshape(-1, 2))
    return BurstHeader.unpack(np.packbits(mcs.slice_llrs(total.ravel())).tobytes())


def read_blocks(symbols: ofdm.Grid, noise_variance: NDArray[np.float32], header: BurstHeader) -> DataSection:
    """The blocks whose CRC passes, from equalised data symbols; a cut burst has fewer symbols than the header says.

    Args:
        symbols: complex64[n, 192], n ≤ header.n_symbols - HEADER_SYMBOLS.
        noise_variance: float32[192], N0 of each subcarrier after equalisation.
        header: the burst's.
    """
    scheme = mcs.MCS_TABLE[header.mcs]
    llrs = mcs.demap(symbols[:, _SPREAD], noise_variance[_SPREAD], scheme.bits_per_symbol)
    whole = min(header.block_count, len(llrs) // BLOCK_BITS)
    bits = mcs.slice_llrs(llrs[: whole * BLOCK_BITS]) ^ pn_bits(whole * BLOCK_BITS)
    packed = np.packbits(bits).reshape(whole, BLOCK_BYTES)
    passed = np.zeros(whole, np.bool_)
    blocks: dict[int, bytes] = {}
    seed = zlib.crc32(header.tag)
    n_blocks = block_count_of(header.payload_bytes)
    for place, row in enumerate(packed):
        block = row.tobytes()
        body = block[:-CRC_BYTES]
        index = int.from_bytes(body[:INDEX_BYTES], "big")
        if index < n_blocks and zlib.crc32(body, seed) == int.from_bytes(block[-CRC_BYTES:], "big"):
            passed[place] = True
            blocks[index] = body[INDEX_BYTES:]
    return DataSection(blocks=blocks, passed=passed, packed=packed)


def known_data(section: DataSection, header: BurstHeader) -> tuple[ofdm.Grid, NDArray[np.bool_]]:
    """What was sent in the data symbols as far as CRCs vouch for it.

    Returns:
        complex64[n, 192] symbols modulated anew, and bool[n, 192]: True where they belong to a block that passed.
    """
    scheme = mcs.MCS_TABLE[header.mcs]
    grid = modulated_data(section.packed, scheme)
    sure = np.zeros(grid.size, np.bool_)
    per_block = BLOCK_BITS // scheme.bits_per_symbol
    sure[: len(section.passed) * per_block] = np.repeat(section.passed, per_block)
    mask = np.empty(grid.shape, np.bool_)
    mask[:, _SPREAD] = sure.reshape(grid.shape)
    return grid, mask
