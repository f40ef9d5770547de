"""The sending end of the link, without I/O: payload in, bursts out; feedback in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hil.contract import ConfigError
from radio.link import repair
from radio.link.adaptation import Adaptation
from radio.link.feedback import NO_TAG, Feedback
from radio.link.reassembly import basis_of, payload_tag
from radio.modem import framing, ofdm
from radio.modem.mcs import MCS_TABLE, ROBUST, Mcs, is_robust

BLOCKS_PER_BURST: Final = 32
BURST_SAMPLES: Final = 2**18
"""Longest burst, as the channel moves."""
PROBE_BLOCKS: Final = 2
"""Sent after a window of which nothing arrived: only to see whether anything passes."""
_MAX_BURSTS: Final = 2**16
_SURE_DB: Final = 3.0


def robust_sounding(snr_db: ArrayLike) -> NDArray[np.bool_]:
    """True where a sounding needs the repeated preamble: the SNR is unknown (NaN), or hardly above
    the robust MCS's."""
    return ~(np.asarray(snr_db, np.float64) > MCS_TABLE[ROBUST].threshold_db + _SURE_DB)


def sounding_samples(snr_db: ArrayLike) -> NDArray[np.intp]:
    """Samples of a sounding at a known SNR."""
    short, long = (
        framing.burst_samples(0, MCS_TABLE[0], robust=robust) for robust in (False, True)
    )
    return np.where(robust_sounding(snr_db), long, short)


@lru_cache(maxsize=2 * len(MCS_TABLE))
def blocks_per_burst(place: int, layout: framing.Layout) -> int:
    """Blocks in a burst that is not cut short by anything but the limits on bursts.

    Args:
        place: of the MCS in MCS_TABLE.
        layout: of the payload.
    """
    return _fitting(BURST_SAMPLES, place, layout)


def _fitting(samples: int, place: int, layout: framing.Layout) -> int:
    """Blocks that one burst of at most this many samples can carry."""
    count = BLOCKS_PER_BURST
    while (
        count
        and framing.burst_samples(count, MCS_TABLE[place], layout, robust=is_robust(place))
        > samples
    ):
        count -= 1
    return count


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

    The sender sounds first unless it is told an SNR, and sounds again instead of sending data when
    it does not know what became of the last burst. No block that the last answer showed as held is
    sent again. Answers that come while a window goes out change the MCS of the bursts that are
    left.

    Attributes:
        sent: what has gone on the air.
        blocks_by_mcs: MCS name → data blocks sent.
        snr_db, snr_std_db: last measured, NaN before; of a channel without fading that carries as
            much.
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
        if len(payload) > framing.MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"payload is {len(payload)} bytes; a session carries {framing.MAX_PAYLOAD_BYTES}; "
                "split it"
            )
        self.sent = SentCounts()
        self.blocks_by_mcs: dict[str, int] = {}
        self.snr_db = snr_db
        self.snr_std_db = snr_std_db
        self.answered = 0
        self.ignored = 0
        self._payload_bytes = len(payload)
        self._session = session
        self._tag = payload_tag(payload) if payload else NO_TAG
        self._layout = framing.layout_of(len(payload))
        self._source = framing.split(payload) if payload else np.zeros((0, 0), np.uint8)
        self.adaptation = adaptation
        self._held = np.zeros(len(self._source), np.bool_)
        self.wanted = len(self._source)
        self._basis = 0
        self._repair_sent = 0
        self._epoch: int | None = None
        self._past_epochs: set[int] = set()
        self.sequence = 0
        self._next_burst = 0
        self._last_data = 0
        self._blocks_until: dict[int, int] = {}
        self._open_burst: int | None = None
        self._open_sounding = False
        self._judged = 0
        self._passed = 0
        self._judged_wanted = self.wanted
        self._stalled = False

    @property
    def complete(self) -> bool:
        """True when an answer showed every block as held."""
        return bool(self._held.all())

    @property
    def held(self) -> NDArray[np.bool_]:
        """bool[n_blocks], what the last answer showed."""
        return self._held.copy()

    @property
    def informed(self) -> bool:
        """True when an answer covers the last burst sent that carried blocks, or else the last
        one."""
        return self._open_burst is None

    @property
    def unusable(self) -> bool:
        """True while the measured SNR lies below what the slowest MCS needs."""
        return not math.isnan(self.snr_db) and self._scheme() is None

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
        scheme = None if not self.informed or math.isnan(self.snr_db) else self._scheme()
        if scheme is None or len(self._held) == 0:
            # a sounding that was not answered has shown that the SNR is not what it was
            snr_db = math.nan if self._open_sounding else self.snr_db
            robust = bool(robust_sounding(snr_db))
            if sounding_samples(snr_db) <= left:
                yield self._burst(
                    MCS_TABLE[0 if robust else ROBUST], self._basis, 0, np.zeros(0, np.intp)
                )
            return
        basis = self._basis
        holes = np.flatnonzero(~self._held)
        places = self._places(len(holes), scheme, round_trip_samples)
        members = np.concatenate([holes, len(self._held) + np.arange(framing.MAX_REPAIR_BLOCKS)])
        while len(places) and scheme is not None and not self._shown_held(members[places]):
            # members of one burst stand side by side in the list
            run = int(np.argmax(np.append(np.diff(places) != 1, True))) + 1
            count = min(
                run, _fitting(min(left, BURST_SAMPLES), MCS_TABLE.index(scheme), self._layout)
            )
            if count < 1:
                return
            burst = self._burst(scheme, basis, int(places[0]), members[places[:count]])
            left -= len(burst.iq)
            places = places[count:]
            yield burst
            scheme = self._scheme()

    def _scheme(self) -> Mcs | None:
        return self.adaptation.choose(self.snr_db, self.snr_std_db)

    def _shown_held(self, members: NDArray[np.intp]) -> bool:
        """True if an answer that came during the window shows one of these blocks as held: then the
        window is over."""
        return bool(self._held[members[members < len(self._held)]].any())

    def _places(self, n_holes: int, scheme: Mcs, round_trip_samples: float) -> NDArray[np.intp]:
        """What a window carries: places in the list of holes and, behind them, repair blocks."""
        if self._stalled:
            return np.arange(min(n_holes, PROBE_BLOCKS))
        losses = self.adaptation.expected_losses(scheme, self.snr_db, self.snr_std_db)
        head = framing.burst_samples(0, scheme, robust=is_robust(MCS_TABLE.index(scheme)))
        repairs = (
            min(repair.repair_blocks_of(len(self._held)), framing.MAX_REPAIR_BLOCKS)
            - self._repair_sent
        )
        plan = repair.plan(
            self.wanted,
            losses,
            self._layout.coded_bits(scheme)
            / scheme.bits_per_symbol
            / ofdm.N_DATA
            * ofdm.SYMBOL_SAMPLES,
            round_trip_samples + head,
            most_spare=n_holes - self.wanted + max(0, repairs),
        )
        count = self.wanted + plan.spare
        of_holes, of_repair = min(count, n_holes), max(0, count - n_holes)
        fresh = n_holes + self._repair_sent + np.arange(of_repair)
        self._repair_sent += of_repair
        places = np.concatenate([np.arange(of_holes), fresh])
        # copies follow each other closely, so that the receiver need not keep soft values for long
        size = blocks_per_burst(MCS_TABLE.index(scheme), self._layout)
        return np.concatenate(
            [np.tile(places[k : k + size], plan.copies) for k in range(0, len(places), size)]
        )

    def _blocks(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """The blocks uint8[k, block payload bytes] with these indices, the repair blocks last."""
        n = len(self._source)
        blocks = self._source[indices[indices < n]]
        rows = indices[indices >= n] - n
        if len(rows) == 0:
            return blocks
        return np.concatenate([blocks, repair.encode(self._source, int(rows[0]), len(rows))])

    def _burst(
        self, scheme: Mcs, basis: int, first: int, indices: NDArray[np.intp]
    ) -> framing.Burst:
        place = MCS_TABLE.index(scheme)
        header = framing.BurstHeader(
            session=self._session,
            burst=self._next_burst,
            mcs=place,
            basis=basis,
            first=first,
            block_count=len(indices),
            payload_bytes=self._payload_bytes,
            tag=self._tag,
            robust=is_robust(place),
        )
        burst = framing.build_burst(
            header, self._blocks(indices), [int(index) for index in indices]
        )
        self.sent.samples += len(burst.iq)
        self.sent.bursts += 1
        self.sent.blocks += len(indices)
        self.sent.header_bits += 2 * framing.header_symbols(header.robust) * ofdm.N_DATA
        self.sent.data_bits += len(indices) * self._layout.coded_bits(scheme)
        if len(indices):
            self.blocks_by_mcs[scheme.name] = self.blocks_by_mcs.get(scheme.name, 0) + len(indices)
            self._last_data = header.burst
        self._blocks_until[header.burst] = self.sent.blocks
        self._open_burst, self._open_sounding = header.burst, len(indices) == 0
        self._next_burst = (header.burst + 1) % _MAX_BURSTS
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
        covered = self._covers(feedback)
        if feedback.bursts_found:
            if first and (self.sent.blocks == 0 or feedback.last_burst >= self._next_burst):
                # what it counts was sent in an earlier life of this session's sender
                self._passed = feedback.blocks_passed
                self._next_burst = max(self._next_burst, (feedback.last_burst + 1) % _MAX_BURSTS)
            self._judge(feedback, learn=not restarted)
        if covered:
            self._open_burst, self._open_sounding = None, False
        return feedback

    def _covers(self, feedback: Feedback) -> bool:
        """True if no block is on its way of which the answer does not tell: soundings that still
        are carry none."""
        since_last_data = (
            self._last_data <= feedback.last_burst < self._next_burst and feedback.bursts_found > 0
        )
        return self.sent.blocks == 0 or self._open_burst == feedback.last_burst or since_last_data

    def _judge(self, feedback: Feedback, *, learn: bool) -> None:
        """What became of the bursts up to the one that the answer names."""
        self._held, self.wanted, self._basis = (
            feedback.held,
            feedback.wanted,
            basis_of(feedback.sequence),
        )
        judged = max(self._judged, self._blocks_until.get(feedback.last_burst, 0))
        blocks = judged - self._judged
        if blocks and learn:
            passed = max(0, feedback.blocks_passed - self._passed)
            self.adaptation.observe(blocks, max(0, blocks - passed))
            self._stalled = self.wanted >= self._judged_wanted
        if blocks:
            self._judged_wanted = self.wanted
        self._judged, self._passed = judged, feedback.blocks_passed

    def concerns(self, feedback: Feedback) -> bool:
        """True for this session, and for a receiver that has read no header at all yet."""
        if feedback.tag == NO_TAG and feedback.bursts_found == 0:
            return len(feedback.held) == 0
        return (feedback.session, feedback.tag, len(feedback.held)) == (
            self._session,
            self._tag,
            len(self._held),
        )
