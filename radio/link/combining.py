"""Chase combining: soft values of blocks that failed are kept, and the next copy is added to them.

Soft values stand in positions of the mother code, so copies sent with different MCS add up as well
(Chase, "Code Combining", IEEE Trans. Commun. 33(5), 1985).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio import ldpc
from radio.modem import framing

MAX_KEPT: Final = 256
"""Blocks of a payload whose soft values are kept, 50 kB each. Holes are sent again in the order in
which they came up, so the first ones are kept: of a longer list, each newest one would push out the
one that comes next."""
MAX_FAILED_SUMS: Final = 2
"""A sum that failed as often may hold a copy that was cut, or another block's: it starts anew with
the newest copy."""


@dataclass(slots=True)
class _Kept:
    soft: NDArray[np.int16]
    failed_sums: int = 0


class SoftCopies:
    """Soft values of one payload's failed blocks, by index."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def recover(
        self, indices: Sequence[int], soft: NDArray[np.int16], header: framing.BurstHeader
    ) -> dict[int, NDArray[np.uint8]]:
        """Blocks uint8[block payload bytes] by index that passed once their copies were added up;
        the others are kept.

        Args:
            indices: blocks that did not pass by themselves.
            soft: their newest copies, int16[len(indices), n_buffer].
            header: the burst's in which they came.
        """
        known = [place for place, index in enumerate(indices) if index in self._kept]
        recovered: dict[int, NDArray[np.uint8]] = {}
        sums: dict[int, NDArray[np.int16]] = {}
        if known:
            total = ldpc.combine(
                np.stack([self._kept[indices[place]].soft for place in known]), soft[known]
            )
            blocks = framing.decode_blocks(total, header)
            sums = dict(zip(known, total, strict=True))
            recovered = {
                int(blocks.index[k]): blocks.payload[k] for k in np.flatnonzero(blocks.passed)
            }
        for place, index in enumerate(indices):
            if index not in recovered:
                self._keep(index, soft[place], sums.get(place))
        self.forget(recovered)
        return recovered

    def _keep(self, index: int, newest: NDArray[np.int16], total: NDArray[np.int16] | None) -> None:
        """Keep the sum that failed, or the newest copy where there is none or it failed too
        often."""
        if total is None:
            if len(self._kept) < MAX_KEPT:
                self._kept[index] = _Kept(newest.copy())
            return
        failed_sums = self._kept[index].failed_sums + 1
        hopeless = failed_sums >= MAX_FAILED_SUMS
        self._kept[index] = _Kept(newest.copy()) if hopeless else _Kept(total.copy(), failed_sums)

    def forget(self, indices: Iterable[int]) -> None:
        """Drop what is kept of these blocks."""
        for index in indices:
            self._kept.pop(index, None)
