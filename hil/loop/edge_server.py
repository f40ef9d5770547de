"""The edge's end of the talk with the cloud: it answers what is asked, and installs what arrived.

It needs no torch, no text and no policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from edge_device.acceptance import Limits
from edge_device.agent import EdgeAgent
from edge_device.bundle import Bundle
from edge_device.runtime import RuntimeSettings
from hil import codec
from hil.contract import ControlError, Receipt, ScoreSet
from hil.control.bus import Bus
from hil.control.messages import HelloMessage, Message, OfferMessage, ReceiptMessage, StatusMessage
from hil.settings import EdgeSettings
from hil.system.waits import waiting_for

READY: Final = "ready"
"""State of an edge that waits for what comes."""

_log = logging.getLogger(__name__)


class EdgeServer:
    """Answers the cloud's hellos and offers.

    Args:
        bundle: the edge bundle that `hil provision` wrote.
        state_dir: folder of the installed updates.
        bus: the edge's end of the control channel.
        payload_of: gives the payload that the link received in a session; None if it is not whole.
        settings: [edge]: threads, deadline and the limits of an update.
        rate_hz, lo_hz, receiver: sample rate, carrier and serial number of a real receiver.
    Raises:
        ModelError: llama.cpp cannot load the bundle's model.
        DeviceError: the model process does not start.
    """

    def __init__(
        self,
        bundle: Bundle,
        state_dir: Path,
        bus: Bus,
        payload_of: Callable[[int], bytes | None],
        settings: EdgeSettings,
        *,
        rate_hz: float | None = None,
        lo_hz: float | None = None,
        receiver: str = "",
    ) -> None:
        runtime = RuntimeSettings(threads=settings.threads, request_s=settings.timeout_s)
        limits = Limits(
            max_rank=settings.max_rank,
            max_frobenius=settings.max_frobenius,
            max_rise_nats=settings.max_rise_nats,
        )
        waiting_for("loading the edge's model into llama.cpp and scoring it without an update")
        self.agent = EdgeAgent(bundle, state_dir, settings=runtime, limits=limits)
        self._bus, self._payload_of = bus, payload_of
        self._rate_hz, self._lo_hz, self._receiver = rate_hz, lo_hz, receiver
        self._score_sets = ScoreSet.digest_of_all(bundle.score_sets.values())
        self._run = ""
        self._answered: ReceiptMessage | None = None

    def report_status(self, state: str) -> None:
        """Publish what is held.

        Args:
            state: READY, or what is wrong.
        """
        held = self.agent.held_update()
        bundle = self.agent.bundle
        self._publish(
            StatusMessage(
                run=self._run,
                base_identity=bundle.model.spec.identity,
                held_digest=held.digest,
                held_ranks=dict(held.ranks),
                quant=bundle.quant,
                tensor_types=dict(bundle.model.types.tensors),
                score_sets=self._score_sets,
                state=state,
                rate_hz=self._rate_hz,
                lo_hz=self._lo_hz,
                receiver=self._receiver,
            )
        )

    def answer_next(self, timeout_s: float) -> bool:
        """Answer the next hello or offer; False if none came within the deadline.

        Raises:
            ControlError: the channel is broken.
            DeviceError: the model process cannot be brought back, or the disk cannot be written.
        """
        message: Message | None = self._bus.receive(HelloMessage, OfferMessage, timeout_s=timeout_s)
        if isinstance(message, HelloMessage):
            self._run = message.run
            self.report_status(READY)
        elif isinstance(message, OfferMessage):
            self._answer(message)
        return message is not None

    def _answer(self, offer: OfferMessage) -> None:
        """Send the receipt for an offer; the same offer gets the same receipt again."""
        if offer.score_set not in self.agent.bundle.score_sets:
            self.report_status(
                f"the bundle has no score set {offer.score_set!r}; provision it again"
            )
            return
        known = self._answered
        if known is None or (known.run, known.round_id) != (offer.run, offer.round_id):
            receipt = self._apply(offer)
            _log.info("round %d: %s %s", receipt.round_id, receipt.status, receipt.reason)
            known = self._answered = ReceiptMessage.of(receipt, offer.run)
        self.report_status(known.status)
        self._publish(known)

    def _publish(self, message: StatusMessage | ReceiptMessage) -> None:
        """Publish an answer; the cloud asks again for one that is not confirmed."""
        try:
            self._bus.publish(message)
        except ControlError as error:
            _log.warning("the %s is not confirmed: %s", message.kind, error)

    def _apply(self, offer: OfferMessage) -> Receipt:
        """The receipt for an offer, after its update was applied."""
        if not offer.payload_sha256:
            return self.agent.apply(offer.round_id, None, offer.score_set, failure=offer.failure)
        payload = self._payload_of(offer.session_id)
        failure = "the update did not arrive"
        if payload is not None and codec.digest(payload) != offer.payload_sha256:
            payload, failure = None, "what arrived is not what the cloud offered"
        if payload is None and self.agent.held_update().digest == offer.payload_sha256:
            return self.agent.confirm(offer.round_id, offer.score_set)
        return self.agent.apply(
            offer.round_id, payload, offer.score_set, failure=failure if payload is None else ""
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.agent.close()
