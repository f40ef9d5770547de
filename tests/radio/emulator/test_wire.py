"""The network protocol of an emulated Pluto, byte by byte, as a client of libiio 0.24 speaks it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hil.contract import DeviceError
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime, VirtualTime
from radio.emulator.ether import Ether
from radio.emulator.front_end import NodeSpec

DEADLINE_S = 60.0
TX, RX = "cf-ad9361-dds-core-lpc", "cf-ad9361-lpc"


class Client:
    """A socket, and the answers that come over it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.replies = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, line: str) -> bytes:
        """Send a command, return one line of the answer."""
        self.send(line.encode() + b"\r\n")
        return self.replies.readline()

    def close(self) -> None:
        self.replies.close()
        self.socket.close()


def _port(uri: str) -> int:
    return int(uri.rsplit(":", 1)[1])


@pytest.fixture
def plutos() -> Iterator[EmulatedPlutos]:
    ether = Ether([NodeSpec(), NodeSpec()], clock=VirtualTime(), seed=1)
    with EmulatedPlutos(ether) as running:
        yield running


@pytest.fixture
def client(plutos: EmulatedPlutos) -> Iterator[Client]:
    connected = Client(_port(plutos.uris[0]))
    yield connected
    connected.close()


@contextlib.contextmanager
def _another(plutos: EmulatedPlutos, node: int = 0) -> Iterator[Client]:
    connected = Client(_port(plutos.uris[node]))
    try:
        yield connected
    finally:
        connected.close()


def _read_buffer(client: Client, size: int) -> bytes:
    client.send(f"READBUF {RX} {size}\r\n".encode())
    data, mask_due = b"", True
    while len(data) < size:
        count = int(client.replies.readline())
        assert count > 0
        if mask_due:
            assert client.replies.readline() == b"00000003\n"
            mask_due = False
        data += client.replies.read(count)
        assert len(data) <= size
    return data


def test_version_answers_with_a_tag_of_seven_characters(client: Client) -> None:
    assert client.ask("VERSION") == b"0.24.v0.24  \n"


def test_keywords_in_either_case_and_both_line_ends(client: Client) -> None:
    client.send(b"version\nVersion\r\n")
    assert client.replies.readline() == client.replies.readline() == b"0.24.v0.24  \n"


def test_an_empty_line_gets_no_answer(client: Client) -> None:
    client.send(b"\r\n\n\r\nTIMEOUT 2500\r\n")
    assert client.replies.readline() == b"0\n"


@pytest.mark.parametrize(
    "line", ["ZPRINT", "BINARY", "NONSENSE 1 2", "OPEN", "READ", "READBUF x", "TIMEOUT -1", "é"]
)
def test_what_is_no_command_is_refused_with_einval(client: Client, line: str) -> None:
    assert client.ask(line) == b"-22\n"
    assert client.ask("VERSION") == b"0.24.v0.24  \n"


def test_print_gives_xml_of_the_stated_length(client: Client) -> None:
    length = int(client.ask("PRINT"))
    document = client.replies.read(length)
    assert client.replies.read(1) == b"\n"
    root = ET.fromstring(document)  # noqa: S314  # our own server's
    assert [device.get("name") for device in root.iter("device")] == ["ad9361-phy", TX, RX]
    facts = {fact.get("name"): fact.get("value") for fact in root.iter("context-attribute")}
    assert "emulated" in facts["hw_model"]
    assert facts["hw_serial"] == "emulated-0"
    assert len(document) < 16_384


def test_values_of_attributes_end_with_nul_and_are_counted_with_it(client: Client) -> None:
    client.send(b"WRITE ad9361-phy OUTPUT altvoltage0 frequency 10\r\n915000000\0")
    assert client.replies.readline() == b"10\n"
    assert client.ask("READ ad9361-phy OUTPUT RX_LO frequency") == b"10\n"
    assert client.replies.read(11) == b"915000000\0\n"


def test_value_and_command_may_come_in_any_pieces(client: Client) -> None:
    for byte in b"WRITE iio:device0 INPUT voltage0 rf_bandwidth 7\r\n1500000":
        client.send(bytes([byte]))
    assert client.replies.readline() == b"7\n"
    assert client.ask("READ iio:device0 INPUT voltage0 rf_bandwidth") == b"8\n"


def test_a_rejected_value_is_consumed(client: Client) -> None:
    client.send(b"WRITE nowhere OUTPUT altvoltage0 frequency 9\r\nVERSION\r\n")
    assert client.replies.readline() == b"-19\n"
    client.send(
        b"WRITE ad9361-phy filter_fir_config 70000\r\n" + b"VERSION\r\n" * 7777 + b"1234567"
    )
    assert client.replies.readline() == b"-22\n"
    assert client.ask("VERSION") == b"0.24.v0.24  \n"


def test_a_value_announced_larger_than_any_memory_harms_nobody(
    plutos: EmulatedPlutos, client: Client
) -> None:
    with _another(plutos) as liar:
        liar.send(b"WRITE ad9361-phy calib_mode 999999999999999\r\nauto")
        assert client.ask("VERSION") == b"0.24.v0.24  \n"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("READ ad9361-phy INPUT voltage7 rssi", b"-2\n"),
        ("READ ad9361-phy no_such_attribute", b"-2\n"),
        ("READ ad9361-phy DEBUG no_such_attribute", b"-2\n"),
        ("GETTRIG ad9361-phy", b"-2\n"),
        ("GETTRIG nowhere", b"-19\n"),
        ("OPEN nowhere 1024 00000003", b"-19\n"),
        ("OPEN ad9361-phy 1024 00000003", b"-19\n"),
        (f"OPEN {RX} 1024 3", b"-22\n"),
        (f"OPEN {RX} 1024 0000000000000003", b"-22\n"),
        (f"OPEN {RX} 1024 00000000", b"-22\n"),
        (f"OPEN {RX} 1024 00000007", b"-22\n"),
        (f"OPEN {RX} 0 00000003", b"-22\n"),
        (f"OPEN {RX} 1024 00000003 CYCLIC", b"-22\n"),
        (f"OPEN {RX} 999999999 00000003", b"-12\n"),
        (f"CLOSE {RX}", b"-6\n"),
        (f"READBUF {RX} 4096", b"-6\n"),
        (f"WRITEBUF {TX} 4096", b"-6\n"),
        (f"SET {RX} BUFFERS_COUNT 0", b"-22\n"),
        (f"SET {RX} BUFFERS_COUNT 16", b"0\n"),
    ],
)
def test_refusals_by_number(client: Client, command: str, answer: bytes) -> None:
    assert client.ask(command) == answer


def test_receive_buffers_come_whole_and_within_twelve_bits(client: Client) -> None:
    assert client.ask(f"OPEN {RX} 1000 00000003") == b"0\n"
    assert client.ask(f"SET {RX} BUFFERS_COUNT 8") == b"-16\n"
    samples = np.frombuffer(_read_buffer(client, 3 * 4000), "<i2")
    assert len(samples) == 6000
    assert abs(samples.astype(int)).max() <= 2048
    assert client.ask(f"CLOSE {RX}") == b"0\n"
    assert client.ask(f"CLOSE {RX}") == b"-6\n"


def test_one_channel_alone_is_that_channel(client: Client) -> None:
    client.send(b"WRITE ad9361-phy DEBUG loopback 1\r\n1")
    assert client.replies.readline() == b"1\n"
    assert client.ask(f"OPEN {TX} 4 00000003 CYCLIC") == b"0\n"
    assert client.ask(f"WRITEBUF {TX} 16") == b"0\n"
    client.send(np.array([16, -16] * 4, "<i2").tobytes())
    assert client.replies.readline() == b"16\n"
    assert client.ask(f"OPEN {RX} 4 00000002") == b"0\n"
    client.send(f"READBUF {RX} 8\r\n".encode())
    assert client.replies.readline() == b"8\n"
    assert client.replies.readline() == b"00000002\n"
    assert client.replies.read(8) == np.array([-1] * 4, "<i2").tobytes()


def test_a_transmit_buffer_larger_than_announced_is_refused_before_its_bytes_come(
    client: Client,
) -> None:
    assert client.ask(f"OPEN {TX} 16 00000003") == b"0\n"
    for size in (65, 128, 63, 0):
        assert client.ask(f"WRITEBUF {TX} {size}") == b"-22\n"
    assert client.ask(f"WRITEBUF {TX} 32") == b"0\n"  # part of a buffer is fine
    client.send(bytes(32))
    assert client.replies.readline() == b"32\n"


def test_a_device_has_one_user_and_is_free_when_he_hangs_up(
    plutos: EmulatedPlutos, client: Client
) -> None:
    assert client.ask(f"OPEN {TX} 64 00000003 CYCLIC") == b"0\n"
    with _another(plutos) as second:
        begin_s = time.monotonic()
        assert second.ask(f"OPEN {TX} 64 00000003 CYCLIC") == b"-16\n"
        assert time.monotonic() - begin_s >= 0.04  # it waited for the first to leave
        assert second.ask(f"OPEN {RX} 64 00000003") == b"0\n"
    with _another(plutos, node=1) as other_radio:
        assert other_radio.ask(f"OPEN {TX} 64 00000003 CYCLIC") == b"0\n"
    client.close()
    with _another(plutos) as third:
        _until(lambda: third.ask(f"OPEN {TX} 64 00000003") == b"0\n")


def _until(ready: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    end_s = time.monotonic() + within_s
    while not ready():
        assert time.monotonic() < end_s, "not in time"
        time.sleep(0.005)


def test_a_closed_peer_is_noticed_while_a_buffer_fills() -> None:
    with EmulatedPlutos(Ether([NodeSpec()], clock=RealTime(), seed=1)) as plutos:
        with _another(plutos) as first:
            first.send(b"WRITE ad9361-phy INPUT voltage0 sampling_frequency 7\r\n2083333")
            assert first.replies.readline() == b"7\n"
            assert first.ask(f"OPEN {RX} 16777216 00000003") == b"0\n"  # 8 s a buffer
            first.send(f"READBUF {RX} 67108864\r\n".encode())
            time.sleep(0.05)
        with _another(plutos) as second:
            _until(lambda: second.ask(f"OPEN {RX} 1024 00000003") == b"0\n", within_s=7.0)


def test_a_transfer_that_takes_longer_than_the_timeout_ends_with_etimedout() -> None:
    with (
        EmulatedPlutos(Ether([NodeSpec()], clock=RealTime(), seed=1)) as plutos,
        _another(plutos) as client,
    ):
        client.send(b"WRITE ad9361-phy INPUT voltage0 sampling_frequency 7\r\n2083333")
        assert client.replies.readline() == b"7\n"
        assert client.ask("TIMEOUT 50") == b"0\n"
        with _another(plutos) as stream:  # the timeout of one connection holds for the other
            assert stream.ask(f"OPEN {RX} 16777216 00000003") == b"0\n"
            begin_s = time.monotonic()
            assert stream.ask(f"READBUF {RX} 67108864") == b"-110\n"
            assert time.monotonic() - begin_s >= 0.04


def test_the_server_survives_random_bytes(plutos: EmulatedPlutos, client: Client) -> None:
    rng = np.random.default_rng(20240817)
    lines = [
        b"OPEN cf-ad9361-lpc 64 00000003\r\n",
        b"READBUF cf-ad9361-lpc 256\r\n",
        b"WRITE ad9361-phy OUTPUT altvoltage0 frequency 10\r\n",
        b"READ ad9361-phy INPUT voltage0 hardwaregain\r\n",
        b"SET cf-ad9361-dds-core-lpc BUFFERS_COUNT 4\r\n",
        b"WRITEBUF cf-ad9361-dds-core-lpc 64\r\n",
        b"OPEN cf-ad9361-dds-core-lpc 16 00000003 CYCLIC\r\n",
        b"TIMEOUT 100\r\nGETTRIG ad9361-phy\r\nPRINT\r\n",
    ]
    for _ in range(150):
        garbage = b"".join(lines[i] for i in rng.integers(len(lines), size=rng.integers(1, 6)))
        damaged = bytearray(garbage + rng.bytes(int(rng.integers(0, 60))))
        for at in rng.integers(len(damaged), size=rng.integers(0, 8)):
            damaged[at] = rng.integers(256)
        with _another(plutos) as fuzzer:
            fuzzer.send(bytes(damaged))
        assert client.ask("VERSION") == b"0.24.v0.24  \n"
    _until(lambda: client.ask(f"OPEN {RX} 64 00000003") == b"0\n")


def test_a_line_without_end_is_cut_off(plutos: EmulatedPlutos, client: Client) -> None:
    with _another(plutos) as endless:
        endless.send(b"A" * 5000)
        assert endless.replies.readline() == b"-22\n"
    assert client.ask("VERSION") == b"0.24.v0.24  \n"


def test_several_clients_at_once_do_not_mix_their_answers(plutos: EmulatedPlutos) -> None:
    failures: list[str] = []

    def talk(node: int, attribute: str, values: range) -> None:
        with _another(plutos, node) as client:
            for value in values:
                text = str(value).encode()
                client.send(b"WRITE ad9361-phy %s %d\r\n%s" % (attribute.encode(), len(text), text))
                written = client.replies.readline()
                client.send(f"READ ad9361-phy {attribute}\r\n".encode())
                length = int(client.replies.readline())
                if (
                    written != b"%d\n" % len(text)
                    or client.replies.read(length + 1) != text + b"\0\n"
                ):
                    failures.append(f"{attribute} {value}")

    def stream(node: int) -> None:
        with _another(plutos, node) as client:
            client.ask(f"OPEN {RX} 256 00000003")
            if any(len(_read_buffer(client, 1024)) != 1024 for _ in range(50)):
                failures.append("stream")

    jobs = [
        threading.Thread(
            target=talk,
            args=(0, "INPUT voltage0 rf_bandwidth", range(200_000, 200_100)),
            daemon=True,
        ),
        threading.Thread(
            target=talk,
            args=(0, "OUTPUT voltage0 rf_bandwidth", range(300_000, 300_100)),
            daemon=True,
        ),
        threading.Thread(
            target=talk,
            args=(1, "INPUT voltage0 rf_bandwidth", range(400_000, 400_100)),
            daemon=True,
        ),
        threading.Thread(target=stream, args=(0,), daemon=True),
        threading.Thread(target=stream, args=(1,), daemon=True),
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(DEADLINE_S)
    assert not any(job.is_alive() for job in jobs)
    assert not failures


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=str(port)):
            EmulatedPlutos(Ether([NodeSpec()], clock=VirtualTime(), seed=1), ports=[port])


def test_the_ports_asked_for_are_the_ports_in_the_uris() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ether = Ether([NodeSpec(), NodeSpec()], clock=VirtualTime(), seed=1)
    with EmulatedPlutos(ether, ports=[port]) as plutos:
        assert plutos.uris[0] == f"ip:127.0.0.1:{port}"
        assert _port(plutos.uris[1]) not in (0, port)


def test_nothing_is_left_behind_when_the_plutos_stop() -> None:
    before = threading.active_count()
    with (
        EmulatedPlutos(Ether([NodeSpec()], clock=RealTime(), seed=1)) as plutos,
        _another(plutos) as client,
    ):
        client.ask(f"OPEN {RX} 16777216 00000003")
        client.send(f"READBUF {RX} 67108864\r\n".encode())
        plutos.__exit__(None, None, None)
        assert client.replies.readline() == b""
    _until(lambda: threading.active_count() == before)
