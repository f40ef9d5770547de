"""What all drivers of a Sender share: sessions in their order, turn after turn, until one ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from hil.contract import Clock, ConfigError, FeedbackReceiver, Transceiver
from radio.link.adaptation import Adaptation
from radio.link.sender import Sender
from radio.link.session import OCCUPIED_SUBCARRIERS, Limits, SendingSession, Sounding
from radio.modem import ofdm

MAX_MESSAGES: int = 64
"""Answers taken in one go; whatever floods the feedback path cannot keep a driver from its
deadline."""
ANSWER_EVERY_S: float = 0.2
"""Air after which a receiver answers within a window; the first burst of a payload is answered at
once."""
PAUSE_S: float = 0.05
"""Wait after a turn that brought nothing new, doubled from turn to turn: a fade may pass."""


class SenderDriver(ABC):
    """Drives a Sender for each payload over a transceiver, a feedback path and a clock.

    Attributes:
        transceiver, feedback, clock: its radio, the path of the answers, its time.
        adaptation: the choice of MCS, kept from payload to payload.
    """

    def __init__(
        self,
        transceiver: Transceiver,
        feedback: FeedbackReceiver,
        clock: Clock,
        *,
        first_session: int = 1,
    ) -> None:
        """A driver whose first session has the number first_session."""
        self.transceiver = transceiver
        self.feedback = feedback
        self.clock = clock
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

    def _open(
        self, payload: bytes, limits: Limits | None, sounding: Sounding | None = None
    ) -> SendingSession:
        number = self._next_session
        sender = Sender(
            payload,
            session=number,
            adaptation=self.adaptation,
            snr_db=sounding.flat_snr_db if sounding else math.nan,
            snr_std_db=sounding.snr_std_db if sounding else 0.0,
        )
        self._next_session += 1
        return SendingSession(
            number=number,
            sender=sender,
            payload_bytes=len(payload),
            limits=limits or Limits(),
            began_s=self.clock.now(),
            sounding=sounding,
        )

    def _carry(
        self, payload: bytes, limits: Limits | None, sounding: Sounding | None
    ) -> tuple[SendingSession, str]:
        """A session of a payload, turn after turn, and why it ended: "" when the sender knows all
        blocks to be held."""
        if not payload:
            raise ConfigError("payload is empty; the link carries at least 1 byte")
        session = self._open(payload, limits, sounding)
        sender, idle = session.sender, 0
        while not sender.complete:
            wanted, blocks = sender.wanted, sender.sent.blocks
            if not self._turn(session):
                return session, session.limit_reason(
                    self.transceiver.sample_rate_hz, self.clock.now()
                )
            if sender.wanted < wanted:
                idle = 0
            elif sender.sent.blocks > blocks or sender.unusable or not sender.informed:
                # a sounding that found a usable channel is neither progress nor a turn in vain
                idle += 1
            reason = self._give_up_reason(session, idle)
            if reason:
                return session, reason
            if idle and (sender.unusable or not sender.informed):
                self._pause(session, idle)
        return session, ""

    def _room(self, session: SendingSession, from_s: float) -> int:
        """Samples of air that the limits leave from from_s on."""
        rate = self.transceiver.sample_rate_hz
        left_s = min(session.airtime_left_s(rate), session.elapsed_left_s(from_s), 3600.0)
        return math.floor(left_s * rate + 1e-6)

    @abstractmethod
    def _turn(self, session: SendingSession) -> bool:
        """One window and its answer; False if no burst fits the limits any more."""

    @abstractmethod
    def _give_up_reason(self, session: SendingSession, idle: int) -> str:
        """Why no more turns are made after so many in vain, "" to go on."""

    @abstractmethod
    def _pause(self, session: SendingSession, idle: int) -> None:
        """Wait after so many turns in vain."""
