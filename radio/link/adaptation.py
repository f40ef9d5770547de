"""Link adaptation: the choice of MCS from measured SNR, with an outer loop on the block errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from radio.modem.mcs import LOOPBACK, MCS_TABLE, TARGET_LOSS, LossTable, Mcs

UNUSABLE: Final = 0.95
"""A channel on which more than this is lost at the slowest MCS, two copies of each block added,
carries nothing."""
_COMBINING_DB: Final = 10 * math.log10(2)


def usable(snr_db: float, table: LossTable = LOOPBACK) -> bool:
    """True if the slowest MCS gets through at this Es/N0, if need be with two copies of each
    block."""
    return bool(table.loss_at(0, snr_db + _COMBINING_DB) <= UNUSABLE)


@dataclass(slots=True)
class Adaptation:
    """The choice of MCS, which learns from the blocks that were lost.

    Each lost block widens the margin by UP_DB, each one that passed narrows it so much less that
    both balance at the target of mcs.TARGET_LOSS (outer-loop link adaptation: Sampath, Kumar and
    Holtzman, IEEE VTC 1997). A channel worse than its SNR says (fading, interference) is so met
    with a slower MCS.

    Attributes:
        margin_db: taken off the measured SNR before the table is read, 0..MAX_MARGIN_DB.
        loss: share of blocks lost lately, the target before the first.
        table: block losses of each MCS at an SNR: a bench's own, if it was calibrated.
    """

    margin_db: float = 0.0
    loss: float = TARGET_LOSS
    table: LossTable = LOOPBACK

    UP_DB: Final = 0.1
    DOWN_DB: Final[float] = UP_DB * TARGET_LOSS / (1 - TARGET_LOSS)
    MAX_STEP_DB: Final = 1.5
    """Largest change of the margin by one answer: about the distance of two entries."""
    MAX_MARGIN_DB: Final = 6.0
    MEMORY_BLOCKS: Final = 100.0

    def too_weak(self, snr_db: float) -> str:
        """Why nothing can be carried at this Es/N0, "" where something can."""
        if usable(snr_db, self.table):
            return ""
        return (
            f"measured SNR of {snr_db:.1f} dB; the slowest MCS needs "
            f"{self.table.threshold_db[0]:.1f} dB"
        )

    def choose(self, snr_db: float, snr_std_db: float = 0.0) -> Mcs | None:
        """The fastest MCS that is expected to keep the target, or None where the channel is
        unusable.

        Entries that keep it lie so far apart in rate that the fastest also has the most expected
        goodput.

        Args:
            snr_db: measured Es/N0 per used subcarrier.
            snr_std_db: one sigma of it, which is taken off as well.
        """
        if self.too_weak(snr_db):
            return None
        return MCS_TABLE[int(self.table.fastest(snr_db - snr_std_db - self.margin_db))]

    def observe(self, blocks: int, lost: int) -> None:
        """Learn from `lost` of `blocks` blocks that were heard of since the last answer."""
        if blocks < 1:
            return
        step = self.UP_DB * lost - self.DOWN_DB * (blocks - lost)
        step = float(np.clip(step, -self.MAX_STEP_DB, self.MAX_STEP_DB))
        self.margin_db = float(np.clip(self.margin_db + step, 0.0, self.MAX_MARGIN_DB))
        self.loss += -math.expm1(-blocks / self.MEMORY_BLOCKS) * (lost / blocks - self.loss)

    def expected_losses(self, mcs: Mcs, snr_db: float, snr_std_db: float = 0.0) -> list[float]:
        """Expected share of blocks lost when 1, 2 or 3 copies of each are sent and added up by the
        receiver."""
        caution_db = snr_db - snr_std_db
        copies_db = 10 * np.log10([1, 2, 3])
        table = self.table.loss_at(mcs.place, caution_db + copies_db).tolist()
        # where the table foresees the loss of most blocks, what was lost lately says nothing about
        # their sums
        lately = self.loss if table[0] < 0.5 else 0.0
        return [max(loss, lately**n) for n, loss in enumerate(table, start=1)]
