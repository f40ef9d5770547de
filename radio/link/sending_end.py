"""The sending end of a link whose receiving end runs elsewhere: joined by the radio, and by answers
that may be lost.

A window goes out no faster than the air takes it, and answers that come meanwhile steer what is
left of it. While nothing is answered, soundings go out at growing intervals and never data, for as
long as patience and limits last: a receiving radio may be away for seconds and come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hil.contract import Clock, FeedbackReceiver, LinkReport, Transceiver
from radio.link.burst_size import BURST_SAMPLES
from radio.link.feedback import Feedback
from radio.link.sender_driver import ANSWER_EVERY_S, MAX_MESSAGES, PAUSE_S, SenderDriver
from radio.link.session import Limits, SendingSession, Sounding
from radio.modem import framing

LEAD_S = 0.2
"""Air that the transmitter is kept supplied with: enough to build the next burst, little enough to
be steered."""
_LONGEST_PAUSE_S = 0.5
"""Longest pause between soundings: with the wait for an answer, one goes out about each second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstSent:
    """A burst that was handed to the transmitter.

    Attributes:
        session, burst: its numbers.
        indices: its blocks' places; none is a sounding, and repair blocks come after the payload's
            last block.
        at_s: time on the link's clock.
    """

    session: int
    burst: int
    indices: tuple[int, ...]
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTaken:
    """An answer that the sender goes by from now on.

    Attributes:
        session: number of the session that took it.
        epoch, sequence: its numbers.
        held: bool[n_blocks], which blocks the sender knows to be held.
        at_s: time on the link's clock.
    """

    session: int
    epoch: int
    sequence: int
    held: NDArray[np.bool_]
    at_s: float


def _ignore(event: BurstSent | AnswerTaken) -> None:
    pass


class SendingEnd(SenderDriver):
    """Delivers payloads to a ReceivingEnd.

    No block that the last answer showed as held is ever sent again. An end that starts anew in mid
    delivery goes on when it delivers the same payload under the same session number.

    Attributes:
        transceiver, feedback, clock: its radio (transmitting), the path of the answers, its time.
        adaptation: the choice of MCS, kept from payload to payload.
        patience_s: longest time without a new block held, or without any answer to a
            sounding.
        watch: called with every burst sent and every answer taken, in their order.
    """

    def __init__(
        self,
        transceiver: Transceiver,
        feedback: FeedbackReceiver,
        clock: Clock,
        *,
        first_session: int = 1,
        patience_s: float = 20.0,
        watch: Callable[[BurstSent | AnswerTaken], None] = _ignore,
    ) -> None:
        """A sending end; see the class for the arguments.

        Args:
            transceiver, feedback, clock, patience_s, watch: see the class.
            first_session: number of the first session.
        """
        super().__init__(transceiver, feedback, clock, first_session=first_session)
        self.patience_s = patience_s
        self.watch = watch
        self._air_free_s = -np.inf
        self._moved_s = 0.0

    def sound(self, limits: Limits | None = None, *, attempts: int | None = None) -> Sounding:
        """Measure the channel with header-only bursts until one is answered.

        Args:
            limits: airtime and time it may take.
            attempts: bursts at most, ≥ 1; None: as many as patience allows.
        """
        session = self._open(b"", limits)
        sender = session.sender
        while self._turn(session) and not sender.answered:
            if sender.sent.bursts == attempts or self._give_up_reason(session, sender.sent.bursts):
                break
            self._pause(session, sender.sent.bursts)
        return session.measured(self.transceiver.sample_rate_hz, self.clock.now())

    def deliver(
        self, payload: bytes, limits: Limits | None = None, *, sounding: Sounding | None = None
    ) -> LinkReport:
        """Carry a payload to the other end.

        Args:
            payload: 1..framing.MAX_PAYLOAD_BYTES bytes.
            limits: bounds on airtime and time.
            sounding: made just before by sound(): it is counted in the report, and its SNR picks
                the first MCS. Without one, the end sounds first.

        Returns:
            The report, delivered when an answer showed every block as held. Losses are counted as
            the answers tell them, so that what no answer covers is lost, and the other end may hold
            more than prefix_bytes.

        Raises:
            ConfigError: for an empty payload, or one that is too long.
            DeviceError: if the transceiver is broken.
        """
        session, reason = self._carry(payload, limits, sounding)
        held = session.sender.held
        whole = len(held) if held.all() else int(np.argmin(held))
        prefix_bytes = min(
            len(payload), whole * framing.layout_of(len(payload)).block_payload_bytes
        )
        rate, now_s = self.transceiver.sample_rate_hz, self.clock.now()
        return session.report(rate, now_s, reason=reason, prefix_bytes=prefix_bytes)

    # ---------------------------------------------------------------------------------------------
    # driving

    def _open(
        self, payload: bytes, limits: Limits | None, sounding: Sounding | None = None
    ) -> SendingSession:
        for _ in range(MAX_MESSAGES):  # what still waits there speaks of earlier sessions
            if self.feedback.receive(0.0) is None:
                break
        self._moved_s = self.clock.now()
        return super()._open(payload, limits, sounding)

    def _turn(self, session: SendingSession) -> bool:
        sender, bursts_before = session.sender, session.sender.sent.bursts
        self._send_window(session)
        if sender.sent.bursts == bursts_before:
            return False
        self._listen(
            session, max(self.clock.now(), self._air_free_s) + session.limits.feedback_timeout_s
        )
        return True

    def _send_window(self, session: SendingSession) -> None:
        """Transmit bursts until nothing is left to send, or nothing is heard of those before."""
        sender, rate = session.sender, self.transceiver.sample_rate_hz
        heard_s = self.clock.now()
        overdue_s = BURST_SAMPLES / rate + ANSWER_EVERY_S + session.limits.feedback_timeout_s
        for burst in sender.window(self._room(session, heard_s), self._round_trip_s * rate):
            answered = sender.answered
            self._transmit(burst)
            self._listen(session, self._air_free_s - LEAD_S)
            now_s = self.clock.now()
            heard_s = now_s if sender.answered > answered else heard_s
            if now_s > heard_s + overdue_s:
                return

    def _transmit(self, burst: framing.Burst) -> None:
        """Hand a burst to the radio, which may still have others to play, or may play this one
        before it returns."""
        begins_s = max(self.clock.now(), self._air_free_s)
        header = burst.header
        self.watch(
            BurstSent(
                session=header.session, burst=header.burst, indices=burst.indices, at_s=begins_s
            )
        )
        self.transceiver.transmit(burst.iq)
        ends_s = begins_s + len(burst.iq) / self.transceiver.sample_rate_hz
        self._air_free_s = max(ends_s, self.clock.now())
        self._moved_s += (
            self._air_free_s - ends_s
        )  # patience is with the other end, not with this radio

    def _listen(self, session: SendingSession, until_s: float) -> None:
        """Take answers until one covers what was sent, at most until until_s."""
        sender = session.sender
        until_s = min(until_s, session.began_s + session.limits.elapsed_s)
        for _ in range(MAX_MESSAGES):
            message = self.feedback.receive(max(0.0, until_s - self.clock.now()))
            if message is None:
                return
            session.feedback_bytes += len(message)
            wanted, informed = sender.wanted, sender.informed
            answer = sender.on_feedback(message)
            if answer is None:
                continue
            now_s = self.clock.now()
            self._note(session, answer, now_s)
            if sender.wanted < wanted:
                self._moved_s = now_s
            if sender.informed:
                until_s = now_s  # what else is there already is taken, too
            if sender.informed and not informed:
                trip_s = max(0.0, now_s - self._air_free_s)
                self._round_trip_s = min(trip_s, session.limits.feedback_timeout_s)

    def _note(self, session: SendingSession, answer: Feedback, now_s: float) -> None:
        session.count(answer, now_s)
        self.watch(
            AnswerTaken(
                session=session.number,
                epoch=answer.epoch,
                sequence=answer.sequence,
                held=session.sender.held,
                at_s=now_s,
            )
        )

    def _give_up_reason(self, session: SendingSession, idle: int) -> str:
        waited = self.clock.now() - self._moved_s >= self.patience_s
        return session.idle_reason(f"{self.patience_s:g} s") if waited and idle else ""

    def _pause(self, session: SendingSession, idle: int) -> None:
        until_s = self.clock.now() + min(PAUSE_S * 2 ** min(idle, 10), _LONGEST_PAUSE_S)
        if session.sender.informed:
            until_s = min(until_s, session.began_s + session.limits.elapsed_s)
            self.clock.sleep_until(until_s)
        else:
            self._listen(session, until_s)
