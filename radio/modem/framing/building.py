"""A burst's samples, built from its blocks: code, scramble, map, spread, modulate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio import ldpc
from radio.modem import ofdm, preamble, qam
from radio.modem.framing.blocks import pack_blocks
from radio.modem.framing.header import HEADER_BYTES, BurstHeader, header_symbols
from radio.modem.pn import pn_bits

_Value = TypeVar("_Value", np.complex64, np.bool_)

HEADER_CODE: Final = ldpc.code_for(8 * HEADER_BYTES, 2)
SPREAD: Final = np.arange(ofdm.N_DATA) * 77 % ofdm.N_DATA
"""Order in which an OFDM symbol's data subcarriers are filled: neighbours in a block lie far apart
in frequency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A burst ready to send.

    Attributes:
        header: its header.
        indices: its blocks' places in their payload, repair blocks from block_count_of(payload) on.
        iq: its samples.
    """

    header: BurstHeader
    indices: tuple[int, ...]
    iq: IQ


def build_burst(header: BurstHeader, blocks: NDArray[np.uint8], indices: Sequence[int]) -> Burst:
    """A burst with these blocks.

    Args:
        header: its block_count equals len(indices).
        blocks: uint8[block_count, block_payload_bytes].
        indices: each block's place in its payload, repair blocks from block_count_of(payload) on.
    """
    grid = burst_grid(header, blocks, indices)
    iq = np.concatenate([preamble.samples(header.robust), ofdm.modulate(grid)])
    return Burst(header=header, indices=tuple(indices), iq=iq)


def burst_grid(header: BurstHeader, blocks: NDArray[np.uint8], indices: Sequence[int]) -> ofdm.Grid:
    """Data symbols complex64[n_symbols, 192] of that burst, header first."""
    grid = header_grid(header)
    if not header.block_count:
        return grid
    return np.concatenate(
        [grid, _data_grid(header, pack_blocks(header.layout, header.tag, blocks, indices))]
    )


def coded_symbols(
    header: BurstHeader, packed: NDArray[np.uint8], places: Sequence[int]
) -> NDArray[np.complex64]:
    """Symbols complex64[k, symbols of a block] of blocks that stand at these places of the
    burst."""
    mcs, layout = header.mcs, header.layout
    n_coded = layout.coded_bits(mcs)
    buffer = ldpc.encode(layout.code, np.unpackbits(packed, axis=1))
    bits = ldpc.rate_match(layout.code, buffer, n_coded, mcs.bits_per_symbol)
    bits ^= _scrambling(header.block_count * n_coded).reshape(header.block_count, n_coded)[
        list(places)
    ]
    return qam.map_bits(bits.ravel(), mcs.bits_per_symbol).reshape(len(packed), -1)


@lru_cache(maxsize=8)
def _scrambling(n_bits: int) -> NDArray[np.uint8]:
    return pn_bits(n_bits)


def _data_grid(header: BurstHeader, packed: NDArray[np.uint8]) -> ofdm.Grid:
    stream = coded_symbols(header, packed, range(header.block_count)).ravel()
    n_symbols = header.n_symbols - header_symbols(header.robust)
    padding = qam.map_bits(pn_bits(2 * (n_symbols * ofdm.N_DATA - len(stream))), 2)
    return spread(np.concatenate([stream, padding]))


def spread(stream: NDArray[_Value]) -> NDArray[_Value]:
    """Values in the order of sending, placed on the subcarriers of their symbols, [n, 192]."""
    grid = np.empty((len(stream) // ofdm.N_DATA, ofdm.N_DATA), stream.dtype)
    grid[:, SPREAD] = stream.reshape(grid.shape)
    return grid


def header_grid(header: BurstHeader) -> ofdm.Grid:
    """Symbols complex64[header_symbols, 192] of a burst's header."""
    bits = np.unpackbits(np.frombuffer(header.pack(), np.uint8))[None]
    n_coded = 2 * header_symbols(header.robust) * ofdm.N_DATA
    coded = ldpc.rate_match(HEADER_CODE, ldpc.encode(HEADER_CODE, bits), n_coded, 2)[0]
    return spread(qam.map_bits(coded ^ pn_bits(n_coded), 2))
