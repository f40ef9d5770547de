"""LDPC encoding: information bits to the circular buffer (3GPP TS 38.212 §5.3.2).

A bit is a byte and a base column a row of Z bytes, written twice, so that a shifted column is one
contiguous read and sums run in vector registers. Added up, the core rows leave only the first
parity column, once; after it every row's last column is the sum of its others.

Kernels index with unsigned integers: a signed index may be negative, and minding that would keep
loops scalar.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.compiled import compiled
from radio.ldpc.code import LdpcCode
from radio.ldpc.tables import CORE_ROWS, INFO_COLUMNS, Graph, lifted

Bits = NDArray[np.uint8]
Indices = NDArray[np.int32]


def encode(code: LdpcCode, info: Bits) -> Bits:
    """The circular buffer of each block, uint8[n, n_buffer] of 0 and 1; filler bits are 0.

    Args:
        code: the code.
        info: uint8[n, info_bits] of 0 and 1.

    Raises:
        ConfigError: rows of another length, or bytes that are not bits.
    """
    if info.ndim != 2 or info.shape[1] != code.info_bits:
        raise ConfigError(
            f"LDPC encoder got bits of shape {info.shape}; expected (n, {code.info_bits})"
        )
    if np.any(info > 1):
        raise ConfigError(f"LDPC encoder got the value {info.max()}; bits are 0 or 1, one a byte")
    graph = lifted(code.base_graph, code.lifting_size)
    first_parity = INFO_COLUMNS[code.base_graph]
    buffer = np.empty((info.shape[0], code.n_buffer), np.uint8)
    _encode_blocks(
        np.ascontiguousarray(info, np.uint8),
        code.lifting_size,
        np.flatnonzero(graph.column[: graph.row_start[CORE_ROWS]] < first_parity),
        first_parity,
        _shift_of_first_parity(graph, first_parity),
        np.delete(np.arange(graph.row_start.size - 1), CORE_ROWS - 1),
        graph.row_start,
        graph.column,
        graph.shift,
        buffer,
    )
    return buffer


def _shift_of_first_parity(graph: Graph, first_parity: int) -> int:
    """The first parity column's shift in the sum of the core rows: two of its three shifts are
    equal and cancel."""
    core = slice(0, graph.row_start[CORE_ROWS])
    return int(np.bitwise_xor.reduce(graph.shift[core][graph.column[core] == first_parity]))


@compiled()
def _sum_columns(
    columns: Bits, edges: NDArray[np.int64], column: Indices, shift: Indices, total: Bits
) -> None:
    """Sum mod 2 of the shifted columns of some edges."""
    total[:] = 0
    for edge in edges:
        start = np.uint64(2 * total.size * column[edge] + shift[edge])
        for z in range(np.uint64(total.size)):
            total[z] ^= columns[start + z]


@compiled()
def _put(columns: Bits, place: int, values: Bits, size: int) -> None:
    """Writes a column, both copies; the last information column may be short, the rest of it are
    filler bits."""
    low = 2 * place * size
    columns[low : low + values.size] = values
    columns[low + size : low + size + values.size] = values


@compiled()
def _encode_blocks(
    info: Bits,
    size: int,
    core_edges: NDArray[np.int64],
    first_parity: int,
    first_parity_shift: int,
    solving_rows: NDArray[np.int64],
    row_start: Indices,
    column: Indices,
    shift: Indices,
    buffer: Bits,
) -> None:
    n_columns = first_parity + row_start.size - 1
    punctured = n_columns - buffer.shape[1] // size
    columns = np.zeros(2 * n_columns * size, np.uint8)
    edges = np.arange(column.size)
    total = np.empty(size, np.uint8)
    for block in range(info.shape[0]):
        for start in range(0, info.shape[1], size):
            _put(columns, start // size, info[block, start : start + size], size)

        _sum_columns(columns, core_edges, column, shift, total)
        _put(columns, first_parity, np.roll(total, first_parity_shift), size)
        for row in solving_rows:
            last = row_start[row + 1] - 1
            _sum_columns(columns, edges[row_start[row] : last], column, shift, total)
            _put(columns, column[last], total, size)

        for place in range(punctured, n_columns):
            out = (place - punctured) * size
            buffer[block, out : out + size] = columns[2 * place * size : (2 * place + 1) * size]
