"""The cloud's end of the talk with an edge: it asks, and waits for the answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from hil.contract import ControlError, Receipt
from hil.control.bus import Bus
from hil.control.messages import (
    GONE,
    HelloMessage,
    Message,
    OfferMessage,
    ReceiptMessage,
    StatusMessage,
)

_REPEAT_S: Final = 5.0
"""A question is repeated when no answer has come for so long: a broker may have died with it."""

_PROVISION: Final = "provision the edge again with this configuration"
_SUBJECTS: Final = {
    "base_identity": ("base model", _PROVISION),
    "score_sets": ("score sets", _PROVISION),
    "rate_hz": ("radio.rate_hz", "set the same on both sides"),
    "lo_hz": ("radio.lo_hz", "set the same on both sides"),
}

M = TypeVar("M", bound=Message)


class EdgeClient:
    """Asks one edge, and remembers what it last said of itself.

    Attributes:
        run: random name of this run; every message carries it.
        status: the edge's latest status in this run; GONE before the first.

    Args:
        bus: the cloud's end of the control channel.
        timeout_s: deadline of every answer.
        give_turn: called after each message, so that an edge in this process can answer it.
    """

    def __init__(
        self, bus: Bus, timeout_s: float, give_turn: Callable[[], object] = lambda: None
    ) -> None:
        self.run: Final = secrets.token_hex(4)
        self.status = GONE
        self._bus, self._timeout_s, self._give_turn = bus, timeout_s, give_turn

    @property
    def control_bytes(self) -> int:
        """Bytes of all messages so far, both directions."""
        return self._bus.counters.control_bytes_sent + self._bus.counters.control_bytes_received

    def connect(self, expected: Mapping[str, str | float]) -> None:
        """Say hello, and wait for an edge that answers.

        Args:
            expected: fields of its status, and the values that they must have.
        Raises:
            ControlError: no edge answered within the deadline, or a field has another value.
        """
        self._ask(HelloMessage(run=self.run), StatusMessage, self._is_ours)
        for name, value in expected.items():
            if (found := getattr(self.status, name)) != value:
                subject, cure = _SUBJECTS[name]
                raise ControlError(
                    f"{subject}: the edge has {_short(found)}, the cloud {_short(value)}; {cure}"
                )

    def offer(
        self,
        round_id: int,
        session_id: int,
        payload_sha256: str,
        score_set: str,
        *,
        failure: str = "",
    ) -> Receipt:
        """The edge's receipt for a round, whether the radio carried its update or not.

        Args:
            round_id, session_id, payload_sha256, score_set, failure: see OfferMessage.

        Raises:
            ControlError: no receipt within the deadline.
        """
        question = OfferMessage(
            run=self.run,
            round_id=round_id,
            session_id=session_id,
            payload_sha256=payload_sha256,
            score_set=score_set,
            failure=failure,
        )
        answer = self._ask(
            question, ReceiptMessage, lambda m: m.run == self.run and m.round_id == round_id
        )
        while (status := self._bus.receive(StatusMessage, timeout_s=0.0)) is not None:
            self._is_ours(status)  # sent before the receipt
        return answer.receipt()

    def _is_ours(self, status: StatusMessage) -> bool:
        """Whether a status belongs to this run; keeps one that does."""
        ours = status.run == self.run
        if ours:
            self.status = status
        return ours

    def _ask(
        self, question: HelloMessage | OfferMessage, kind: type[M], answers: Callable[[M], bool]
    ) -> M:
        """The answer to a question, which is repeated until the answer comes."""
        deadline = time.monotonic() + self._timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._bus.publish(question, timeout_s=left_s)
            self._give_turn()
            message = self._next_answer(kind, answers, min(deadline, time.monotonic() + _REPEAT_S))
            if message is not None:
                return message
        state = f"; it last said {self.status.state!r}" if self.status is not GONE else ""
        raise ControlError(
            f"no answer from the edge to a{'n' if question.kind == 'offer' else ''} "
            f"{question.kind} within "
            f"{self._timeout_s:g} s{state}; is hil edge running, with the same control.url and "
            "control.device?"
        )

    def _next_answer(self, kind: type[M], answers: Callable[[M], bool], until_s: float) -> M | None:
        while True:
            message = self._bus.receive(kind, timeout_s=max(0.0, until_s - time.monotonic()))
            if message is None or answers(message):
                return message


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) else f"{value}"
