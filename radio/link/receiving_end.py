"""The receiving end of a link whose sending end runs elsewhere: hears the radio, and answers by
itself."""

from __future__ import annotations

import math

from hil.contract import IQ, Clock, FeedbackSender, Transceiver
from radio.link.block_store import BlockStore
from radio.link.receiver import Receiver, Reception
from radio.link.sender_driver import ANSWER_EVERY_S

STEP_S = 0.01
"""Air that is heard in one go; one without any burst ends a window."""
_STALL_S = 0.5
"""Longest that a stream of samples may hang, on a machine with much to do, without counting as
cut."""


class ReceivingEnd:
    """Collects what a SendingEnd sends, and answers.

    It answers only when bursts came since its last answer, and then: at once to the first burst of
    a session, every 0.2 s of air within a window, and when the air falls silent.

    Attributes:
        transceiver, feedback, clock: its radio (receiving), the path of the answers, its time.
        receiver: the receiving end without I/O.
        bursts: found so far, also those whose header could not be read.
        answers: sent so far.
    """

    def __init__(
        self,
        transceiver: Transceiver,
        feedback: FeedbackSender,
        clock: Clock,
        *,
        epoch: int,
        store: BlockStore | None = None,
    ) -> None:
        """A receiving end that holds nothing, or what its store kept.

        Args:
            transceiver, feedback, clock: see the class.
            epoch: 0..2^32 - 1, another one at each start.
            store: keeps verified blocks over a restart.
        """
        self.transceiver = transceiver
        self.feedback = feedback
        self.clock = clock
        self.receiver = Receiver(epoch=epoch, store=store)
        self.bursts = 0
        self.answers = 0
        self._unanswered = 0
        self._air_s = math.inf
        self._answered: tuple[int, bytes] | None = None

    def listen(self, duration_s: float = 0.0) -> None:
        """Hear the radio for a time, one step at least, and answer.

        Raises:
            DeviceError: the radio is broken, or the disk of the store is.
        """
        until_s = self.clock.now() + duration_s
        self._step()
        while self.clock.now() < until_s:
            self._step()

    def payload(self, session: int) -> bytes | None:
        """The session's payload, once it is whole and its hash agrees; else None. The latest four
        are kept."""
        return self.receiver.payload(session)

    def prefix(self, session: int) -> bytes:
        """The beginning of the session's payload as far as it is held without a gap."""
        return self.receiver.prefix(session)

    def _step(self) -> None:
        rate = self.transceiver.sample_rate_hz
        wanted = math.ceil(STEP_S * rate)
        iq = self.transceiver.receive(wanted, timeout_s=wanted / rate + _STALL_S)
        cut = len(iq) < wanted
        heard = self._hear(iq, rate, cut=cut)
        self._air_s += len(iq) / rate
        self.bursts += len(heard)
        self._unanswered += len(heard)
        silent = not heard and not self.receiver.mid_burst
        if self._unanswered and (
            silent or self._air_s >= ANSWER_EVERY_S or any(map(self._opens, heard))
        ):
            self._answer()
        if cut:  # a radio that has nothing to give is not asked again at once
            self.clock.sleep_until(self.clock.now() + (wanted - len(iq)) / rate)

    def _hear(self, iq: IQ, rate_hz: float, *, cut: bool) -> list[Reception]:
        heard = self.receiver.feed(iq, rate_hz) if len(iq) else []
        return heard + self.receiver.flush(rate_hz) if cut else heard

    def _opens(self, reception: Reception) -> bool:
        """True for a burst of another session than the one that was answered last."""
        header = reception.header
        return header is not None and (header.session, header.tag) != self._answered

    def _answer(self) -> None:
        answer = self.receiver.feedback()
        if answer is None:
            return
        self.feedback.send(answer.pack())
        self.answers += 1
        self._unanswered, self._air_s, self._answered = 0, 0.0, (answer.session, answer.tag)
