"""The payload of a sender: its name on the air, and its source and repair blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.link import repair
from radio.link.feedback import NO_TAG
from radio.link.reassembly import payload_tag
from radio.modem import framing


class OutgoingPayload:
    """A payload cut into blocks; an empty one has none, and is sounded for only.

    Attributes:
        n_bytes: its length.
        tag: names it in every header; zeros for an empty one.
        layout: its blocks' layout.
        n_blocks: source blocks.
        n_repair: repair blocks that it can have.
    """

    def __init__(self, payload: bytes) -> None:
        """The payload's blocks.

        Raises:
            ConfigError: for more than framing.MAX_PAYLOAD_BYTES.
        """
        if len(payload) > framing.MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"payload is {len(payload)} bytes; a session carries {framing.MAX_PAYLOAD_BYTES}; "
                "split it"
            )
        self.n_bytes = len(payload)
        self.tag = payload_tag(payload) if payload else NO_TAG
        self.layout = framing.layout_of(len(payload))
        self._source = framing.split(payload) if payload else np.zeros((0, 0), np.uint8)
        self.n_blocks = len(self._source)
        self.n_repair = min(repair.repair_blocks_of(self.n_blocks), framing.MAX_REPAIR_BLOCKS)

    def blocks(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Blocks uint8[k, block payload bytes] with these indices, source blocks first, repair
        blocks (index ≥ n_blocks) in a row behind them."""
        blocks = self._source[indices[indices < self.n_blocks]]
        rows = indices[indices >= self.n_blocks] - self.n_blocks
        if len(rows) == 0:
            return blocks
        return np.concatenate([blocks, repair.encode(self._source, int(rows[0]), len(rows))])
