"""What a sender has put on the air, and what the answers have said of it so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from radio.link.feedback import Feedback
from radio.modem import framing, ofdm

_MAX_BURSTS: Final = 2**16


@dataclass(slots=True)
class SentCounts:
    """Totals of what a sender has put on the air; the fields are those of LinkReport."""

    samples: int = 0
    bursts: int = 0
    blocks: int = 0
    header_bits: int = 0
    data_bits: int = 0
    blocks_by_mcs: Counter[str] = field(default_factory=Counter)

    def add(self, burst: framing.Burst) -> None:
        """Count one burst."""
        header = burst.header
        self.samples += len(burst.iq)
        self.bursts += 1
        self.blocks += header.block_count
        self.header_bits += 2 * framing.header_symbols(header.robust) * ofdm.N_DATA
        if header.block_count:
            self.data_bits += header.block_count * header.layout.coded_bits(header.mcs)
            self.blocks_by_mcs[header.mcs.name] += header.block_count


@dataclass(slots=True)
class OnAir:
    """The bursts of one session, and which of them no answer covers yet.

    Attributes:
        counts: totals.
        next_burst: number of the next burst, 0..65535.
        open: True while no answer covers what was sent last.
        open_sounding: True if that is a sounding.
    """

    counts: SentCounts = field(default_factory=SentCounts)
    next_burst: int = 0
    open: bool = False
    open_sounding: bool = False
    _last: int = 0
    _last_data: int = 0
    _blocks_until: dict[int, int] = field(default_factory=dict)

    def add(self, burst: framing.Burst) -> None:
        """Take note of a burst that goes on the air now."""
        number, block_count = burst.header.burst, burst.header.block_count
        self.counts.add(burst)
        self._blocks_until[number] = self.counts.blocks
        self._last = number
        if block_count:
            self._last_data = number
        self.open, self.open_sounding = True, block_count == 0
        self.next_burst = (number + 1) % _MAX_BURSTS

    def covered_by(self, answer: Feedback) -> bool:
        """True if no block is on its way of which the answer does not tell: soundings that still
        are carry none."""
        since_last_data = (
            self._last_data <= answer.last_burst < self.next_burst and answer.bursts_found > 0
        )
        last = self.open and self._last == answer.last_burst
        return self.counts.blocks == 0 or last or since_last_data

    def cover(self) -> None:
        """An answer covers all that was sent."""
        self.open = self.open_sounding = False

    def blocks_until(self, burst: int) -> int:
        """Blocks sent up to and with the burst of this number; 0 for one that was not sent."""
        return self._blocks_until.get(burst, 0)

    def continues(self, answer: Feedback) -> bool:
        """True if the answer, the first one taken, counts bursts that an earlier life of this
        session's sender sent; numbering then goes on behind them."""
        earlier = self.counts.blocks == 0 or answer.last_burst >= self.next_burst
        if earlier:
            self.next_burst = max(self.next_burst, (answer.last_burst + 1) % _MAX_BURSTS)
        return earlier


@dataclass(slots=True)
class Judged:
    """What the answers have said of the blocks sent.

    Attributes:
        blocks: blocks sent of which an answer has told whether they passed.
        passed: those of them that passed, as the receiver counts them.
        wanted: blocks that completed the payload when blocks were judged last.
        stalled: True if the blocks judged last brought nothing new.
    """

    wanted: int
    blocks: int = 0
    passed: int = 0
    stalled: bool = False

    def take(self, answer: Feedback, blocks_until: int, *, learn: bool) -> tuple[int, int]:
        """Judge the blocks up to the burst that the answer names.

        Args:
            answer: the answer.
            blocks_until: blocks sent up to and with that burst.
            learn: False for a receiver that has started anew: it lost what it held, so that less
                than before is no sign of a stall.

        Returns:
            Blocks judged for the first time, and how many of them were lost.
        """
        fresh = max(0, blocks_until - self.blocks)
        lost = max(0, fresh - max(0, answer.blocks_passed - self.passed))
        if fresh:
            self.stalled = answer.wanted >= self.wanted if learn else self.stalled
            self.wanted = answer.wanted
        self.blocks += fresh
        self.passed = answer.blocks_passed
        return fresh, lost
