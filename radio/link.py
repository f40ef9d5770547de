"""The link: a payload goes in, a report and the payload on the other side come out.

`Sender` and `Receiver` are the two ends, without I/O. `Link` drives both in turns over one transceiver, one feedback
path and one clock: a window of bursts, an answer, the holes again. In a long window the receiver also answers on the
way, which nobody waits for: what comes back steers the MCS of the bursts that are left. It always ends: by success, by
a limit on airtime or time, or when several turns in a row bring nothing new.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hil.contract import Clock, ConfigError, FeedbackPath, LinkReport, Transceiver
from radio import framing, ofdm, snr
from radio.adaptation import Adaptation, usable
from radio.block_store import BlockStore
from radio.budget import airtime_s, payload_bits
from radio.feedback import Feedback
from radio.mcs import MCS_TABLE
from radio.receiver import Receiver
from radio.sender import Sender

__all__ = ["Limits", "Link", "Receiver", "Sender", "Sounding", "airtime_s", "payload_bits"]

GUARD_SAMPLES = 4096
"""Samples received beyond those sent: room for delay."""
_MAX_MESSAGES_PER_TURN = 64
_ANSWER_EVERY_S = 0.2
"""Air after which the receiver answers within a window; the first burst of a payload is answered at once."""
_PATIENCE_S = 0.05
"""Wait after a turn that brought nothing new, doubled from turn to turn: a fade may pass."""

OCCUPIED_SUBCARRIERS = ofdm.N_USED + 1
"""Used subcarriers and DC between them: occupied bandwidth = this x sample rate / 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to give up.

    Attributes:
        airtime_s: most air that a payload may use, its sounding included.
        elapsed_s: longest time on the link's clock.
        idle_turns: turns in a row without a new block held, after which the channel counts as unusable.
        feedback_timeout_s: wait for each answer; above the feedback path's delay.
    """

    airtime_s: float = math.inf
    elapsed_s: float = 60.0
    idle_turns: int = 4
    feedback_timeout_s: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sounding:
    """The channel as a sounding burst showed it; NaN where nothing was heard.

    Attributes:
        reason: "" if the channel carries data, else why not: no answer, or too weak.
        snr_db, snr_std_db: Es/N0 per used subcarrier.
        flat_snr_db: SNR of a channel without fading of the same capacity: what can be carried goes by this.
        data_aided: False if only the preamble could be used.
        evm_rms, cfo_hz: as in LinkReport.
        measured_at_s: on the link's clock.
        airtime_s, elapsed_s, header_bits_on_air, bursts_sent, bursts_lost, feedback_bytes: what it cost.
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


@dataclass(slots=True)
class _Session:
    """One sender's dealings, as they add up."""

    sender: Sender
    limits: Limits
    began_s: float
    airtime_before_s: float = 0.0
    measurements: list[snr.SnrMeasurement] = field(default_factory=list)
    answer: Feedback | None = None
    bursts_found: int = 0
    blocks_passed: int = 0
    counts: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    feedback_bytes: int = 0
    measured_at_s: float = math.nan
    answered_at_samples: int = 0
    answered_at_s: float = math.nan

    def heard(self, answer: Feedback, now_s: float) -> None:
        """Keep what the receiver measured, and count what it found; one that has started anew counts from 0.

        Its counts are of the session that it answers: an answer to bursts whose headers were unreadable stands between
        two of ours, and must not make it look like a new start.
        """
        before = self.counts.get((answer.epoch, answer.tag), (0, 0))
        self.counts[answer.epoch, answer.tag] = (answer.bursts_found, answer.blocks_passed)
        bursts, blocks = answer.bursts_found - before[0], answer.blocks_passed - before[1]
        if self.sender.sent.blocks == 0:  # the rest was sent in an earlier life of this session's sender
            bursts, blocks = min(bursts, self.sender.sent.bursts - self.bursts_found), 0
        self.bursts_found += bursts
        self.blocks_passed += blocks
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


class Link:
    """Both ends of the link in one process, in turns.

    Attributes:
        transceiver, feedback, clock: what it works over.
        receiver: the receiving end, kept from payload to payload.
        adaptation: the choice of MCS, kept from payload to payload.
    """

    def __init__(
        self,
        transceiver: Transceiver,
        feedback: FeedbackPath,
        clock: Clock,
        *,
        first_session: int = 1,
        store: BlockStore | None = None,
    ) -> None:
        """A link.

        Args:
            transceiver: transmitter and receiver with the air between them.
            feedback: from the receiver to the sender.
            clock: of the transceiver and the feedback path.
            first_session: number of the first session; the receiver's epoch is the same. A link that starts again with
                it goes on with the payloads that its store holds in part.
            store: keeps what the receiver verified over a restart.
        """
        self.transceiver = transceiver
        self.feedback = feedback
        self.clock = clock
        self.receiver = Receiver(epoch=first_session, store=store)
        self.adaptation = Adaptation()
        self._next_session = first_session
        self._round_trip_s = 0.0

    @property
    def bandwidth_hz(self) -> float:
        """Occupied bandwidth at the transceiver's sample rate."""
        return self.transceiver.sample_rate_hz * OCCUPIED_SUBCARRIERS / ofdm.N_FFT

    @property
    def next_session(self) -> int:
        """Number of the session that the next sound() or deliver() opens."""
        return self._next_session

    def sound(self, limits: Limits | None = None, *, attempts: int = 2) -> Sounding:
        """Measure the channel with a header-only burst; a second one if the first was not answered.

        Args:
            limits: airtime and time it may take.
            attempts: bursts at most, ≥ 1.
        """
        session = self._open(b"", limits or Limits())
        while session.sender.sent.bursts < attempts and not session.sender.answered:
            if not self._turn(session):
                break
        sender, answer = session.sender, session.answer
        heard = session.measurements[-1] if session.measurements else None
        reason = "" if sender.answered else f"none of {sender.sent.bursts} sounding bursts was answered"
        return Sounding(
            reason=_too_weak(heard.flat_snr_db) if heard and not usable(heard.flat_snr_db) else reason,
            snr_db=heard.snr_db if heard else math.nan,
            snr_std_db=heard.snr_std_db if heard else math.nan,
            flat_snr_db=heard.flat_snr_db if heard else math.nan,
            data_aided=heard.data_aided if heard else False,
            evm_rms=answer.evm_rms if answer else math.nan,
            cfo_hz=answer.cfo_hz if answer else math.nan,
            measured_at_s=session.measured_at_s,
            airtime_s=sender.sent.samples / self.transceiver.sample_rate_hz,
            elapsed_s=self.clock.now() - session.began_s,
            header_bits_on_air=sender.sent.header_bits,
            bursts_sent=sender.sent.bursts,
            bursts_lost=sender.sent.bursts - session.bursts_found,
            feedback_bytes=session.feedback_bytes,
        )

    def deliver(
        self, payload: bytes, limits: Limits | None = None, *, sounding: Sounding | None = None
    ) -> tuple[LinkReport, bytes | None]:
        """Carry a payload across.

        Args:
            payload: 1..framing.MAX_PAYLOAD_BYTES bytes.
            limits: when to give up.
            sounding: made just before by sound(): it is counted in the report, and its SNR picks the first MCS. Without
                one, the link sounds first.

        Returns:
            The report, and the payload as the receiver holds it: whole and equal by its hash, or None. Of a payload
            that a limit cut off, receiver.prefix(next_session - 1) gives the beginning, report.prefix_bytes its length.

        Raises:
            ConfigError: for an empty payload, or one that is too long.
            DeviceError: if the transceiver is broken.
        """
        if not payload:
            raise ConfigError("payload is empty; the link carries at least 1 byte")
        session = self._open(payload, limits or Limits(), sounding)
        reason = self._drive(session)
        received = self.receiver.payload(self._next_session - 1)
        return self._report(session, sounding, len(payload), "" if received is not None else reason), received

    def _open(self, payload: bytes, limits: Limits, sounding: Sounding | None = None) -> _Session:
        sender = Sender(
            payload,
            session=self._next_session,
            adaptation=self.adaptation,
            snr_db=sounding.flat_snr_db if sounding else math.nan,
            snr_std_db=sounding.snr_std_db if sounding else 0.0,
        )
        self._next_session += 1
        spent_s = sounding.airtime_s if sounding else 0.0
        return _Session(sender=sender, limits=limits, began_s=self.clock.now(), airtime_before_s=spent_s)

    def _drive(self, session: _Session) -> str:
        """Turns until the sender knows all blocks to be held (""), or the reason why no more are made."""
        sender = session.sender
        idle = 0
        while not sender.complete:
            wanted, blocks = sender.wanted, sender.sent.blocks
            if not self._turn(session):
                return self._limit_reason(session)
            if sender.wanted < wanted:
                idle = 0
            elif sender.sent.blocks > blocks or sender.unusable or not sender.informed:
                idle += 1  # a sounding that found a usable channel is neither progress nor a turn in vain
            if idle >= session.limits.idle_turns:
                return self._idle_reason(sender, idle)
            if idle and (sender.unusable or not sender.informed):
                wait_s = min(_PATIENCE_S * 2**idle, max(0.0, self._elapsed_left_s(session)))
                self.clock.sleep_until(self.clock.now() + wait_s)
        return "the receiver holds every block, but not the payload that was sent"

    def _idle_reason(self, sender: Sender, idle: int) -> str:
        if sender.answered == 0:
            return f"none of {sender.sent.bursts} bursts was answered"
        if sender.unusable:
            return f"unusable: {_too_weak(sender.snr_db)}"
        return f"no new block in {idle} turns at a measured SNR of {sender.snr_db:.1f} dB"

    def _limit_reason(self, session: _Session) -> str:
        limits = session.limits
        if self._elapsed_left_s(session) < self._airtime_left_s(session):
            return f"time limit of {limits.elapsed_s:g} s reached"
        return f"airtime limit of {limits.airtime_s:g} s reached"

    def _airtime_left_s(self, session: _Session) -> float:
        own_s = session.sender.sent.samples / self.transceiver.sample_rate_hz
        return session.limits.airtime_s - session.airtime_before_s - own_s

    def _elapsed_left_s(self, session: _Session) -> float:
        return session.began_s + session.limits.elapsed_s - self.clock.now()

    def _turn(self, session: _Session) -> bool:
        """One window and its answer; False if no burst fits the limits any more."""
        rate = self.transceiver.sample_rate_hz
        left_s = min(self._airtime_left_s(session), self._elapsed_left_s(session), 3600.0)
        sent, bursts_before = session.sender.sent, session.sender.sent.bursts
        more = False
        for burst in session.sender.window(math.floor(left_s * rate + 1e-6), self._round_trip_s * rate):
            self.transceiver.transmit(burst.iq)
            more = self._hear(len(burst.iq) + GUARD_SAMPLES)
            if self._answer_is_due(session):
                self._answer(session)
            self._take(session, 0.0)
        if sent.bursts == bursts_before:
            return False
        self._hear_out(more)
        if session.answered_at_samples < sent.samples:
            self._answer(session)
        if self._take(session, max(0.0, min(session.limits.feedback_timeout_s, self._elapsed_left_s(session)))):
            self._round_trip_s = self.clock.now() - session.answered_at_s
        return True

    def _answer_is_due(self, session: _Session) -> bool:
        """True when the receiver should answer without waiting for the window's end."""
        air_s = (session.sender.sent.samples - session.answered_at_samples) / self.transceiver.sample_rate_hz
        return (session.answered_at_samples == 0 or air_s >= _ANSWER_EVERY_S) and not self.receiver.mid_burst

    def _answer(self, session: _Session) -> None:
        """The receiver's end: say what was heard since the last answer."""
        session.answered_at_samples, session.answered_at_s = session.sender.sent.samples, self.clock.now()
        answer = self.receiver.feedback()
        if answer is not None:
            session.heard(answer, self.clock.now())
            message = answer.pack()
            session.feedback_bytes += len(message)
            self.feedback.send(message)

    def _hear(self, n_samples: int) -> bool:
        """Feed the receiver at most n_samples off the air; False if fewer came: then whatever was cut stays cut."""
        rate = self.transceiver.sample_rate_hz
        samples = self.transceiver.receive(n_samples, timeout_s=2 * n_samples / rate + 0.1)
        if len(samples):
            self.receiver.feed(samples, rate)
        if len(samples) < n_samples:
            self.receiver.flush(rate)
        return len(samples) == n_samples

    def _hear_out(self, more: bool) -> None:
        """Let a burst that came late end, within the length of the longest; what is cut then stays cut."""
        for _ in range(framing.MAX_BURST_SAMPLES // GUARD_SAMPLES + 1):
            if not (more and self.receiver.mid_burst):
                break
            more = self._hear(GUARD_SAMPLES)
        if self.receiver.mid_burst:
            self.receiver.flush(self.transceiver.sample_rate_hz)

    def _take(self, session: _Session, timeout_s: float) -> bool:
        """The sender's end: take answers until the newest is taken, or the wait is over; True if it was taken."""
        sender, until_s = session.sender, self.clock.now() + timeout_s
        newest = session.answer.sequence if session.answer else math.inf
        for _ in range(_MAX_MESSAGES_PER_TURN):
            if sender.sequence == newest:
                return True
            message = self.feedback.receive(max(0.0, until_s - self.clock.now()))
            if message is None:
                return False
            sender.on_feedback(message)
        return False

    def _report(self, session: _Session, sounding: Sounding | None, payload_bytes: int, reason: str) -> LinkReport:
        sent, answer = session.sender.sent, session.answer
        measured = snr.combine(session.measurements) if session.measurements else None
        return LinkReport(
            delivered=not reason,
            reason=reason,
            payload_bytes=payload_bytes,
            airtime_s=session.airtime_before_s + sent.samples / self.transceiver.sample_rate_hz,
            elapsed_s=self.clock.now() - session.began_s + (sounding.elapsed_s if sounding else 0.0),
            bits_on_air=sent.data_bits,
            header_bits_on_air=sent.header_bits + (sounding.header_bits_on_air if sounding else 0),
            bursts_sent=sent.bursts + (sounding.bursts_sent if sounding else 0),
            bursts_lost=sent.bursts - session.bursts_found + (sounding.bursts_lost if sounding else 0),
            blocks_sent=sent.blocks,
            blocks_lost=sent.blocks - session.blocks_passed,
            blocks_by_mcs=dict(session.sender.blocks_by_mcs),
            snr_db=measured.snr_db if measured else math.nan,
            snr_std_db=measured.snr_std_db if measured else math.nan,
            evm_rms=answer.evm_rms if answer else math.nan,
            cfo_hz=answer.cfo_hz if answer else math.nan,
            feedback_bytes=session.feedback_bytes + (sounding.feedback_bytes if sounding else 0),
            prefix_bytes=len(self.receiver.prefix(self._next_session - 1)),
        )


def _too_weak(snr_db: float) -> str:
    return f"measured SNR of {snr_db:.1f} dB; the slowest MCS needs {MCS_TABLE[0].threshold_db:.1f} dB"
