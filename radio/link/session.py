"""One session of the sending side: its limits, what it has cost, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hil.contract import LinkReport
from radio.link.feedback import Feedback
from radio.link.sender import Sender
from radio.modem import ofdm, snr

OCCUPIED_SUBCARRIERS = ofdm.N_USED + 1
"""Used subcarriers and DC between them: occupied bandwidth = this x sample rate / 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds after which a session gives up.

    Attributes:
        airtime_s: most air that a payload may use, its sounding included.
        elapsed_s: longest time on the link's clock.
        idle_turns: turns in a row without a new block held, after which link.Link takes the channel
            as unusable.
        feedback_timeout_s: wait for each answer; above the feedback path's delay.
    """

    airtime_s: float = math.inf
    elapsed_s: float = 60.0
    idle_turns: int = 4
    feedback_timeout_s: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sounding:
    """The channel as a sounding burst showed it; NaN where no answer came.

    Attributes:
        reason: "" if the channel carries data, else why not: no answer, or too weak.
        snr_db, snr_std_db: Es/N0 per used subcarrier.
        flat_snr_db: SNR of a channel without fading of the same capacity: what can be carried goes
            by this.
        data_aided: False if only the preamble could be used.
        evm_rms, cfo_hz: LinkReport's.
        measured_at_s: time on the link's clock.
        airtime_s, elapsed_s, header_bits_on_air, bursts_sent, bursts_lost, feedback_bytes: what it
            cost.
    """

    reason: str
    snr_db: float
    snr_std_db: float
    flat_snr_db: float
    data_aided: bool
    evm_rms: float
    cfo_hz: float
    measured_at_s: float
    airtime_s: float
    elapsed_s: float
    header_bits_on_air: int
    bursts_sent: int
    bursts_lost: int
    feedback_bytes: int

    def as_report(self) -> LinkReport:
        """The report of a round that went no further than this sounding."""
        return LinkReport(
            delivered=False,
            reason=self.reason,
            payload_bytes=0,
            airtime_s=self.airtime_s,
            elapsed_s=self.elapsed_s,
            bits_on_air=0,
            header_bits_on_air=self.header_bits_on_air,
            bursts_sent=self.bursts_sent,
            bursts_lost=self.bursts_lost,
            blocks_sent=0,
            blocks_lost=0,
            snr_db=self.snr_db,
            snr_std_db=self.snr_std_db,
            evm_rms=self.evm_rms,
            cfo_hz=self.cfo_hz,
            feedback_bytes=self.feedback_bytes,
        )


@dataclass(slots=True, kw_only=True)
class SendingSession:
    """What one session of a sender has cost and brought so far.

    Attributes:
        number: the session's number.
        sender: the payload's sender.
        payload_bytes: its length; 0 for a sounding.
        limits: bounds on airtime and time.
        began_s: start on the link's clock.
        sounding: made just before and counted in, or None.
        answer: the latest that is counted.
        measurements: SNR of each answer that is counted.
        bursts_found, blocks_passed: what the receiver found, as its answers count it.
        feedback_bytes: length of all answers.
        measured_at_s: time at which the latest answer was counted.
    """

    number: int
    sender: Sender
    payload_bytes: int
    limits: Limits
    began_s: float
    sounding: Sounding | None = None
    answer: Feedback | None = None
    measurements: list[snr.SnrMeasurement] = field(default_factory=list)
    bursts_found: int = 0
    blocks_passed: int = 0
    feedback_bytes: int = 0
    measured_at_s: float = math.nan
    _counts: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)

    def count(self, answer: Feedback, now_s: float) -> None:
        """Keep what the receiver measured, and count what it found; one that has started anew
        counts from 0.

        Its counts are of the session that it answers: an answer to bursts whose headers were
        unreadable stands between two of ours, and must not make it look like a new start. It cannot
        have found more than was sent: the rest was sent in an earlier life of this session's
        sender.
        """
        before = self._counts.get((answer.epoch, answer.tag), (0, 0))
        self._counts[answer.epoch, answer.tag] = (answer.bursts_found, answer.blocks_passed)
        sent = self.sender.sent
        self.bursts_found = min(self.bursts_found + answer.bursts_found - before[0], sent.bursts)
        self.blocks_passed = min(self.blocks_passed + answer.blocks_passed - before[1], sent.blocks)
        self.answer = answer
        self.measured_at_s = now_s
        self.measurements.append(
            snr.SnrMeasurement(
                snr_db=answer.snr_db,
                snr_std_db=answer.snr_std_db,
                data_aided=answer.data_aided,
                flat_snr_db=answer.flat_snr_db,
            )
        )

    # ---------------------------------------------------------------------------------------------
    # limits

    def airtime_left_s(self, rate_hz: float) -> float:
        """Air that may still be used."""
        before_s = self.sounding.airtime_s if self.sounding else 0.0
        return self.limits.airtime_s - before_s - self.sender.sent.samples / rate_hz

    def elapsed_left_s(self, now_s: float) -> float:
        """Time that is left at now_s."""
        return self.began_s + self.limits.elapsed_s - now_s

    def limit_reason(self, rate_hz: float, now_s: float) -> str:
        """Which limit leaves no room for another burst."""
        if self.elapsed_left_s(now_s) < self.airtime_left_s(rate_hz):
            return f"time limit of {self.limits.elapsed_s:g} s reached"
        return f"airtime limit of {self.limits.airtime_s:g} s reached"

    def idle_reason(self, wait: str) -> str:
        """What kept new blocks from arriving for so long as `wait` says."""
        sender = self.sender
        if sender.answered == 0:
            return f"none of {sender.sent.bursts} bursts was answered"
        if sender.unusable:
            return f"unusable: {sender.adaptation.too_weak(sender.snr_db)}"
        return f"no new block in {wait} at a measured SNR of {sender.snr_db:.1f} dB"

    # ---------------------------------------------------------------------------------------------
    # results

    def measured(self, rate_hz: float, now_s: float) -> Sounding:
        """The channel as this session, a sounding, showed it."""
        sender = self.sender
        # What a receiver measured is not known here before its answer has arrived.
        answer, heard = (self.answer, self.measurements[-1]) if sender.answered else (None, None)
        unanswered = f"none of {sender.sent.bursts} sounding bursts was answered"
        return Sounding(
            reason=sender.adaptation.too_weak(heard.flat_snr_db) if heard else unanswered,
            snr_db=heard.snr_db if heard else math.nan,
            snr_std_db=heard.snr_std_db if heard else math.nan,
            flat_snr_db=heard.flat_snr_db if heard else math.nan,
            data_aided=heard.data_aided if heard else False,
            evm_rms=answer.evm_rms if answer else math.nan,
            cfo_hz=answer.cfo_hz if answer else math.nan,
            measured_at_s=self.measured_at_s if heard else math.nan,
            airtime_s=sender.sent.samples / rate_hz,
            elapsed_s=now_s - self.began_s,
            header_bits_on_air=sender.sent.header_bits,
            bursts_sent=sender.sent.bursts,
            bursts_lost=sender.sent.bursts - self.bursts_found,
            feedback_bytes=self.feedback_bytes,
        )

    def report(self, rate_hz: float, now_s: float, *, reason: str, prefix_bytes: int) -> LinkReport:
        """How the payload crossed the radio.

        Args:
            rate_hz: sample rate.
            now_s: the session's end.
            reason: why the payload was not delivered, "" if it was.
            prefix_bytes: length of its beginning that the receiver holds.
        """
        sent, answer, sounding = self.sender.sent, self.answer, self.sounding
        measured = snr.combine(self.measurements) if self.measurements else None
        return LinkReport(
            delivered=not reason,
            reason=reason,
            payload_bytes=self.payload_bytes,
            airtime_s=(sounding.airtime_s if sounding else 0.0) + sent.samples / rate_hz,
            elapsed_s=now_s - self.began_s + (sounding.elapsed_s if sounding else 0.0),
            bits_on_air=sent.data_bits,
            header_bits_on_air=sent.header_bits + (sounding.header_bits_on_air if sounding else 0),
            bursts_sent=sent.bursts + (sounding.bursts_sent if sounding else 0),
            bursts_lost=sent.bursts - self.bursts_found + (sounding.bursts_lost if sounding else 0),
            blocks_sent=sent.blocks,
            blocks_lost=sent.blocks - self.blocks_passed,
            blocks_by_mcs=dict(sent.blocks_by_mcs),
            snr_db=measured.snr_db if measured else math.nan,
            snr_std_db=measured.snr_std_db if measured else math.nan,
            evm_rms=answer.evm_rms if answer else math.nan,
            cfo_hz=answer.cfo_hz if answer else math.nan,
            feedback_bytes=self.feedback_bytes + (sounding.feedback_bytes if sounding else 0),
            prefix_bytes=prefix_bytes,
        )
