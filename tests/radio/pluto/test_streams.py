"""The two threads of a radio, over a fake one that plays into lists."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from radio.pluto.driver import OutageError
from radio.pluto.samples import Integers
from radio.pluto.settings import PlutoSettings
from radio.pluto.streams import RxStream, TxStream

N = 256
RATE_HZ = 600e3
LIMIT_S = 60.0
SETTINGS = PlutoSettings(
    uri="ip:fake",
    rate_hz=RATE_HZ,
    tx_lo_hz=2.45e9,
    rx_lo_hz=2.45e9,
    rx_gain_db=0.0,
    tx_attenuation_db=0.0,
    buffer_samples=2**18,  # 0.44 s: a busy machine is not late
)
M = SETTINGS.buffer_samples


class FakeRadio:
    """Hands out numbered samples when told to; keeps what is written, a buffer each `pace_s`."""

    def __init__(self, pace_s: float = 0.0) -> None:
        self.buffers: queue.Queue[Integers | Exception] = queue.Queue()
        self.written: list[Integers] = []
        self.pace_s = pace_s
        self._n = 0

    def capture(self, count: int) -> None:
        for _ in range(count):
            first = 2 * N * self._n
            self.buffers.put(np.arange(first, first + 2 * N, dtype=np.int16))
            self._n += 1

    def read(self) -> Integers:
        got = self.buffers.get(timeout=LIMIT_S)
        if isinstance(got, Exception):
            raise got
        return got

    def write(self, integers: Integers) -> None:
        time.sleep(self.pace_s)
        self.written.append(integers)

    def start_receive(self) -> None: ...

    def stop_receive(self) -> None: ...

    def start_transmit(self) -> None: ...


def samples(first: int, count: int) -> list[int]:
    return list(range(2 * first, 2 * (first + count)))


def eventually(condition: Callable[[], Any]) -> bool:
    until_s = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.002)
    return bool(condition())


def receiving(radio: Any, **options: Any) -> RxStream:
    return RxStream(radio, RATE_HZ, hang_s=options.pop("hang_s", LIMIT_S), **options)


def test_samples_come_in_order_whatever_the_sizes() -> None:
    radio: Any = FakeRadio()
    stream = receiving(radio)
    radio.capture(4)
    got = [stream.take(n, LIMIT_S).tolist() for n in (10, 300, 500, 200)]
    assert [integer for part in got for integer in part] == samples(0, 1010)
    assert stream.take(100, 0.01).tolist() == samples(1010, 14)


def test_the_oldest_are_dropped_and_counted() -> None:
    radio: Any = FakeRadio()
    stream = receiving(radio, max_kept_samples=2 * N)
    radio.capture(5)
    assert eventually(lambda: stream.dropped_samples == 3 * N)
    assert stream.take(10, LIMIT_S).tolist() == samples(3 * N, 10)


def test_skip_drops_what_was_captured_before_a_time_also_what_has_not_come_yet() -> None:
    radio: Any = FakeRadio()
    stream = receiving(radio)
    radio.capture(1)
    opened_s = time.monotonic()
    assert eventually(lambda: len(stream._starts_s) == 1)
    start_s = stream._starts_s[0]
    assert opened_s <= start_s + N / RATE_HZ <= time.monotonic()
    stream.skip_until(start_s + 100 / RATE_HZ)
    assert stream.take(10, LIMIT_S).tolist() == samples(100, 10)
    stream.skip_until(start_s + (2 * N + 50) / RATE_HZ)
    stream.skip_until(start_s + (2 * N + 50) / RATE_HZ)
    radio.capture(2)
    got = stream.take(N - 50, LIMIT_S).tolist()
    assert (
        abs(got[0] - 2 * (2 * N + 50)) <= 2
    )  # later arrivals may place the start a little earlier


def test_what_ends_the_receiving_thread_is_met_by_its_owner() -> None:
    radio: Any = FakeRadio()
    stream = receiving(radio)
    stream.check()
    radio.buffers.put(OutageError("gone"))
    assert eventually(lambda: stream._error)
    assert len(stream.take(10, LIMIT_S)) == 0
    with pytest.raises(OutageError, match="gone"):
        stream.check()


@pytest.mark.slow
def test_a_driver_that_does_not_come_back_is_found_out() -> None:
    stream = receiving(FakeRadio(), hang_s=0.05)

    def hangs() -> bool:
        try:
            stream.check()
        except OutageError as error:
            return "hangs" in str(error)
        return False

    assert eventually(hangs)
    with pytest.raises(OutageError, match="does not come back"):
        stream.stop()


def integers(count: int) -> Integers:
    return (np.arange(2 * count) % 30_000 + 1).astype(np.int16)


@pytest.mark.slow
def test_a_burst_has_silence_before_it_and_up_to_a_whole_buffer() -> None:
    radio: Any = FakeRadio()
    stream = TxStream(radio, SETTINGS, hang_s=LIMIT_S)
    n = 2 * M + M // 2
    stream.send(integers(n))
    assert eventually(lambda: len(radio.written) == 4)
    assert not radio.written[0].any()
    played = np.concatenate(radio.written[1:])
    assert np.array_equal(played[: 2 * n], integers(n))
    assert not played[2 * n :].any()
    stream.stop()


@pytest.mark.slow
def test_bursts_follow_each_other_without_a_gap() -> None:
    radio: Any = FakeRadio(pace_s=0.02)
    stream = TxStream(radio, SETTINGS, hang_s=LIMIT_S)
    n = M // 2 + M // 8
    for k in range(5):
        stream.send(integers(n + k))
        assert stream.wait_sent(LIMIT_S)
    stream.play_out()
    expected = np.concatenate([integers(n + k) for k in range(5)])
    assert np.array_equal(np.concatenate(radio.written)[2 * M :][: len(expected)], expected)
    stream.stop()


def test_when_a_burst_leaves() -> None:
    radio: Any = FakeRadio()
    stream = TxStream(radio, SETTINGS, hang_s=LIMIT_S)
    assert stream.on_air_s(0.01) is None
    before_s = time.monotonic()
    stream.send(integers(100))
    on_air_s = stream.on_air_s(LIMIT_S)
    assert on_air_s is not None
    assert (
        before_s + M / RATE_HZ <= on_air_s <= time.monotonic() + M / RATE_HZ
    )  # one buffer of silence comes first
    stream.stop()


def test_what_ends_the_sending_thread_is_met_by_its_owner() -> None:
    radio: Any = FakeRadio()
    radio.write = lambda integers: (_ for _ in ()).throw(OutageError("gone"))
    stream = TxStream(radio, SETTINGS, hang_s=LIMIT_S)
    stream.send(integers(1000))
    assert eventually(lambda: stream._error)
    with pytest.raises(OutageError, match="gone"):
        stream.check()
