"""The sending end of the link, without I/O: payload in, bursts out; feedback in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio import framing, ofdm
from radio.feedback import NO_TAG, Feedback
from radio.mcs import MCS_TABLE, Adaptation, Mcs
from radio.receiver import payload_tag

PROBE_BLOCKS: Final = 8
"""Blocks in a burst sent only to see whether any passes."""
PROBE_BELOW_DB: Final = 2.5
"""This far below the slowest scheme's threshold, a window starts with a probe: nearly every block would be lost."""


@dataclass(slots=True)
class SentCounts:
    """What a sender has put on the air; the fields are those of LinkReport."""

    samples: int = 0
    bursts: int = 0
    blocks: int = 0
    header_bits: int = 0
    data_bits: int = 0


class Sender:
    """Selective repeat over the whole payload: a window of bursts, one answer, then the holes only.

    The sender sounds first unless it is told an SNR, and sounds again instead of repeating data when an answer is
    missing. No block that the last answer showed as held is sent again.

    Attributes:
        sent: what has gone on the air.
        blocks_by_mcs: MCS name → data blocks sent.
        snr_db: last measured, NaN before.
        answered: valid messages taken.
        ignored: messages turned down (damaged, of another session, stale).
    """

    def __init__(self, payload: bytes, *, session: int, adaptation: Adaptation, snr_db: float = float("nan")) -> None:
        """A sender of one payload; an empty one makes soundings only.

        Args:
            payload: up to framing.MAX_PAYLOAD_BYTES.
            session: number of the session; one that was used with another payload before starts anew.
            adaptation: chooses the MCS, and learns.
            snr_db: measured in a sounding just before; NaN: sound first.

        Raises:
            ConfigError: for a payload that is too long.
        """
        if len(payload) > framing.MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"payload is {len(payload)} bytes; a session carries {framing.MAX_PAYLOAD_BYTES}; split it"
            )
        self.sent = SentCounts()
        self.blocks_by_mcs: dict[str, int] = {}
        self.snr_db = snr_db
        self.answered = 0
        self.ignored = 0
        self._payload = payload
        self._session = session
        self._tag = payload_tag(payload) if payload else NO_TAG
        self._adaptation = adaptation
        self._held = np.zeros(framing.block_count_of(len(payload)), np.bool_)
        self._epoch: int | None = None
        self._past_epochs: set[int] = set()
        self._sequence = 0
        self._unanswered = False
        self._blocks_since_answer = 0
        self._stalled = False

    @property
    def complete(self) -> bool:
        """True when an answer showed every block as held."""
        return bool(self._held.all())

    @property
    def held(self) -> NDArray[np.bool_]:
        """bool[n_blocks], what the last answer showed."""
        return self._held.copy()

    def window(self, max_samples: int) -> Iterator[framing.Burst]:
        """The bursts to send before the next answer, as they fit in max_samples of air; none if nothing fits.

        Args:
            max_samples: samples of air that may still be used.
        """
        if self._unanswered or np.isnan(self.snr_db) or len(self._held) == 0:
            if max_samples >= framing.HEAD_SAMPLES:
                yield self._burst([], MCS_TABLE[0])
            return
        scheme = self._adaptation.choose(self.snr_db)
        holes = [int(i) for i in np.flatnonzero(~self._held)]
        if self._stalled or self.snr_db < MCS_TABLE[0].threshold_db - PROBE_BELOW_DB:
            holes = holes[:PROBE_BLOCKS]
        left = max_samples
        while holes:
            count = min(len(holes), framing.MAX_BLOCKS_PER_BURST, fitting_blocks(left, scheme))
            if count < 1:
                return
            burst = self._burst(holes[:count], scheme)
            left -= len(burst.iq)
            holes = holes[count:]
            yield burst

    def _burst(self, indices: list[int], scheme: Mcs) -> framing.Burst:
        header = framing.BurstHeader(
            session=self._session,
            burst=self.sent.bursts % 2**16,
            mcs=MCS_TABLE.index(scheme),
            first_block=indices[0] if indices else 0,
            block_count=len(indices),
            payload_bytes=len(self._payload),
            tag=self._tag,
        )
        burst = framing.build_burst(header, self._payload, indices)
        self.sent.samples += len(burst.iq)
        self.sent.bursts += 1
        self.sent.blocks += len(indices)
        self.sent.header_bits += framing.HEADER_BITS_ON_AIR
        self.sent.data_bits += len(indices) * framing.BLOCK_BITS
        if indices:
            self.blocks_by_mcs[scheme.name] = self.blocks_by_mcs.get(scheme.name, 0) + len(indices)
        self._blocks_since_answer += len(indices)
        self._unanswered = True
        return burst

    def on_feedback(self, message: bytes) -> bool:
        """Take an answer; True if it was used. Damaged, foreign, repeated and overtaken ones are counted and ignored.

        A receiver that has started anew shows another epoch: what it holds now replaces what was known; late
        messages of its earlier life are turned down.
        """
        feedback = Feedback.unpack(message)
        if feedback is None or feedback.epoch in self._past_epochs or not self._concerns(feedback):
            self.ignored += 1
            return False
        if self._epoch != feedback.epoch:
            if self._epoch is not None:
                self._past_epochs.add(self._epoch)
            self._epoch = feedback.epoch
        elif feedback.sequence <= self._sequence:
            self.ignored += 1
            return False
        self._sequence = feedback.sequence
        self._unanswered = False
        self.answered += 1
        self.snr_db = feedback.snr_db
        before = int(self._held.sum())
        if len(feedback.held) == len(self._held):
            self._held = feedback.held
        if self._blocks_since_answer:
            self._stalled = int(self._held.sum()) <= before
            self._adaptation.observe(feedback.block_error_rate)
        self._blocks_since_answer = 0
        return True

    def _concerns(self, feedback: Feedback) -> bool:
        """True for this session, and for a receiver that has read no header at all yet."""
        if feedback.tag == NO_TAG and feedback.bursts_found == 0:
            return len(feedback.held) == 0
        return (feedback.session, feedback.tag, len(feedback.held)) == (self._session, self._tag, len(self._held))


def fitting_blocks(samples: int, scheme: Mcs) -> int:
    """Data blocks that a single burst of at most `samples` can carry, ≥ 0."""
    symbols = (samples - framing.HEAD_SAMPLES) // ofdm.SYMBOL_SAMPLES
    return max(0, symbols * ofdm.N_DATA * scheme.bits_per_symbol // framing.BLOCK_BITS)
