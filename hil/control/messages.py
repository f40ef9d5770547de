"""The messages between the two halves, and their form as JSON.

Five kinds are spoken, each by one side only: the cloud says *hello* when a run begins, and once the
radio has carried a round's update, or failed to, it *offers* the round; the edge reports its
*status*, returns the radio link's *feedback*, and answers every offer with a *receipt*. A hello or
an offer may be repeated until it is answered: the answer is the same. On the wire a message is JSON
in an envelope that names the version, the speaker and a counter. Every field is bounded and checked
on arrival.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from hil.contract import ControlError, Receipt, ReceiptStatus

Role = Literal["cloud", "edge"]

MAX_MESSAGE_BYTES: Final = 131_072
"""Longest JSON text of a message; a status that lists a thousand modules fits."""
MAX_FEEDBACK_BYTES: Final = 32_768
"""Longest feedback of the radio link's receiver, before base64."""
WIRE_VERSION: Final = 2

_MAX_TEXT: Final = 500
_Name = Annotated[str, Field(max_length=200)]
_Text = Annotated[str, Field(max_length=_MAX_TEXT)]
_Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
_Run = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
_Count = Annotated[int, Field(ge=0, lt=2**53)]  # what every JSON reader holds exactly
_Figure = float | None  # NaN and infinities have no JSON: null


class Message(BaseModel):
    """Base of all kinds: frozen, no unknown keys, no conversions, bytes as base64."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )


class HelloMessage(Message):
    """Cloud to edge: a run begins; say what you hold.

    Attributes:
        run: drawn by the cloud for this run; what the edge says of it repeats it, so that nobody
            takes what was meant for an earlier run.
    """

    kind: Literal["hello"] = "hello"
    run: _Run


class OfferMessage(Message):
    """Cloud to edge: what this round brought; the radio is done with it.

    Attributes:
        run: the run's name, the same as in its hello.
        round_id: the round, ≥ 0.
        session_id: session of the radio link that carried the payload; 0 when nothing was sent.
        payload_sha256: SHA-256 (hex) of the payload; "" when nothing was sent.
        score_set: name of the score set to be scored afterwards.
        failure: why nothing was sent, "" when nothing was to be sent.
    """

    kind: Literal["offer"] = "offer"
    run: _Run
    round_id: _Count
    session_id: _Count
    payload_sha256: _Digest
    score_set: _Name
    failure: _Text = ""


class FeedbackMessage(Message):
    """Edge to cloud: opaque bytes of the radio link's receiver."""

    kind: Literal["feedback"] = "feedback"
    data: Annotated[bytes, Field(max_length=MAX_FEEDBACK_BYTES)]


class ReceiptMessage(Message):
    """Edge to cloud: contract.Receipt for an offer of this run; null stands for NaN and for
    infinities.

    The swap's time is text of fixed width: a wall-clock figure must not decide how many control
    bytes a run counts.
    """

    kind: Literal["receipt"] = "receipt"
    run: _Run
    round_id: _Count
    status: ReceiptStatus
    reason: _Text
    held_digest: _Digest
    score_set: _Name
    n_scored: _Count
    score: _Figure
    loss_nats_per_token: _Figure
    base_score: _Figure
    base_loss_nats_per_token: _Figure
    gain: _Figure
    gain_std_error: _Figure
    swap_ms: Annotated[str, Field(pattern=r"^[0-9]{7}\.[0-9]{3}$")]

    @classmethod
    def of(cls, receipt: Receipt, run: str) -> ReceiptMessage:
        """The message for a receipt of a run; a reason beyond the limit is clipped, lest the
        receipt be lost by it."""
        fields = asdict(receipt)
        for name, value in fields.items():
            if isinstance(value, float) and not math.isfinite(value):
                fields[name] = None
        fields["swap_ms"] = f"{min(max(receipt.swap_ms, 0.0), 9_999_999.0):011.3f}"
        if len(receipt.reason) > _MAX_TEXT:
            fields["reason"] = receipt.reason[: _MAX_TEXT - 1] + "…"
        return cls(run=run, **fields)

    def receipt(self) -> Receipt:
        """The receipt it carries, NaN where the wire says null."""
        fields: dict[str, Any] = self.model_dump(exclude={"kind", "run"})
        for name, value in fields.items():
            if value is None:
                fields[name] = math.nan
        fields["swap_ms"] = float(fields["swap_ms"])
        return Receipt(**fields)


class StatusMessage(Message):
    """Edge to cloud: what it is and what it holds. Only the latest counts.

    Attributes:
        online: False when said on the edge's behalf after it went away.
        run: the run that said the latest hello; "" before the first.
        base_identity: BaseSpec.identity of its base model, "" before one is loaded.
        held_digest: SHA-256 (hex) of the payload whose update is active, "" for the bare base
            model.
        held_ranks: module → rank of the active update; absent modules hold nothing.
        quant: quantisation asked for, for example "Q4_K_M".
        tensor_types: GGUF tensor type → number of tensors that really have it.
        score_sets: ScoreSet.digest_of_all of what it can score, "" before a bundle is loaded.
        state: the edge's activity in words, for people.
        rate_hz, lo_hz: samples a second and carrier of its receiver; null where the air is
            simulated.
        receiver: serial number of its radio, "" where the air is simulated.
    """

    kind: Literal["status"] = "status"
    online: bool = True
    run: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    base_identity: _Digest
    held_digest: _Digest
    held_ranks: Annotated[
        dict[_Name, Annotated[int, Field(ge=1, le=65_536)]], Field(max_length=4096)
    ]
    quant: _Name
    tensor_types: Annotated[dict[_Name, _Count], Field(max_length=64)]
    score_sets: _Digest = ""
    state: _Text
    rate_hz: _Figure = None
    lo_hz: _Figure = None
    receiver: _Name = ""


GONE: Final = StatusMessage(
    online=False,
    base_identity="",
    held_digest="",
    held_ranks={},
    quant="",
    tensor_types={},
    state="gone",
)
"""Status of an edge that closed or vanished."""

AnyMessage = HelloMessage | OfferMessage | FeedbackMessage | ReceiptMessage | StatusMessage

SPEAKER: Final[dict[type[Message], Role]] = {
    HelloMessage: "cloud",
    OfferMessage: "cloud",
    FeedbackMessage: "edge",
    ReceiptMessage: "edge",
    StatusMessage: "edge",
}
"""Which side may say a kind."""


class Envelope(Message):
    """A message and who says it.

    Attributes:
        version: number of this wire format.
        sender: the side that speaks.
        instance: tells one start of the sender's process from the next; counters begin anew with
            it.
        counter: 1, 2, 3, … of this instance over all kinds; 0 is said by others on the sender's
            behalf.
        message: one of the kinds.
    """

    version: Annotated[int, Field(ge=WIRE_VERSION, le=WIRE_VERSION)]
    sender: Role
    instance: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    counter: _Count
    message: Annotated[AnyMessage, Field(discriminator="kind")]


def encode(envelope: Envelope) -> bytes:
    """The envelope as compact JSON in UTF-8; keys in the order of their definition.

    Raises:
        ControlError: longer than MAX_MESSAGE_BYTES, or a text that is no Unicode.
    """
    kind = envelope.message.kind
    try:
        payload = envelope.model_dump_json().encode()
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise ControlError(f"{kind}: cannot be written as JSON: {error}") from None
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ControlError(
            f"{kind} of {len(payload)} bytes: at most {MAX_MESSAGE_BYTES} can be sent"
        )
    return payload


def decode(payload: bytes) -> Envelope:
    """The envelope in a JSON text.

    Raises:
        ControlError: too long, not JSON, another version, an unknown key, a value out of range; the
            first such thing.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ControlError(
            f"message of {len(payload)} bytes: at most {MAX_MESSAGE_BYTES} are taken"
        )
    try:
        return Envelope.model_validate_json(payload)
    except ValidationError as error:
        # Not the input itself: it may be long, and anything.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "message"
        raise ControlError(f"{where}: {first['msg'][:200]}") from None
