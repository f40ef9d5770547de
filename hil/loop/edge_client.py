"""The edge as the cloud knows it: what it holds, what it is told, and what it answers."""

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
"""A hello or an offer is said again when nothing has answered it for so long: a broker may have
died with it."""

_PROVISION: Final = "provision the edge again with this configuration"
_SUBJECTS: Final = {
    "base_identity": ("base model", _PROVISION),
    "score_sets": ("score sets", _PROVISION),
    "rate_hz": ("radio.rate_hz", "set the same on both sides"),
    "lo_hz": ("radio.lo_hz", "set the same on both sides"),
}

M = TypeVar("M", bound=Message)


class EdgePeer:
    """The cloud's side of the talk with one edge.

    Attributes:
        run: drawn for this run; every message of it carries it.
        status: the latest of this run; GONE before the first.

    Args:
        bus: the cloud's end.
        timeout_s: deadline of every answer.
        attend: gives an edge in this process its turn after each message; nothing where the edge is
            another process.
    """

    def __init__(
        self, bus: Bus, timeout_s: float, attend: Callable[[], object] = lambda: None
    ) -> None:
        self.run: Final = secrets.token_hex(4)
        self.status = GONE
        self._bus, self._timeout_s, self._attend = bus, timeout_s, attend

    @property
    def control_bytes(self) -> int:
        """Of all messages so far, both directions."""
        return self._bus.counters.control_bytes_sent + self._bus.counters.control_bytes_received

    def meet(self, expected: Mapping[str, str | float]) -> None:
        """Say hello, and wait for an edge that answers.

        Args:
            expected: what its status has to say, by the fields' names.
        Raises:
            ControlError: none answered within the deadline, or one that says something else.
        """
        self._ask(HelloMessage(run=self.run), StatusMessage, self._is_ours)
        for name, value in expected.items():
            if (said := getattr(self.status, name)) != value:
                subject, cure = _SUBJECTS[name]
                raise ControlError(
                    f"{subject}: the edge has {_short(said)}, the cloud {_short(value)}; {cure}"
                )

    def settle(
        self,
        round_id: int,
        session_id: int,
        payload_sha256: str,
        score_set: str,
        *,
        failure: str = "",
    ) -> Receipt:
        """Offer a round whose update the radio has carried, or not; the edge's receipt. See
        OfferMessage.

        Raises:
            ControlError: no receipt within the deadline.
        """
        offer = OfferMessage(
            run=self.run,
            round_id=round_id,
            session_id=session_id,
            payload_sha256=payload_sha256,
            score_set=score_set,
            failure=failure,
        )
        answer = self._ask(
            offer, ReceiptMessage, lambda m: m.run == self.run and m.round_id == round_id
        )
        while (status := self._bus.receive(StatusMessage, timeout_s=0.0)) is not None:
            self._is_ours(status)  # said before the receipt
        return answer.receipt()

    def _is_ours(self, status: StatusMessage) -> bool:
        """Keep a status of this run; what a broker kept of an earlier one says nothing."""
        ours = status.run == self.run
        if ours:
            self.status = status
        return ours

    def _ask(
        self, question: HelloMessage | OfferMessage, kind: type[M], answers: Callable[[M], bool]
    ) -> M:
        """Say something until it is answered."""
        deadline = time.monotonic() + self._timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._bus.publish(question, timeout_s=left_s)
            self._attend()
            message = self._await(kind, answers, min(deadline, time.monotonic() + _REPEAT_S))
            if message is not None:
                return message
        state = f"; it last said {self.status.state!r}" if self.status is not GONE else ""
        raise ControlError(
            f"no answer from the edge to a{'n' if question.kind == 'offer' else ''} "
            f"{question.kind} within "
            f"{self._timeout_s:g} s{state}; is hil edge running, with the same control.url and "
            "control.device?"
        )

    def _await(self, kind: type[M], answers: Callable[[M], bool], until_s: float) -> M | None:
        while True:
            message = self._bus.receive(kind, timeout_s=max(0.0, until_s - time.monotonic()))
            if message is None or answers(message):
                return message


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) else f"{value}"
