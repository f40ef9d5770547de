"""The base graphs and lifting sizes of 3GPP TS 38.212 §5.3.2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

LIFTING_SETS: Final = (
    (2, 4, 8, 16, 32, 64, 128, 256),
    (3, 6, 12, 24, 48, 96, 192, 384),
    (5, 10, 20, 40, 80, 160, 320),
    (7, 14, 28, 56, 112, 224),
    (9, 18, 36, 72, 144, 288),
    (11, 22, 44, 88, 176, 352),
    (13, 26, 52, 104, 208),
    (15, 30, 60, 120, 240),
)
"""Table 5.3.2-1: the lifting sizes Z; a set's place is the column of shift exponents that its sizes
use."""

INFO_COLUMNS: Final = {1: 22, 2: 10}
"""Base columns of information bits."""

N_COLUMNS: Final = {1: 68, 2: 52}
"""All base columns, the two that are never sent included."""

CORE_ROWS: Final = 4
"""Rows whose parity columns form the dual diagonal; each further row has a parity column of its
own."""

PUNCTURED_COLUMNS: Final = 2
"""The first base columns, which are never sent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A lifted base graph: each edge is a Z x Z identity whose rows are shifted to the right.

    Check z of row i sums the bits (z + shift) mod Z of the columns of that row's edges, in rising
    order of column.

    Attributes:
        row_start: int32[rows + 1]; row i has the edges row_start[i] to row_start[i + 1].
        column: int32[edges], base column of each edge.
        shift: int32[edges], 0 to Z - 1.
    """

    row_start: NDArray[np.int32]
    column: NDArray[np.int32]
    shift: NDArray[np.int32]


@lru_cache(maxsize=16)
def lifted(base_graph: int, lifting_size: int) -> Graph:
    """Base graph 1 or 2 (tables 5.3.2-2 and 5.3.2-3) lifted by a size of LIFTING_SETS."""
    table = np.loadtxt(
        Path(__file__).with_name(f"base_graph_{base_graph}.csv"),
        dtype=np.int32,
        delimiter=",",
        skiprows=1,
    )
    exponents = table[:, 2 + _set_of(lifting_size)]
    row_start = np.searchsorted(table[:, 0], np.arange(table[-1, 0] + 2)).astype(np.int32)
    return Graph(
        row_start=row_start, column=table[:, 1].copy(), shift=exponents % np.int32(lifting_size)
    )


def _set_of(lifting_size: int) -> int:
    return next(place for place, sizes in enumerate(LIFTING_SETS) if lifting_size in sizes)
