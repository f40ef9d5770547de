"""From blocks of a payload to a burst's samples, and back from a burst that was found.

A burst is preamble, header, data. The header (24 bytes, CRC-16) is QPSK under LDPC base graph 2,
spread over whole symbols until it survives below every data scheme. Data blocks are LDPC codewords
one after another, each spread over all subcarriers. A block names itself under its CRC, and the
header says where the burst's blocks stand in a list that both ends know, so that soft values of a
block that failed can be added to those of its next copy.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from hil.rounding import ceil_div
from radio import ldpc
from radio.modem import ofdm, qam, sync
from radio.modem.equaliser import Symbols
from radio.modem.mcs import MCS_TABLE, Mcs
from radio.modem.pn import pn_bits

_Value = TypeVar("_Value", np.complex64, np.bool_)

VERSION: Final = 2

# ------------------------------------------------------------------ layout of a block: change it
# here and nowhere else
INDEX_BYTES: Final = 2
RESERVED_BYTES: Final = 16
"""Zeros for now: room for the tag of an authenticated cipher."""
CRC_BYTES: Final = 3
MAX_REPAIR_BLOCKS: Final = 255
MAX_BLOCKS: Final = 2 ** (8 * INDEX_BYTES) - 1 - MAX_REPAIR_BLOCKS
MAX_BLOCKS_PER_BURST: Final = 255
MAX_BURST_SAMPLES: Final = 2**20

# -------------------------------------------------------------------------------------------------
# layout of a header
_HEADER: Final = struct.Struct(">BIHHHBI6s")
"""version (3 bits) and MCS (5 bits), session, burst, basis, first, block count, payload length,
tag."""
HEADER_BYTES: Final = _HEADER.size + 2
TAG_BYTES: Final = 6
_HEADER_SYMBOLS: Final = {False: 4, True: 8}

_SPREAD: Final = np.arange(ofdm.N_DATA) * 77 % ofdm.N_DATA
"""Order in which an OFDM symbol's data subcarriers are filled: neighbours in a block lie far apart
in frequency."""
_MAX_KNOWN_BLOCKS: Final = 4
"""Blocks that are coded anew to measure the channel by: more would cost time and tell little."""


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

    def coded_bits(self, scheme: Mcs) -> int:
        """Bits of a block on the air, a whole number of symbols."""
        rate = min(scheme.code_rate, self.max_code_rate)
        return scheme.bits_per_symbol * -int(
            -8 * self.block_bytes // (rate * scheme.bits_per_symbol)
        )


LONG: Final = Layout(block_bytes=1056, code=ldpc.code_for(8448, 1), max_code_rate=1.0)
"""Base graph 1 at its largest."""
SHORT: Final = Layout(block_bytes=160, code=ldpc.code_for(1280, 2), max_code_rate=2 / 3)
"""For payloads that would leave most of a long block empty."""
SHORT_PAYLOAD_BYTES: Final = LONG.block_bytes // SHORT.block_bytes * SHORT.block_payload_bytes
MAX_PAYLOAD_BYTES: Final = MAX_BLOCKS * LONG.block_payload_bytes
_HEADER_CODE: Final = ldpc.code_for(8 * HEADER_BYTES, 2)


def layout_of(payload_bytes: int) -> Layout:
    """The layout of a payload: short blocks where they take less air than one long block."""
    return SHORT if payload_bytes <= SHORT_PAYLOAD_BYTES else LONG


def block_count_of(payload_bytes: int) -> int:
    """Source blocks of a payload."""
    return ceil_div(payload_bytes, layout_of(payload_bytes).block_payload_bytes)


def header_symbols(robust: bool) -> int:
    """OFDM symbols of a header; twice as many behind the repeated preamble."""
    return _HEADER_SYMBOLS[robust]


def data_symbols(block_count: int, scheme: Mcs, layout: Layout = LONG) -> int:
    """OFDM symbols that the blocks fill; the last one may be padded."""
    return ceil_div(block_count * layout.coded_bits(scheme), ofdm.N_DATA * scheme.bits_per_symbol)


def burst_samples(block_count: int, scheme: Mcs, layout: Layout = LONG, *, robust: bool) -> int:
    """Samples of a burst, preamble and header included; without blocks a sounding."""
    n_symbols = header_symbols(robust) + (
        data_symbols(block_count, scheme, layout) if block_count else 0
    )
    return len(sync.preamble(robust)) + n_symbols * ofdm.SYMBOL_SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstHeader:
    """What a burst says of itself.

    The blocks it carries are block_count members, from place `first` on, of a list: the source
    blocks that the feedback number `basis` showed as missing, rising (basis 0: all of them), then
    the payload's repair blocks.

    Attributes:
        session: number of the session, 0..2^32 - 1.
        burst: number of the burst in its session, 0..65535.
        mcs: place in mcs.MCS_TABLE.
        basis: low 16 bits of a feedback's sequence number, 0 for none.
        first: place in the list.
        block_count: data blocks in it; 0 is a sounding burst.
        payload_bytes: length of the session's payload; 0 while it has none.
        tag: first 6 bytes of the payload's SHA-256; zeros while there is none.
        robust: behind the repeated preamble; not packed, the preamble says it.
    """

    session: int
    burst: int
    mcs: int
    basis: int
    first: int
    block_count: int
    payload_bytes: int
    tag: bytes
    robust: bool = False

    @property
    def scheme(self) -> Mcs:
        """Its entry of the table."""
        return MCS_TABLE[self.mcs]

    @property
    def layout(self) -> Layout:
        """Of its session's blocks."""
        return layout_of(self.payload_bytes)

    @property
    def n_symbols(self) -> int:
        """OFDM symbols after the preamble, header included."""
        return (self.n_samples - len(sync.preamble(self.robust))) // ofdm.SYMBOL_SAMPLES

    @property
    def n_samples(self) -> int:
        """Samples of the whole burst."""
        return burst_samples(self.block_count, self.scheme, self.layout, robust=self.robust)

    def pack(self) -> bytes:
        """24 bytes with a CRC-16 (x^16 + x^12 + x^5 + 1, start 0xFFFF)."""
        body = _HEADER.pack(
            VERSION << 5 | self.mcs,
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
            mcs=kind & 0x1F,
            basis=basis,
            first=first,
            block_count=block_count,
            payload_bytes=payload_bytes,
            tag=tag,
            robust=robust,
        )
        return header if header.n_samples <= MAX_BURST_SAMPLES else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A burst ready to send.

    Attributes:
        header: what it says of itself.
        indices: of its blocks in their payload, repair blocks from block_count_of(payload) on.
        iq: its samples.
    """

    header: BurstHeader
    indices: tuple[int, ...]
    iq: IQ


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedBlocks:
    """What the decoder made of a burst's blocks, by place in the burst.

    Attributes:
        index: int[k], as the block says; meaningless where it did not pass.
        payload: uint8[k, block_payload_bytes].
        passed: bool[k], the CRC agrees.
        packed: uint8[k, block_bytes], the whole blocks.
    """

    index: NDArray[np.intp]
    payload: NDArray[np.uint8]
    passed: NDArray[np.bool_]
    packed: NDArray[np.uint8]


# ------------------------------------------------------------------------------------------------
# send


def split(payload: bytes) -> NDArray[np.uint8]:
    """Source blocks uint8[n, block_payload_bytes] of a payload; the last one is filled up with
    zeros."""
    size = layout_of(len(payload)).block_payload_bytes
    count = block_count_of(len(payload))
    return np.frombuffer(payload.ljust(count * size, b"\0"), np.uint8).reshape(count, size)


def build_burst(header: BurstHeader, blocks: NDArray[np.uint8], indices: Sequence[int]) -> Burst:
    """A burst with these blocks.

    Args:
        header: its block_count equals len(indices).
        blocks: uint8[block_count, block_payload_bytes].
        indices: of each block in its payload, repair blocks from block_count_of(payload) on.
    """
    grid = burst_grid(header, blocks, indices)
    iq = np.concatenate([sync.preamble(header.robust), ofdm.modulate(grid)])
    return Burst(header=header, indices=tuple(indices), iq=iq)


def burst_grid(header: BurstHeader, blocks: NDArray[np.uint8], indices: Sequence[int]) -> ofdm.Grid:
    """Data symbols complex64[n_symbols, 192] of that burst, header first."""
    grid = _header_grid(header)
    if not header.block_count:
        return grid
    return np.concatenate([grid, _data_grid(header, _pack(header, blocks, indices))])


def _pack(
    header: BurstHeader, blocks: NDArray[np.uint8], indices: Sequence[int]
) -> NDArray[np.uint8]:
    packed = np.zeros((len(indices), header.layout.block_bytes), np.uint8)
    packed[:, :INDEX_BYTES] = np.asarray(indices, ">u2").view(np.uint8).reshape(-1, INDEX_BYTES)
    packed[:, INDEX_BYTES : INDEX_BYTES + blocks.shape[1]] = blocks
    packed[:, -CRC_BYTES:] = _check(header, packed)
    return packed


def _check(header: BurstHeader, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Check bytes uint8[k, 3]: CRC-24B, turned by the payload's tag so that no block of another
    payload passes."""
    crc = ldpc.crc24b(packed[:, :-CRC_BYTES]) ^ np.uint32(zlib.crc32(header.tag) & 0xFFFFFF)
    return crc.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]


def _coded_symbols(
    header: BurstHeader, packed: NDArray[np.uint8], places: Sequence[int]
) -> NDArray[np.complex64]:
    """Symbols complex64[k, symbols of a block] of blocks that stand at these places of the
    burst."""
    scheme, layout = header.scheme, header.layout
    n_coded = layout.coded_bits(scheme)
    buffer = ldpc.encode(layout.code, np.unpackbits(packed, axis=1))
    bits = ldpc.rate_match(layout.code, buffer, n_coded, scheme.bits_per_symbol)
    bits ^= _scrambling(header.block_count * n_coded).reshape(header.block_count, n_coded)[
        list(places)
    ]
    return qam.map_bits(bits.ravel(), scheme.bits_per_symbol).reshape(len(packed), -1)


@lru_cache(maxsize=8)
def _scrambling(n_bits: int) -> NDArray[np.uint8]:
    return pn_bits(n_bits)


def _data_grid(header: BurstHeader, packed: NDArray[np.uint8]) -> ofdm.Grid:
    stream = _coded_symbols(header, packed, range(header.block_count)).ravel()
    n_symbols = header.n_symbols - header_symbols(header.robust)
    padding = qam.map_bits(pn_bits(2 * (n_symbols * ofdm.N_DATA - len(stream))), 2)
    return _spread(np.concatenate([stream, padding]))


def _spread(stream: NDArray[_Value]) -> NDArray[_Value]:
    """Values in the order of sending, placed on the subcarriers of their symbols, [n, 192]."""
    grid = np.empty((len(stream) // ofdm.N_DATA, ofdm.N_DATA), stream.dtype)
    grid[:, _SPREAD] = stream.reshape(grid.shape)
    return grid


def _header_grid(header: BurstHeader) -> ofdm.Grid:
    bits = np.unpackbits(np.frombuffer(header.pack(), np.uint8))[None]
    n_coded = 2 * header_symbols(header.robust) * ofdm.N_DATA
    coded = ldpc.rate_match(_HEADER_CODE, ldpc.encode(_HEADER_CODE, bits), n_coded, 2)[0]
    return _spread(qam.map_bits(coded ^ pn_bits(n_coded), 2))


# ------------------------------------------------------------------------------------------------
# receive


def read_header(symbols: Symbols, *, robust: bool) -> BurstHeader | None:
    """The header from a burst's first symbols, or None if it does not pass or they are too few.

    Args:
        symbols: header_symbols(robust) of them or more.
        robust: as the preamble says.
    """
    n = header_symbols(robust)
    if len(symbols.data) < n:
        return None
    llrs = _llrs(symbols.data[:n], symbols.noise_variance[:n], 2)
    soft = ldpc.rate_recover(_HEADER_CODE, llrs[None], 2)
    return BurstHeader.unpack(
        np.packbits(ldpc.decode(_HEADER_CODE, soft).bits).tobytes(), robust=robust
    )


def _llrs(
    data: ofdm.Grid, noise_variance: NDArray[np.float32], bits_per_symbol: int
) -> NDArray[np.float32]:
    """Descrambled LLRs in the order in which they were sent."""
    llrs = qam.demap(data[:, _SPREAD], noise_variance[:, _SPREAD], bits_per_symbol)
    llrs *= _signs(len(llrs))
    return llrs


@lru_cache(maxsize=8)
def _signs(n_bits: int) -> NDArray[np.float32]:
    return 1 - 2 * pn_bits(n_bits).astype(np.float32)


def soft_blocks(symbols: Symbols, header: BurstHeader) -> NDArray[np.int16]:
    """Soft values int16[k, n_buffer] of the burst's blocks; k < block_count if the burst was cut.

    Args:
        symbols: of the burst from its first header symbol on.
        header: the burst's.
    """
    layout, scheme = header.layout, header.scheme
    skip = header_symbols(header.robust)
    n_coded = layout.coded_bits(scheme)
    data = symbols.data[skip:]
    whole = min(header.block_count, len(data) * ofdm.N_DATA * scheme.bits_per_symbol // n_coded)
    llrs = _llrs(data, symbols.noise_variance[skip:], scheme.bits_per_symbol)[: whole * n_coded]
    return ldpc.rate_recover(layout.code, llrs.reshape(whole, n_coded), scheme.bits_per_symbol)


def decode_blocks(soft: NDArray[np.int16], header: BurstHeader) -> DecodedBlocks:
    """Blocks int16[k, n_buffer] decoded and checked.

    Args:
        soft: from soft_blocks, or sums of several copies.
        header: of any burst of that payload.
    """
    packed = np.packbits(ldpc.decode(header.layout.code, soft).bits, axis=1)
    n_blocks = block_count_of(header.payload_bytes) + MAX_REPAIR_BLOCKS
    index = np.ascontiguousarray(packed[:, :INDEX_BYTES]).view(">u2").ravel().astype(np.intp)
    passed = (_check(header, packed) == packed[:, -CRC_BYTES:]).all(axis=1) & (index < n_blocks)
    payload = packed[:, INDEX_BYTES : INDEX_BYTES + header.layout.block_payload_bytes]
    return DecodedBlocks(index=index, payload=payload, passed=passed, packed=packed)


def known_symbols(
    header: BurstHeader, blocks: DecodedBlocks | None, n_symbols: int
) -> tuple[ofdm.Grid, NDArray[np.bool_]]:
    """What is sure to have been sent: the header, and some of the blocks that passed, evenly
    chosen.

    Args:
        header: of the burst.
        blocks: its blocks by place; None without.
        n_symbols: received after the preamble.

    Returns:
        Symbols complex64[n_symbols, 192], 0 where unknown, and bool of that shape.
    """
    skip = header_symbols(header.robust)
    sent = np.zeros((n_symbols - skip) * ofdm.N_DATA, np.complex64)
    known = np.zeros(len(sent), np.bool_)
    places = np.flatnonzero(blocks.passed) if blocks is not None else np.zeros(0, np.intp)
    if blocks is not None and len(places):
        places = places[
            np.unique(np.linspace(0, len(places) - 1, _MAX_KNOWN_BLOCKS).astype(np.intp))
        ]
        symbols = _coded_symbols(header, blocks.packed[places], places.tolist())
        where = places[:, None] * symbols.shape[1] + np.arange(symbols.shape[1])
        sent[where], known[where] = symbols, True
    return (
        np.concatenate([_header_grid(header), _spread(sent)]),
        np.concatenate([np.ones((skip, ofdm.N_DATA), np.bool_), _spread(known)]),
    )
