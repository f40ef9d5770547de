"""Messages against committed JSON, the endpoint against disorder, and the bus within a process."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hil.contract import ControlError, Receipt
from hil.control.bus import MAX_QUEUED, WINDOW, CounterWindow, Endpoint, InProcessBus
from hil.control.messages import (
    MAX_FEEDBACK_BYTES,
    MAX_MESSAGE_BYTES,
    AnyMessage,
    FeedbackMessage,
    HelloMessage,
    OfferMessage,
    ReceiptMessage,
    StatusMessage,
    decode,
)

DIGEST = "0123456789abcdef" * 4
RECEIPT = Receipt(
    round_id=7,
    status="refused",
    reason="too late",
    held_digest=DIGEST,
    score_set="docs",
    n_scored=40,
    score=math.nan,
    loss_nats_per_token=2.5,
    base_score=math.nan,
    base_loss_nats_per_token=2.75,
    gain=0.25,
    gain_std_error=math.inf,
    swap_ms=1.5,
)
RUN = "0badcafe"
OFFER = OfferMessage(run=RUN, round_id=7, session_id=3, payload_sha256=DIGEST, score_set="docs")
FEEDBACK = FeedbackMessage(data=b"\x00\xff\xfe?>")
FROM_CLOUD = ("hello", "offer")
STATUS = StatusMessage(
    base_identity=DIGEST,
    held_digest="",
    held_ranks={"model.layers.0.self_attn.q_proj": 8},
    quant="Q4_K_M",
    tensor_types={"Q4_K": 12, "F32": 5},
    state="waiting für round 8",
)
HEAD = '{"version":2,"sender":"%s","instance":"00000000","counter":1,"message":'
VECTORS: dict[str, tuple[AnyMessage, str]] = {
    "offer": (
        OFFER,
        HEAD % "cloud" + '{"kind":"offer","run":"0badcafe","round_id":7,"session_id":3,'
        f'"payload_sha256":"{DIGEST}",'
        '"score_set":"docs","failure":""}}',
    ),
    "hello": (HelloMessage(run=RUN), HEAD % "cloud" + '{"kind":"hello","run":"0badcafe"}}'),
    "feedback": (FEEDBACK, HEAD % "edge" + '{"kind":"feedback","data":"AP_-Pz4="}}'),
    "receipt": (
        ReceiptMessage.of(RECEIPT, RUN),
        HEAD
        % "edge"
        + '{"kind":"receipt","run":"0badcafe","round_id":7,"status":"refused","reason":"too late",'
        f'"held_digest":"{DIGEST}","score_set":"docs","n_scored":40,"score":null,"loss_nats_per_token":2.5,'
        '"base_score":null,"base_loss_nats_per_token":2.75,"gain":0.25,"gain_std_error":null,"swap_ms":"0000001.500"}}',
    ),
    "status": (
        STATUS,
        HEAD
        % "edge"
        + f'{{"kind":"status","online":true,"run":"","base_identity":"{DIGEST}","held_digest":"",'
        '"held_ranks":{"model.layers.0.self_attn.q_proj":8},"quant":"Q4_K_M","tensor_types":{"Q4_K":12,"F32":5},'
        '"score_sets":"","state":"waiting für round 8","rate_hz":null,"lo_hz":null,"receiver":""}}',
    ),
}


def edge_says(
    counter: int, message: AnyMessage = FEEDBACK, instance: str = "00000000"
) -> tuple[str, bytes]:
    text = json.loads(VECTORS[message.kind][1])
    text |= {
        "counter": counter,
        "instance": instance,
        "message": json.loads(message.model_dump_json()),
    }
    return f"hil/edge/edge/{message.kind}", json.dumps(text).encode()


def numbered(n: int) -> FeedbackMessage:
    return FeedbackMessage(data=bytes([n]))


def drain(end: Endpoint) -> list[int]:
    found = []
    while (message := end.take(FeedbackMessage, timeout_s=0)) is not None:
        found.append(message.data[0])
    return found


# --------------------------------------------------------------------------------------------
# messages


@pytest.mark.parametrize("kind", VECTORS)
def test_wire_format_is_as_committed(kind: str) -> None:
    message, text = VECTORS[kind]
    sender = "cloud" if kind in FROM_CLOUD else "edge"
    assert Endpoint(sender, "edge", "00000000").wrap(message) == (
        f"hil/edge/{sender}/{kind}",
        text.encode(),
    )
    assert decode(text.encode()).message == message


def test_receipt_comes_back_with_nan_for_what_has_no_number() -> None:
    back = ReceiptMessage.of(RECEIPT, RUN).receipt()
    for name, value in dataclasses.asdict(RECEIPT).items():
        if isinstance(value, float) and not math.isfinite(value):
            assert math.isnan(getattr(back, name))
        else:
            assert getattr(back, name) == value


def test_receipt_with_a_long_reason_is_clipped_not_lost() -> None:
    message = ReceiptMessage.of(dataclasses.replace(RECEIPT, reason="x" * 10_000), RUN)
    assert len(message.reason) == 500
    assert message.reason.endswith("x…")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 1}, "version"),
        ({"version": 3}, "version"),
        ({"version": True}, "version"),
        ({"sender": "mallory"}, "sender"),
        ({"instance": "0"}, "instance"),
        ({"instance": "00000000\n"}, "instance"),
        ({"counter": -1}, "counter"),
        ({"counter": 1.5}, "counter"),
        ({"counter": "1"}, "counter"),
        ({"counter": 2**53}, "counter"),
        ({"extra": 1}, "extra"),
        ({"message": None}, "message"),
        ({"message": {"kind": "reboot"}}, "message"),
        ({"message.round_id": "7"}, "round_id"),
        ({"message.payload_sha256": "AB" * 32}, "payload_sha256"),
        ({"message.score_set": "s" * 201}, "score_set"),
        ({"message.failure": "f" * 501}, "failure"),
        ({"message.failure": None}, "failure"),
        ({"message.unknown": 0}, "unknown"),
    ],
)
def test_decode_names_the_field_that_is_wrong(change: dict[str, Any], named: str) -> None:
    envelope = json.loads(VECTORS["offer"][1])
    for key, value in change.items():
        target = envelope["message"] if key.startswith("message.") else envelope
        target[key.removeprefix("message.")] = value
    with pytest.raises(ControlError, match=named) as caught:
        decode(json.dumps(envelope).encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        VECTORS["receipt"][1].replace("2.5,", "NaN,").encode(),
        VECTORS["receipt"][1].replace("2.5,", "Infinity,").encode(),
        VECTORS["receipt"][1].replace("2.5,", "1" + "0" * 400 + ",").encode(),
        VECTORS["offer"][1].replace('"docs"', r'"\ud800"').encode(),
        VECTORS["feedback"][1].replace("AP_-Pz4=", "*not base64*").encode(),
        VECTORS["feedback"][1]
        .replace("AP_-Pz4=", "A" * (4 * MAX_FEEDBACK_BYTES // 3 + 8))
        .encode(),
    ],
    ids=[
        "empty",
        "cut",
        "null",
        "deep",
        "not-utf8",
        "NaN",
        "inf",
        "huge",
        "surrogate",
        "base64",
        "long-feedback",
    ],
)
def test_decode_refuses_what_is_no_message(payload: bytes) -> None:
    with pytest.raises(ControlError):
        decode(payload)


def test_oversize_is_refused_before_it_is_parsed_and_before_it_is_sent() -> None:
    with pytest.raises(ControlError, match=str(MAX_MESSAGE_BYTES)):
        decode(VECTORS["offer"][1].encode() + b" " * MAX_MESSAGE_BYTES)
    ranks = {f"model.layers.{n}." + "w" * 100: 1 for n in range(2000)}
    with pytest.raises(ControlError, match=str(MAX_MESSAGE_BYTES)):
        Endpoint("edge", "edge", "00000000").wrap(STATUS.model_copy(update={"held_ranks": ranks}))


def test_text_that_is_no_unicode_is_refused_at_the_sender() -> None:
    with pytest.raises((ControlError, ValidationError)):
        Endpoint("cloud", "edge", "00000000").wrap(OFFER.model_copy(update={"failure": "\ud800"}))


@settings(derandomize=True)
@given(st.binary(max_size=300))
def test_decode_of_any_bytes_is_refused(payload: bytes) -> None:
    with pytest.raises(ControlError):
        decode(payload)


@pytest.mark.slow
@settings(max_examples=150, derandomize=True)
@given(st.sampled_from(sorted(VECTORS)), st.data())
def test_a_mutated_message_is_valid_or_dropped(kind: str, data: st.DataObject) -> None:
    payload = bytearray(VECTORS[kind][1].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    end = Endpoint("edge" if kind in FROM_CLOUD else "cloud", "edge", "00000000")
    end.accept(f"hil/edge/{end.peer}/{kind}", bytes(payload))
    assert end.counters.messages_received + end.counters.dropped.total() == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=150, derandomize=True)
@given(st.sampled_from(sorted(VECTORS)), st.data())
def test_a_message_with_any_value_in_a_field_is_valid_or_refused(
    kind: str, data: st.DataObject
) -> None:
    envelope = json.loads(VECTORS[kind][1])
    target = envelope["message"] if data.draw(st.booleans()) else envelope
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    payload = json.dumps(envelope).encode()
    try:
        decoded = decode(payload)
    except ControlError:
        return
    assert decode(decoded.model_dump_json().encode()) == decoded


# -------------------------------------------------------------------------------------------- one
# end


def test_window_agrees_with_a_set_of_all_counters_ever_seen() -> None:
    rng = np.random.default_rng(5)
    window, seen, highest = CounterWindow(), set[int](), 0
    verdicts = set()
    for step in range(20_000):
        base = highest + (5 * WINDOW if step % 5_000 == 4_999 else 0)
        counter = max(1, base + int(rng.integers(-WINDOW - 50, 41)))
        verdict = window.judge("a0000000", counter)
        if counter > highest:
            expected = "new"
        elif counter <= highest - WINDOW:
            expected = "old"
        else:
            expected = "duplicate" if counter in seen else "late"
        assert verdict == expected
        verdicts.add(verdict)
        seen.add(counter)
        highest = max(highest, counter)
    assert verdicts == {"new", "late", "duplicate", "old"}


def test_each_message_has_one_effect_however_it_is_doubled_and_shuffled() -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    deliveries = [n for n in range(1, 201) for _ in range(3)]
    np.random.default_rng(6).shuffle(deliveries)
    for n in deliveries:
        end.accept(*edge_says(n, numbered(n)))
    assert sorted(drain(end)) == list(range(1, 201))
    assert end.counters.dropped == {"duplicate": 400}
    assert end.counters.messages_received == 200
    assert 0 < end.counters.late < 200


def test_a_late_message_is_delivered_but_a_late_status_is_not() -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    newer, older = (STATUS.model_copy(update={"state": state}) for state in ("newer", "older"))
    for counter, message in ((4, newer), (2, numbered(2)), (3, older)):
        end.accept(*edge_says(counter, message))
    assert drain(end) == [2]
    assert end.take(StatusMessage, timeout_s=0) == newer
    assert end.take(StatusMessage, timeout_s=0) is None
    assert end.counters.late == 1
    assert end.counters.dropped == {"old": 1}


def test_a_status_behind_another_kind_is_still_the_latest_status() -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    end.accept(*edge_says(5, numbered(5)))
    end.accept(*edge_says(4, STATUS))
    assert end.take(StatusMessage, timeout_s=0) == STATUS


def test_a_restarted_sender_begins_anew_and_its_former_self_is_not_heard() -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    end.accept(*edge_says(9, numbered(1), instance="aaaaaaaa"))
    end.accept(*edge_says(1, numbered(2), instance="bbbbbbbb"))
    end.accept(*edge_says(10, numbered(3), instance="aaaaaaaa"))
    end.accept(*edge_says(2, numbered(4), instance="bbbbbbbb"))
    assert drain(end) == [1, 2, 4]
    assert end.counters.dropped == {"old": 1}


@pytest.mark.parametrize(
    ("topic", "counter"),
    [
        ("hil/edge/edge/receipt", 1),
        ("hil/edge/cloud/feedback", 1),
        ("hil/other/edge/feedback", 1),
        ("", 1),
    ],
)
def test_a_message_on_a_topic_not_its_own_is_dropped(topic: str, counter: int) -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    end.accept(topic, edge_says(counter)[1])
    assert drain(end) == []
    assert end.counters.dropped == {"misaddressed": 1}


def test_an_edge_cannot_make_offers() -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    forged = VECTORS["offer"][1].replace('"cloud"', '"edge"').encode()
    end.accept("hil/edge/edge/offer", forged)
    assert end.counters.dropped == {"misaddressed": 1}
    with pytest.raises(ControlError, match="only the cloud says it"):
        Endpoint("edge", "edge", "00000000").wrap(OFFER)


def test_a_full_queue_loses_its_oldest_and_counts_it(caplog: pytest.LogCaptureFixture) -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    for n in range(MAX_QUEUED + 3):
        end.accept(*edge_says(n + 1, FeedbackMessage(data=n.to_bytes(2, "big"))))
    first = end.take(FeedbackMessage, timeout_s=0)
    assert first is not None
    assert int.from_bytes(first.data, "big") == 3
    assert end.counters.dropped == {"overflow": 3}
    assert "the oldest gives way" in caplog.text


def test_what_is_dropped_is_logged_with_its_reason_on_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = Endpoint("cloud", "edge", "ffffffff")
    end.accept("hil/edge/edge/\nfeedback", b'{"version": 3}')
    (record,) = caplog.records
    assert "version: Input should be less than or equal to 2" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("device_id", ["", "a/b", "+", "#", "ü", "a" * 65, "a\n"])
def test_a_device_id_that_breaks_topics_is_refused(device_id: str) -> None:
    with pytest.raises(ControlError, match="device id"):
        InProcessBus.pair(device_id)


# ------------------------------------------------------------------------------------------------
# buses


@pytest.mark.parametrize("kind", VECTORS)
def test_in_process_round_trip(kind: str) -> None:
    message = VECTORS[kind][0]
    cloud, edge = InProcessBus.pair()
    sender, receiver = (cloud, edge) if kind in FROM_CLOUD else (edge, cloud)
    sender.publish(message)
    assert receiver.receive(type(message), timeout_s=1) == message
    assert receiver.receive(type(message), timeout_s=1) is None
    speaker = "cloud" if kind in FROM_CLOUD else "edge"
    n_bytes = len(f"hil/edge/{speaker}/{kind}".encode()) + len(VECTORS[kind][1].encode())
    assert (sender.counters.messages_sent, sender.counters.control_bytes_sent) == (1, n_bytes)
    assert (receiver.counters.messages_received, receiver.counters.control_bytes_received) == (
        1,
        n_bytes,
    )


def test_several_kinds_are_received_in_the_order_of_their_arrival() -> None:
    cloud, edge = InProcessBus.pair()
    receipt = ReceiptMessage.of(RECEIPT, RUN)
    for message in (STATUS, receipt, FEEDBACK, STATUS):
        edge.publish(message)
    assert cloud.receive(FeedbackMessage, timeout_s=0) == FEEDBACK
    assert cloud.receive(ReceiptMessage, StatusMessage, timeout_s=0) == STATUS
    assert cloud.receive(ReceiptMessage, StatusMessage, timeout_s=0) == receipt


def test_closing_tells_the_cloud_that_the_edge_is_gone_and_ends_the_verbs() -> None:
    cloud, edge = InProcessBus.pair()
    with edge:
        edge.publish(STATUS)
    edge.close()
    assert cloud.receive(StatusMessage, timeout_s=0) == STATUS
    gone = cloud.receive(StatusMessage, timeout_s=0)
    assert gone is not None
    assert not gone.online
    assert cloud.receive(StatusMessage, timeout_s=0) is None
    with pytest.raises(ControlError, match="closed"):
        edge.publish(STATUS)
    with pytest.raises(ControlError, match="closed"):
        edge.receive(OfferMessage, timeout_s=0)
