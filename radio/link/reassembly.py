"""What a receiver holds of one payload, and which blocks its bursts carry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio.link import repair
from radio.link.block_store import BlockStore
from radio.link.combining import SoftCopies
from radio.modem import framing

_MAX_SHOWN: Final = 32
"""Bitmaps that are remembered, 8 kB each at most; bursts that refer to older ones name their blocks
themselves."""
_SEQUENCE_BITS: Final = 0xFFFF


def payload_tag(payload: bytes) -> bytes:
    """First bytes of the payload's SHA-256: names the payload in every header."""
    return hashlib.sha256(payload).digest()[: framing.TAG_BYTES]


def basis_of(sequence: int) -> int:
    """How a burst header names the feedback with this sequence number; 0 is never meant."""
    return sequence & _SEQUENCE_BITS


class Assembly:
    """The blocks of one session's payload, source and repair, as they come in.

    Attributes:
        session, tag, payload_bytes: its name on the air.
        n_blocks: source blocks of the payload.
        bursts: numbers of the bursts that were found.
        blocks_passed: copies that passed by themselves.
    """

    def __init__(
        self, session: int, tag: bytes, payload_bytes: int, store: BlockStore | None = None
    ) -> None:
        self.session = session
        self.tag = tag
        self.payload_bytes = payload_bytes
        self.n_blocks = framing.block_count_of(payload_bytes) if payload_bytes else 0
        self.bursts: set[int] = set()
        self.blocks_passed = 0
        self._store = store if payload_bytes else None
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._shown: dict[int, NDArray[np.uint8]] = {}
        self._payload: bytes | None = None
        self._copies = SoftCopies()
        if self._store is not None:
            self._hold(self._store.load(session, tag, payload_bytes))

    @property
    def name(self) -> tuple[int, bytes, int]:
        """Session, tag and payload length."""
        return self.session, self.tag, self.payload_bytes

    @property
    def held(self) -> NDArray[np.bool_]:
        """bool[n_blocks], source blocks."""
        mask = np.zeros(self.n_blocks, np.bool_)
        mask[[index for index in self._blocks if index < self.n_blocks]] = True
        return mask

    @property
    def wanted(self) -> int:
        """How many more blocks complete the payload, whichever they are."""
        return max(0, self.n_blocks - len(self._blocks))

    @property
    def payload(self) -> bytes | None:
        """The payload once it is whole and its hash agrees."""
        return self._payload

    @property
    def prefix(self) -> bytes:
        """The payload's beginning as far as it is held without a gap; not covered by a hash unless
        it is whole."""
        held = self.held
        whole = len(held) if held.all() else int(np.argmin(held))
        return b"".join(self._blocks[index].tobytes() for index in range(whole))[
            : self.payload_bytes
        ]

    def take(
        self, header: framing.BurstHeader, blocks: framing.DecodedBlocks, soft: NDArray[np.int16]
    ) -> None:
        """Hold the blocks of a burst: those that passed, and those whose copies pass once they are
        added up.

        Args:
            header: the burst's.
            blocks, soft: its blocks, decoded each by itself, and their soft values.
        """
        gained = {int(blocks.index[k]): blocks.payload[k] for k in np.flatnonzero(blocks.passed)}
        self._copies.forget(gained)
        indices = self._indices(header)
        if indices is not None:
            lacking = [
                k
                for k in np.flatnonzero(~blocks.passed)
                if indices[k] not in self._blocks.keys() | gained
            ]
            gained |= self._copies.recover([indices[k] for k in lacking], soft[lacking], header)
        fresh = {index: block for index, block in gained.items() if index not in self._blocks}
        if fresh and self._store is not None:
            self._store.append(*self.name, fresh)
        self._hold(fresh)

    def _hold(self, blocks: Mapping[int, NDArray[np.uint8]]) -> None:
        """Hold blocks; once they suffice, the payload. If that fails its hash, a block was wrong:
        all are dropped."""
        most = self.n_blocks + repair.repair_blocks_of(self.n_blocks)
        self._blocks.update(
            {index: block.copy() for index, block in blocks.items() if index < most}
        )
        if self._payload is not None or self.n_blocks == 0 or self.wanted:
            return
        self._blocks.update(repair.solve(self.n_blocks, self._blocks))
        payload = self.prefix
        if payload_tag(payload) == self.tag:
            self._payload = payload
            self._copies = SoftCopies()
            return
        self._blocks.clear()
        if self._store is not None:
            self._store.forget(*self.name)

    def show(self, sequence: int) -> NDArray[np.bool_]:
        """`held`, and remember that the feedback with this number showed it."""
        held = self.held
        self._shown.pop(basis_of(sequence), None)
        self._shown[basis_of(sequence)] = np.packbits(held)
        while len(self._shown) > _MAX_SHOWN:
            del self._shown[next(iter(self._shown))]
        return held

    def _indices(self, header: framing.BurstHeader) -> list[int] | None:
        """Which blocks a burst carries, or None if its list is not known or not as long as it
        says."""
        if header.basis == 0:
            missing = np.arange(self.n_blocks)
        elif header.basis in self._shown:
            held = np.unpackbits(self._shown[header.basis], count=self.n_blocks)
            missing = np.flatnonzero(held == 0)
        else:
            return None
        members = np.concatenate([missing, self.n_blocks + np.arange(framing.MAX_REPAIR_BLOCKS)])
        named = members[header.first : header.first + header.block_count]
        return [int(index) for index in named] if len(named) == header.block_count else None
