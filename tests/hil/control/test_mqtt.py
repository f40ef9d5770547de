"""The bus against a real Mosquitto: round trips, disorder, a killed broker, and what a wrong bench
is told."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from hil.contract import ControlError, Receipt
from hil.control.broker import parse_url, read_secret
from hil.control.bus import Bus, Endpoint, InProcessBus
from hil.control.feedback import LocalFeedback
from hil.control.messages import (
    MAX_MESSAGE_BYTES,
    AnyMessage,
    FeedbackMessage,
    OfferMessage,
    ReceiptMessage,
    StatusMessage,
)
from hil.control.mqtt import MqttBus, connect

DIGEST = "fedcba9876543210" * 4
RUN = "0badcafe"
OFFER = OfferMessage(run=RUN, round_id=1, session_id=2, payload_sha256=DIGEST, score_set="docs")
STATUS = StatusMessage(
    base_identity=DIGEST,
    held_digest="",
    held_ranks={"q": 4},
    quant="Q4_0",
    tensor_types={"Q4_0": 9},
    state="ready",
)
RECEIPT = ReceiptMessage.of(
    Receipt(
        round_id=1,
        status="installed",
        reason="",
        held_digest=DIGEST,
        score_set="docs",
        n_scored=10,
        score=float("nan"),
        loss_nats_per_token=2.0,
        base_score=float("nan"),
        base_loss_nats_per_token=2.5,
        gain=0.5,
        gain_std_error=0.1,
        swap_ms=3.0,
    ),
    RUN,
)
WAIT_S = 5.0
LONG_S = 60.0  # never waited for to its end


def numbered(n: int) -> FeedbackMessage:
    return FeedbackMessage(data=bytes([n]))


@pytest.fixture
def device_id(request: pytest.FixtureRequest) -> str:
    """A device of its own per test, on the common broker."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[-60:]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@contextlib.contextmanager
def both_ends(broker: Any, device_id: str) -> Iterator[tuple[MqttBus, MqttBus]]:
    with (
        connect(broker.url, "cloud", device_id, secret_path=broker.secret) as cloud,
        connect(broker.url, "edge", device_id, secret_path=broker.secret) as edge,
    ):
        yield cloud, edge


@contextlib.contextmanager
def stranger(broker: Any) -> Iterator[mqtt.Client]:
    """Another client of the broker, which may say anything on any topic."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(*read_secret(broker.secret))
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert connected.wait(WAIT_S)
    yield client
    client.disconnect()
    client.loop_stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ----------------------------------------------------------------------------------------
# conversation


def talk(cloud: Bus, edge: Bus) -> list[AnyMessage | None]:
    """One round, as the two halves speak it."""
    heard: list[AnyMessage | None] = []
    edge.publish(STATUS)
    heard.append(cloud.receive(StatusMessage, timeout_s=WAIT_S))
    for n in range(3):
        edge.publish(numbered(n))
        heard.append(cloud.receive(FeedbackMessage, timeout_s=WAIT_S))
    cloud.publish(OFFER)
    heard.append(edge.receive(OfferMessage, timeout_s=WAIT_S))
    edge.publish(RECEIPT)
    heard.append(cloud.receive(ReceiptMessage, timeout_s=WAIT_S))
    return heard


def test_a_round_is_the_same_over_the_broker_and_in_process(broker: Any, device_id: str) -> None:
    with both_ends(broker, device_id) as ends:
        over_mqtt = talk(*ends), ends[0].counters, ends[1].counters
    pair = InProcessBus.pair(device_id)
    in_process = talk(*pair), pair[0].counters, pair[1].counters
    assert over_mqtt == in_process
    assert over_mqtt[0] == [STATUS, numbered(0), numbered(1), numbered(2), OFFER, RECEIPT]
    assert over_mqtt[1].control_bytes_sent > 0


def test_receive_waits_for_its_deadline_and_wakes_on_arrival(broker: Any, device_id: str) -> None:
    with both_ends(broker, device_id) as (cloud, edge):
        start = time.monotonic()
        assert edge.receive(OfferMessage, timeout_s=0.3) is None
        assert time.monotonic() - start > 0.29
        timer = threading.Timer(0.2, cloud.publish, [OFFER])
        timer.start()
        start = time.monotonic()
        assert edge.receive(OfferMessage, timeout_s=LONG_S) == OFFER
        assert time.monotonic() - start < LONG_S / 2
        timer.join(WAIT_S)


def test_feedback_path_over_the_broker_does_not_depend_on_its_speed(
    broker: Any, device_id: str
) -> None:
    class Standstill:
        passed_s = 0.0

        def now(self) -> float:
            return self.passed_s

        def sleep_until(self, t_s: float) -> None:
            self.passed_s = t_s

    with both_ends(broker, device_id) as (cloud, edge):
        clock = Standstill()
        path = LocalFeedback(edge, cloud, clock)
        for n in range(20):
            path.send(bytes([n]))
            assert path.receive(1e-6) == bytes([n])
        assert path.receive(7.0) is None
        assert clock.passed_s == 7.0


def test_messages_wait_for_an_end_that_is_away_unless_it_starts_clean(
    broker: Any, device_id: str
) -> None:
    with both_ends(broker, device_id) as (cloud, edge):
        edge.close()
        cloud.publish(OFFER)
        with connect(broker.url, "edge", device_id, secret_path=broker.secret) as returned:
            assert returned.receive(OfferMessage, timeout_s=WAIT_S) == OFFER
        cloud.publish(OFFER)
        with connect(
            broker.url, "edge", device_id, secret_path=broker.secret, clean_start=True
        ) as forgetful:
            assert forgetful.receive(OfferMessage, timeout_s=0.3) is None


@pytest.mark.slow
def test_a_cloud_that_comes_later_learns_what_the_edge_holds_and_that_it_left(
    broker: Any, device_id: str
) -> None:
    with connect(broker.url, "edge", device_id, secret_path=broker.secret) as edge:
        edge.publish(STATUS)
        cloud = connect(broker.url, "cloud", device_id, secret_path=broker.secret)
        assert cloud.receive(StatusMessage, timeout_s=WAIT_S) == STATUS
    with cloud:
        gone = cloud.receive(StatusMessage, timeout_s=WAIT_S)
        assert gone is not None
        assert not gone.online


def test_an_offer_to_nobody_is_an_error_not_a_loss(broker: Any, device_id: str) -> None:
    with (
        connect(broker.url, "cloud", device_id, secret_path=broker.secret) as cloud,
        pytest.raises(ControlError, match=r"nobody listens.*start the edge half"),
    ):
        cloud.publish(OFFER, timeout_s=0.3)


# --------------------------------------------------------------------------------------------
# disorder


def test_what_a_stranger_says_is_dropped_counted_and_harmless(broker: Any, device_id: str) -> None:
    endpoint = Endpoint("edge", device_id, "abcdef01")
    messages = [endpoint.wrap(numbered(n)) for n in range(4)]
    topic = messages[0][0]
    deliveries = [
        (topic, b"{not json"),
        (topic, messages[0][1].replace(b'"version":2', b'"version":1')),
        (topic, messages[0][1] + b" " * MAX_MESSAGE_BYTES),
        (topic.replace("feedback", "receipt"), messages[0][1]),
        *(messages[n] for n in (0, 0, 2, 1, 2, 1, 3)),
    ]
    with (
        connect(broker.url, "cloud", device_id, secret_path=broker.secret) as cloud,
        stranger(broker) as client,
    ):
        for where, payload in deliveries:
            client.publish(where, payload, qos=1).wait_for_publish(WAIT_S)
        heard = [cloud.receive(FeedbackMessage, timeout_s=WAIT_S) for _ in range(4)]
        assert heard == [numbered(n) for n in (0, 2, 1, 3)]
        assert cloud.counters.dropped == {"invalid": 3, "misaddressed": 1, "duplicate": 3}
        assert cloud.counters.late == 1


@pytest.mark.slow
def test_a_message_survives_a_broker_that_is_killed_and_restarted_under_it(
    start_broker: Callable[[], Any],
) -> None:
    broker = start_broker()
    with both_ends(broker, "edge") as (cloud, edge):
        edge.publish(STATUS)
        for n in range(30):
            restart = None
            if n % 10 == 5:
                broker.kill()
                restart = threading.Timer(0.15, broker.start)
                restart.start()
            edge.publish(numbered(n), timeout_s=WAIT_S)
            assert cloud.receive(FeedbackMessage, timeout_s=WAIT_S) == numbered(n)
            if restart is not None:
                restart.join(WAIT_S)
        assert cloud.receive(FeedbackMessage, timeout_s=0.2) is None
        assert edge.counters.messages_sent == 31
        cloud.close()
        # The restarted broker knew nothing; the edge has told it again what it holds.
        with connect(broker.url, "cloud", "edge", secret_path=broker.secret) as later:
            assert later.receive(StatusMessage, timeout_s=WAIT_S) == STATUS


def test_a_broker_killed_amid_a_stream_doubles_nothing_and_stops_nothing(
    start_broker: Callable[[], Any],
) -> None:
    broker = start_broker()
    killed = threading.Event()
    with both_ends(broker, "edge") as (cloud, edge):

        def speak() -> None:
            for n in range(60):
                assert n < 40 or killed.wait(WAIT_S)
                edge.publish(numbered(n), timeout_s=WAIT_S)

        speaker = threading.Thread(target=speak)
        speaker.start()
        heard = []
        while not heard or heard[-1] != 59:
            message = cloud.receive(FeedbackMessage, timeout_s=WAIT_S)
            assert message is not None
            heard.append(message.data[0])
            if len(heard) == 20:
                broker.kill()
                killed.set()
                broker.start()
        speaker.join(WAIT_S)
        assert heard == sorted(set(heard))
        # Lost is at most what the broker had confirmed and not passed on.
        assert edge.counters.messages_sent == 60


def test_a_broker_that_stays_away_is_reported_within_the_deadlines(
    start_broker: Callable[[], Any],
) -> None:
    broker = start_broker()
    with connect(
        broker.url, "cloud", "edge", secret_path=broker.secret, reconnect_timeout_s=0.5
    ) as cloud:
        broker.kill()
        start = time.monotonic()
        with pytest.raises(
            ControlError, match=rf"{broker.url}: .* not confirmed within 0.3 s: connection refused"
        ):
            cloud.publish(OFFER, timeout_s=0.3)
        with pytest.raises(
            ControlError, match=r"lost for .* \(connection refused.*restart the broker"
        ):
            cloud.receive(ReceiptMessage, timeout_s=LONG_S)
        assert time.monotonic() - start < LONG_S / 2


def test_a_silent_broker_is_reported_and_can_be_left(start_broker: Callable[[], Any]) -> None:
    broker = start_broker()
    with connect(broker.url, "cloud", "edge", secret_path=broker.secret) as cloud:
        broker.signal(signal.SIGSTOP)
        with pytest.raises(ControlError, match="the broker is silent"):
            cloud.publish(OFFER, timeout_s=0.3)
    broker.signal(signal.SIGCONT)


@pytest.mark.slow
def test_two_processes_as_one_end_are_told_apart(broker: Any, device_id: str) -> None:
    with (
        connect(broker.url, "edge", device_id, secret_path=broker.secret) as first,
        connect(broker.url, "edge", device_id, secret_path=broker.secret) as second,
        connect(broker.url, "cloud", device_id, secret_path=broker.secret) as cloud,
    ):
        with pytest.raises(
            ControlError, match=f"another process is connected as the edge of '{device_id}'"
        ):
            first.receive(OfferMessage, timeout_s=WAIT_S)
        with pytest.raises(ControlError, match="another process"):
            first.publish(STATUS)
        cloud.publish(OFFER)
        assert second.receive(OfferMessage, timeout_s=WAIT_S) == OFFER


def test_a_closed_end_says_so(broker: Any, device_id: str) -> None:
    cloud = connect(broker.url, "cloud", device_id, secret_path=broker.secret)
    cloud.close()
    cloud.close()
    with pytest.raises(ControlError, match="closed"):
        cloud.receive(StatusMessage, timeout_s=1)
    with pytest.raises(ControlError, match="closed"):
        cloud.publish(OFFER)


# ----------------------------------------------------------------------------------- the wrong
# bench


def test_a_wrong_password_is_named_at_once(broker: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("bench:wrong")
    secret.chmod(0o600)
    with pytest.raises(ControlError, match=r"refuses .*check the secrets file") as caught:
        connect(broker.url, "cloud", "edge", secret_path=secret)
    assert "wrong" not in str(caught.value)
    with pytest.raises(ControlError, match=r"refuses .*check the secrets file"):
        connect(broker.url, "cloud", "edge", secret_path=None)


@contextlib.contextmanager
def impostor(answer: bytes | None) -> Iterator[str]:
    """A port where something answers that is no broker; with None it stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                held.append(connection)
                connection.recv(4096)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        thread.join(WAIT_S)
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"." * 200,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x20\x02\x00\x01",  # how a broker of MQTT 3.1.1 refuses version 5
        b"0000000000000000000000000000000000000000000000000000000000",
        bytes(range(256)),
        b"",
    ],
    ids=["http", "ssh", "mqtt311", "zeros", "bytes", "closes"],
)
def test_what_is_no_broker_is_recognised_at_once(answer: bytes) -> None:
    start = time.monotonic()
    with (
        impostor(answer) as url,
        pytest.raises(ControlError, match=rf"^{url}: [^\n]*(not as an MQTT 5|refuses)"),
    ):
        connect(url, "cloud", "edge", secret_path=None, timeout_s=LONG_S)
    assert time.monotonic() - start < LONG_S / 2


def test_a_broker_that_says_who_took_over_is_believed() -> None:
    connack, suback, taken_over = (
        b"\x20\x03\x00\x00\x00",
        b"\x90\x04\x00\x01\x00\x01",
        b"\xe0\x01\x8e",
    )
    with (
        impostor(connack + suback + taken_over) as url,
        pytest.raises(ControlError, match="another process"),
        connect(url, "cloud", "edge", secret_path=None) as cloud,
    ):
        cloud.receive(StatusMessage, timeout_s=WAIT_S)


def test_what_never_answers_is_left_at_the_deadline() -> None:
    with (
        impostor(None) as url,
        pytest.raises(ControlError, match=r"no answer within 0\.4 s; is it a broker"),
    ):
        connect(url, "cloud", "edge", secret_path=None, timeout_s=0.4)


def test_a_port_without_listener_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(
        ControlError, match=rf"mqtt://127.0.0.1:{port}: connection refused.*start the broker"
    ):
        connect(f"mqtt://127.0.0.1:{port}", "cloud", "edge", secret_path=None)


def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(ControlError, match="host not found"):
        connect("mqtt://bench.invalid", "cloud", "edge", secret_path=None)
    with pytest.raises(ControlError, match="host not found"):
        connect("mqtt://" + "x" * 70 + ".invalid", "cloud", "edge", secret_path=None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mqtts://broker:8883", "TLS is not spoken"),
        ("http://broker", "scheme 'http'"),
        ("broker:1883", "scheme 'broker'"),
        ("", "scheme ''"),
        ("mqtt://", "write mqtt://host:port"),
        ("mqtt://broker:99999", "[Pp]ort"),
        ("mqtt://broker:0", "1 to 65535"),
        ("mqtt://broker:x", "[Pp]ort"),
        ("mqtt://broker/path", "nothing behind it"),
        ("mqtt://me:hush@broker", "secrets file"),
        ("mqtts://me:hush@broker", "secrets file"),
        ("mqtt://[::1", "mqtt://host:port"),
    ],
)
def test_a_wrong_url_is_refused_with_the_cure(url: str, said: str) -> None:
    with pytest.raises(ControlError, match=said) as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)


def test_urls_name_host_and_port() -> None:
    assert parse_url("mqtt://bench.local") == ("bench.local", 1883)
    assert parse_url("mqtt://[::1]:1884/") == ("::1", 1884)


@pytest.mark.parametrize(
    "text", ["me\nhush:x\n", "me\nhush:x", "me:hush:x\n", "me\r\nhush:x\r\n", "me\nhush:x\n\n"]
)
def test_secrets_are_a_line_each_or_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(text.encode())
    path.chmod(0o640)
    assert read_secret(path) == ("me", "hush:x")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"me", b"me:", b":hush", b"me\nhush\nmore", b"\xff\xfe"]
)
def test_a_secrets_file_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ControlError, match="user and password") as caught:
        read_secret(path)
    assert "hush" not in str(caught.value)


def test_a_secrets_file_that_is_missing_or_open_to_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(ControlError, match="No such file"):
        read_secret(path)
    path.write_text("me:hush")
    path.chmod(0o644)
    with pytest.raises(ControlError, match=r"mode 644.*chmod 600"):
        read_secret(path)
