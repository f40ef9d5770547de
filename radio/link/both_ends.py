"""The link: a payload goes in, a report and the payload on the other side come out.

`Sender` and `Receiver` are the two ends, without I/O. `Link` drives both in turns over one
transceiver, one feedback path and one clock: a window of bursts, an answer, the holes again. In a
long window the receiver also answers on the way, which nobody waits for: what comes back steers the
MCS of the bursts that are left. It always ends: by success, by a limit on airtime or time, or when
several turns in a row bring nothing new. Where each end has a process of its own, SendingEnd and
ReceivingEnd drive them.
"""

from __future__ import annotations

import math

from hil.contract import Clock, FeedbackPath, LinkReport, Transceiver
from radio.link.block_store import BlockStore
from radio.link.receiver import Receiver
from radio.link.sender_driver import ANSWER_EVERY_S, MAX_MESSAGES, PAUSE_S, SenderDriver
from radio.link.session import Limits, SendingSession, Sounding
from radio.modem import framing

GUARD_SAMPLES = 4096
"""Samples received beyond those sent: room for delay."""


class Link(SenderDriver):
    """Both ends of the link in one process, in turns.

    Attributes:
        transceiver, feedback, clock: its radio, the path of the answers, its time.
        receiver: the receiving end, kept from payload to payload.
        adaptation: the choice of MCS, kept from payload to payload.
    """

    feedback: FeedbackPath

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
            feedback: path from the receiver to the sender.
            clock: time of the transceiver and the feedback path.
            first_session: number of the first session; the receiver's epoch is the same. A link
                that starts again with it goes on with the payloads that its store holds in part.
            store: keeps what the receiver verified over a restart.
        """
        super().__init__(transceiver, feedback, clock, first_session=first_session)
        self.receiver = Receiver(epoch=first_session, store=store)
        self._answered_at_samples = 0
        self._answered_at_s = math.nan
        self._newest_sequence = math.inf

    def sound(self, limits: Limits | None = None, *, attempts: int = 2) -> Sounding:
        """Measure the channel with a header-only burst; a second one if the first was not answered.

        Args:
            limits: airtime and time it may take.
            attempts: bursts at most, ≥ 1.
        """
        session = self._open(b"", limits)
        while session.sender.sent.bursts < attempts and not session.sender.answered:
            if not self._turn(session):
                break
        return session.measured(self.transceiver.sample_rate_hz, self.clock.now())

    def deliver(
        self, payload: bytes, limits: Limits | None = None, *, sounding: Sounding | None = None
    ) -> tuple[LinkReport, bytes | None]:
        """Carry a payload across.

        Args:
            payload: 1..framing.MAX_PAYLOAD_BYTES bytes.
            limits: bounds on airtime and time.
            sounding: made just before by sound(): it is counted in the report, and its SNR picks
                the first MCS. Without one, the link sounds first.

        Returns:
            The report, and the payload as the receiver holds it: whole and equal by its hash, or
            None. Of a payload that a limit cut off, receiver.prefix(next_session - 1) gives the
            beginning, report.prefix_bytes its length.

        Raises:
            ConfigError: for an empty payload, or one that is too long.
            DeviceError: if the transceiver is broken.
        """
        session, reason = self._carry(payload, limits, sounding)
        received = self.receiver.payload(session.number)
        if received is not None:
            reason = ""
        elif not reason:
            reason = "the receiver holds every block, but not the payload that was sent"
        prefix_bytes = len(self.receiver.prefix(session.number))
        rate, now_s = self.transceiver.sample_rate_hz, self.clock.now()
        return session.report(rate, now_s, reason=reason, prefix_bytes=prefix_bytes), received

    # ---------------------------------------------------------------------------------------------
    # the sender's end

    def _open(
        self, payload: bytes, limits: Limits | None, sounding: Sounding | None = None
    ) -> SendingSession:
        self._answered_at_samples, self._answered_at_s, self._newest_sequence = (
            0,
            math.nan,
            math.inf,
        )
        return super()._open(payload, limits, sounding)

    def _turn(self, session: SendingSession) -> bool:
        rate = self.transceiver.sample_rate_hz
        sent, bursts_before = session.sender.sent, session.sender.sent.bursts
        more = False
        for burst in session.sender.window(
            self._room(session, self.clock.now()), self._round_trip_s * rate
        ):
            self.transceiver.transmit(burst.iq)
            more = self._hear(len(burst.iq) + GUARD_SAMPLES)
            if self._answer_is_due(session):
                self._answer(session)
            self._take(session, 0.0)
        if sent.bursts == bursts_before:
            return False
        self._hear_out(more)
        if self._answered_at_samples < sent.samples:
            self._answer(session)
        elapsed_left_s = session.elapsed_left_s(self.clock.now())
        if self._take(session, max(0.0, min(session.limits.feedback_timeout_s, elapsed_left_s))):
            self._round_trip_s = self.clock.now() - self._answered_at_s
        return True

    def _give_up_reason(self, session: SendingSession, idle: int) -> str:
        return session.idle_reason(f"{idle} turns") if idle >= session.limits.idle_turns else ""

    def _pause(self, session: SendingSession, idle: int) -> None:
        now_s = self.clock.now()
        self.clock.sleep_until(
            now_s + min(PAUSE_S * 2**idle, max(0.0, session.elapsed_left_s(now_s)))
        )

    def _take(self, session: SendingSession, timeout_s: float) -> bool:
        """Take answers until the newest is taken, or the wait is over; True if it was taken."""
        sender, until_s = session.sender, self.clock.now() + timeout_s
        for _ in range(MAX_MESSAGES):
            if sender.sequence == self._newest_sequence:
                return True
            message = self.feedback.receive(max(0.0, until_s - self.clock.now()))
            if message is None:
                return False
            sender.on_feedback(message)
        return False

    # ---------------------------------------------------------------------------------------------
    # the receiver's end

    def _answer_is_due(self, session: SendingSession) -> bool:
        """True when the receiver should answer without waiting for the window's end."""
        air_s = (
            session.sender.sent.samples - self._answered_at_samples
        ) / self.transceiver.sample_rate_hz
        return (
            self._answered_at_samples == 0 or air_s >= ANSWER_EVERY_S
        ) and not self.receiver.mid_burst

    def _answer(self, session: SendingSession) -> None:
        """Say what was heard since the last answer."""
        self._answered_at_samples, self._answered_at_s = (
            session.sender.sent.samples,
            self.clock.now(),
        )
        answer = self.receiver.feedback()
        if answer is not None:
            self._newest_sequence = answer.sequence
            if session.sender.concerns(
                answer
            ):  # one that heard nothing of this session speaks of an older one's
                session.count(answer, self.clock.now())
            message = answer.pack()
            session.feedback_bytes += len(message)
            self.feedback.send(message)

    def _hear(self, n_samples: int) -> bool:
        """Feed the receiver at most n_samples off the air; False if fewer came: then whatever was
        cut stays cut."""
        rate = self.transceiver.sample_rate_hz
        samples = self.transceiver.receive(n_samples, timeout_s=2 * n_samples / rate + 0.1)
        if len(samples):
            self.receiver.feed(samples, rate)
        if len(samples) < n_samples:
            self.receiver.flush(rate)
        return len(samples) == n_samples

    def _hear_out(self, more: bool) -> None:
        """Let a burst that came late end, within the length of the longest; what is cut then stays
        cut."""
        for _ in range(framing.MAX_BURST_SAMPLES // GUARD_SAMPLES + 1):
            if not (more and self.receiver.mid_burst):
                break
            more = self._hear(GUARD_SAMPLES)
        if self.receiver.mid_burst:
            self.receiver.flush(self.transceiver.sample_rate_hz)
