"""A burst's header and blocks, read from its equalised symbols."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio import ldpc
from radio.modem import ofdm, qam
from radio.modem.equaliser import Symbols
from radio.modem.framing.blocks import (
    CRC_BYTES,
    INDEX_BYTES,
    MAX_REPAIR_BLOCKS,
    block_count_of,
    check_bytes,
)
from radio.modem.framing.building import HEADER_CODE, SPREAD, coded_symbols, header_grid, spread
from radio.modem.framing.header import BurstHeader, header_symbols
from radio.modem.pn import pn_bits

_MAX_KNOWN_BLOCKS: Final = 4
"""Blocks that are coded anew to measure the channel by: more would cost time and tell little."""


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


def read_header(symbols: Symbols, *, robust: bool) -> BurstHeader | None:
    """The header from a burst's first symbols, or None if it does not pass or they are too few.

    Args:
        symbols: header_symbols(robust) of them or more.
        robust: True behind the repeated preamble.
    """
    n = header_symbols(robust)
    if len(symbols.data) < n:
        return None
    llrs = _llrs(symbols.data[:n], symbols.noise_variance[:n], 2)
    soft = ldpc.rate_recover(HEADER_CODE, llrs[None], 2)
    return BurstHeader.unpack(
        np.packbits(ldpc.decode(HEADER_CODE, soft).bits).tobytes(), robust=robust
    )


def _llrs(
    data: ofdm.Grid, noise_variance: NDArray[np.float32], bits_per_symbol: int
) -> NDArray[np.float32]:
    """Descrambled LLRs in the order in which they were sent."""
    llrs = qam.demap(data[:, SPREAD], noise_variance[:, SPREAD], bits_per_symbol)
    llrs *= _signs(len(llrs))
    return llrs


@lru_cache(maxsize=8)
def _signs(n_bits: int) -> NDArray[np.float32]:
    return 1 - 2 * pn_bits(n_bits).astype(np.float32)


def soft_blocks(symbols: Symbols, header: BurstHeader) -> NDArray[np.int16]:
    """Soft values int16[k, n_buffer] of the burst's blocks; k < block_count if the burst was cut.

    Args:
        symbols: the burst's, from its first header symbol on.
        header: the burst's.
    """
    layout, mcs = header.layout, header.mcs
    skip = header_symbols(header.robust)
    n_coded = layout.coded_bits(mcs)
    data = symbols.data[skip:]
    whole = min(header.block_count, len(data) * ofdm.N_DATA * mcs.bits_per_symbol // n_coded)
    llrs = _llrs(data, symbols.noise_variance[skip:], mcs.bits_per_symbol)[: whole * n_coded]
    return ldpc.rate_recover(layout.code, llrs.reshape(whole, n_coded), mcs.bits_per_symbol)


def decode_blocks(soft: NDArray[np.int16], header: BurstHeader) -> DecodedBlocks:
    """Blocks int16[k, n_buffer] decoded and checked.

    Args:
        soft: values from soft_blocks, or sums of several copies.
        header: any burst's of that payload.
    """
    packed = np.packbits(ldpc.decode(header.layout.code, soft).bits, axis=1)
    n_blocks = block_count_of(header.payload_bytes) + MAX_REPAIR_BLOCKS
    index = np.ascontiguousarray(packed[:, :INDEX_BYTES]).view(">u2").ravel().astype(np.intp)
    passed = (check_bytes(header.tag, packed) == packed[:, -CRC_BYTES:]).all(axis=1) & (
        index < n_blocks
    )
    payload = packed[:, INDEX_BYTES : INDEX_BYTES + header.layout.block_payload_bytes]
    return DecodedBlocks(index=index, payload=payload, passed=passed, packed=packed)


def known_symbols(
    header: BurstHeader, blocks: DecodedBlocks | None, n_symbols: int
) -> tuple[ofdm.Grid, NDArray[np.bool_]]:
    """What is sure to have been sent: the header, and some of the blocks that passed, evenly
    chosen.

    Args:
        header: the burst's.
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
        symbols = coded_symbols(header, blocks.packed[places], places.tolist())
        where = places[:, None] * symbols.shape[1] + np.arange(symbols.shape[1])
        sent[where], known[where] = symbols, True
    return (
        np.concatenate([header_grid(header), spread(sent)]),
        np.concatenate([np.ones((skip, ofdm.N_DATA), np.bool_), spread(known)]),
    )
