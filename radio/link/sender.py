"""The sending end of the link, without I/O: payload in, bursts out; feedback in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import Bools
from radio.link import repair
from radio.link.adaptation import Adaptation
from radio.link.burst_size import (
    BURST_SAMPLES,
    blocks_per_burst,
    fitting_blocks,
    robust_sounding,
    sounding_samples,
)
from radio.link.feedback import NO_TAG, Feedback
from radio.link.on_air import Judged, OnAir, SentCounts
from radio.link.outgoing import OutgoingPayload
from radio.link.reassembly import basis_of
from radio.modem import framing, ofdm
from radio.modem.mcs import Mcs, slowest

PROBE_BLOCKS: Final = 2
"""Sent after a window of which nothing arrived: only to see whether anything passes."""


class Sender:
    """Selective repeat over the whole payload: a window of bursts, one answer, then the holes only.

    The sender sounds first unless it is told an SNR, and sounds again instead of sending data when
    it does not know what became of the last burst. No block that the last answer showed as held is
    sent again. Answers that come while a window goes out change the MCS of the bursts that are
    left.

    Attributes:
        snr_db, snr_std_db: last measured, NaN before; Es/N0 of a channel without fading that
            carries as much.
        wanted: how many more blocks complete the payload, as the last answer said.
        answered: valid messages taken.
        ignored: messages turned down (damaged, of another session, stale).
        sequence: number of the last message taken, 0 before.
        adaptation: chooses the MCS.
    """

    def __init__(
        self,
        payload: bytes,
        *,
        session: int,
        adaptation: Adaptation,
        snr_db: float = math.nan,
        snr_std_db: float = 0.0,
    ) -> None:
        """A sender of one payload; an empty one makes soundings only.

        Args:
            payload: up to framing.MAX_PAYLOAD_BYTES.
            session: number of the session; one that was used with another payload before starts
                anew, one whose receiver holds a part of this payload goes on.
            adaptation: chooses the MCS, and learns.
            snr_db, snr_std_db: measured in a sounding just before; NaN: sound first.

        Raises:
            ConfigError: for a payload that is too long.
        """
        self.snr_db = snr_db
        self.snr_std_db = snr_std_db
        self.answered = 0
        self.ignored = 0
        self.sequence = 0
        self.adaptation = adaptation
        self._session = session
        self._payload = OutgoingPayload(payload)
        self._held = np.zeros(self._payload.n_blocks, np.bool_)
        self.wanted = self._payload.n_blocks
        self._basis = 0
        self._repair_sent = 0
        self._epoch: int | None = None
        self._past_epochs: set[int] = set()
        self._air = OnAir()
        self._judged = Judged(wanted=self.wanted)

    @property
    def sent(self) -> SentCounts:
        """Totals of what has gone on the air."""
        return self._air.counts

    @property
    def complete(self) -> bool:
        """True when an answer showed every block as held."""
        return bool(self._held.all())

    @property
    def held(self) -> Bools:
        """bool[n_blocks], what the last answer showed."""
        return self._held.copy()

    @property
    def informed(self) -> bool:
        """True when an answer covers the last burst sent that carried blocks, or else the last
        one."""
        return not self._air.open

    @property
    def unusable(self) -> bool:
        """True while the measured SNR lies below what the slowest MCS needs."""
        return not math.isnan(self.snr_db) and self._mcs() is None

    # ---------------------------------------------------------------------------------------------
    # bursts out

    def window(self, max_samples: int, round_trip_samples: float = 0.0) -> Iterator[framing.Burst]:
        """The bursts to send before the next answer, as they fit in max_samples of air; none if
        nothing fits.

        Args:
            max_samples: samples of air that may still be used.
            round_trip_samples: air that waiting for an answer is worth: what is sent in excess is
                held against it.
        """
        if self.complete and len(self._held):
            return
        left = max_samples
        mcs = None if not self.informed or math.isnan(self.snr_db) else self._mcs()
        if mcs is None or len(self._held) == 0:
            yield from self._sounding(left)
            return
        basis = self._basis
        holes = np.flatnonzero(~self._held)
        places = self._places(len(holes), mcs, round_trip_samples)
        members = np.concatenate([holes, len(self._held) + np.arange(framing.MAX_REPAIR_BLOCKS)])
        while len(places) and mcs is not None and not self._shown_held(members[places]):
            # members of one burst stand side by side in the list
            run = int(np.argmax(np.append(np.diff(places) != 1, True))) + 1
            room = min(left, BURST_SAMPLES)
            count = min(run, fitting_blocks(room, mcs, self._payload.layout))
            if count < 1:
                return
            burst = self._burst(mcs, basis, int(places[0]), members[places[:count]])
            left -= len(burst.iq)
            places = places[count:]
            yield burst
            mcs = self._mcs()

    def _sounding(self, max_samples: int) -> Iterator[framing.Burst]:
        # a sounding that was not answered has shown that the SNR is not what it was
        snr_db = math.nan if self._air.open_sounding else self.snr_db
        if sounding_samples(snr_db) <= max_samples:
            mcs = slowest(robust=bool(robust_sounding(snr_db)))
            yield self._burst(mcs, self._basis, 0, np.zeros(0, np.intp))

    def _mcs(self) -> Mcs | None:
        return self.adaptation.choose(self.snr_db, self.snr_std_db)

    def _shown_held(self, members: NDArray[np.intp]) -> bool:
        """True if an answer that came during the window shows one of these blocks as held: then the
        window is over."""
        return bool(self._held[members[members < len(self._held)]].any())

    def _places(self, n_holes: int, mcs: Mcs, round_trip_samples: float) -> NDArray[np.intp]:
        """What a window carries: places in the list of holes and, behind them, repair blocks."""
        if self._judged.stalled:
            return np.arange(min(n_holes, PROBE_BLOCKS))
        losses = self.adaptation.expected_losses(mcs, self.snr_db, self.snr_std_db)
        head = framing.burst_samples(0, mcs)
        symbols = self._payload.layout.coded_bits(mcs) / mcs.bits_per_symbol / ofdm.N_DATA
        repairs = self._payload.n_repair - self._repair_sent
        plan = repair.plan(
            self.wanted,
            losses,
            symbols * ofdm.SYMBOL_SAMPLES,
            round_trip_samples + head,
            most_spare=n_holes - self.wanted + max(0, repairs),
        )
        count = self.wanted + plan.spare
        of_holes, of_repair = min(count, n_holes), max(0, count - n_holes)
        fresh = n_holes + self._repair_sent + np.arange(of_repair)
        self._repair_sent += of_repair
        places = np.concatenate([np.arange(of_holes), fresh])
        # copies follow each other closely, so that the receiver need not keep soft values for long
        size = blocks_per_burst(mcs, self._payload.layout)
        return np.concatenate(
            [np.tile(places[k : k + size], plan.copies) for k in range(0, len(places), size)]
        )

    def _burst(self, mcs: Mcs, basis: int, first: int, indices: NDArray[np.intp]) -> framing.Burst:
        header = framing.BurstHeader(
            session=self._session,
            burst=self._air.next_burst,
            mcs=mcs,
            basis=basis,
            first=first,
            block_count=len(indices),
            payload_bytes=self._payload.n_bytes,
            tag=self._payload.tag,
            robust=mcs.robust,
        )
        burst = framing.build_burst(
            header, self._payload.blocks(indices), [int(index) for index in indices]
        )
        self._air.add(burst)
        return burst

    # ---------------------------------------------------------------------------------------------
    # answers in

    def on_feedback(self, message: bytes) -> Feedback | None:
        """Take an answer; None if it is ignored, which is counted: damaged, foreign, repeated,
        overtaken.

        A receiver that has started anew shows another epoch: what it holds now replaces what was
        known; late messages of its earlier life are turned down.
        """
        feedback = Feedback.unpack(message)
        if feedback is None or feedback.epoch in self._past_epochs or not self.concerns(feedback):
            self.ignored += 1
            return None
        restarted = self._epoch is not None and self._epoch != feedback.epoch
        if self._epoch is not None and restarted:
            self._past_epochs.add(self._epoch)
        elif self._epoch is not None and feedback.sequence <= self.sequence:
            self.ignored += 1
            return None
        first = self._epoch is None
        self._epoch, self.sequence = feedback.epoch, feedback.sequence
        self.answered += 1
        self.snr_db, self.snr_std_db = feedback.flat_snr_db, feedback.snr_std_db
        covered = self._air.covered_by(feedback)
        if feedback.bursts_found:
            if first and self._air.continues(feedback):
                self._judged.passed = feedback.blocks_passed
            self._judge(feedback, learn=not restarted)
        if covered:
            self._air.cover()
        return feedback

    def _judge(self, feedback: Feedback, *, learn: bool) -> None:
        """Learn what became of the bursts up to the one that the answer names."""
        self._held, self.wanted = feedback.held, feedback.wanted
        self._basis = basis_of(feedback.sequence)
        blocks, lost = self._judged.take(
            feedback, self._air.blocks_until(feedback.last_burst), learn=learn
        )
        if blocks and learn:
            self.adaptation.observe(blocks, lost)

    def concerns(self, feedback: Feedback) -> bool:
        """True for this session, and for a receiver that has read no header at all yet."""
        if feedback.tag == NO_TAG and feedback.bursts_found == 0:
            return len(feedback.held) == 0
        return (feedback.session, feedback.tag, len(feedback.held)) == (
            self._session,
            self._payload.tag,
            len(self._held),
        )
