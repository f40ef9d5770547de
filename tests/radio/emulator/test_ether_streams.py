"""How emulated radios stream: rings, queues, the two clocks, and what does not hang on how it is
read."""

import errno
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel import PRESETS
from radio.emulator.clock import Cancelled, RealTime, VirtualTime
from radio.emulator.ether import Ether, NodeSpec, RfSettings, Tone

RATE = 2e6
N = 1 << 12
SETTINGS = RfSettings(rate_hz=RATE, rx_gain_db=40.0)
LATENCY = 16
"""Samples by which the air is late."""


def never():
    return False


def ether_of(*nodes, clock=None, settings=SETTINGS, **kwargs):
    ether = Ether(
        nodes, clock=clock or VirtualTime(), seed=kwargs.pop("seed", 1), path_loss_db=40.0, **kwargs
    )
    for node in range(len(nodes)):
        ether.configure(node, settings)
    return ether


def block(value=0.9, n=N):
    """A block of a constant."""
    return np.tile(np.array([value * 2**15, 0], "<i2"), n).tobytes()


def noise_block(rng, n=N):
    return rng.integers(-(2**14), 2**14, 2 * n).astype("<i2").tobytes()


def read(ring, buffers=1):
    return np.concatenate(
        [np.frombuffer(ring.read(5.0, never), "<i2").reshape(-1, 2) for _ in range(buffers)]
    )


def sounding(codes):
    """Whether something is heard at each sample, bool[n]."""
    return np.abs(codes).max(axis=1) > 200


# ------------------------------------------------------------------------------------------------
# what is heard depends on nothing else


@pytest.mark.parametrize("preset", ["awgn", "harsh"])
def test_what_is_heard_does_not_hang_on_the_size_of_the_buffers(preset):
    heard = []
    for size in (N, 2 * N, N // 2, 1000):
        ether = ether_of(NodeSpec(ppm=13.0), NodeSpec(ppm=-4.0), figures=PRESETS[preset])
        queue = ether.open_tx(0, N, 4, True)
        queue.push(noise_block(np.random.default_rng(3)), 1.0, never)
        heard.append(read(ether.open_rx(1, size, 4), -(-16 * N // size))[: 16 * N])
    for other in heard[1:]:
        np.testing.assert_array_equal(other, heard[0])


@pytest.mark.parametrize("lo_apart_hz", [0.0, 500e3])  # without and with a filter between
def test_what_is_sent_later_does_not_change_what_was_heard(lo_apart_hz):
    heard = []
    for early in (True, False):
        ether = ether_of(
            NodeSpec(), NodeSpec(ppm=4.0)
        )  # a buffer is full when the block before still plays
        ether.configure(0, replace(SETTINGS, tx_lo_hz=SETTINGS.tx_lo_hz + lo_apart_hz))
        ether.path_loss_db = 30.0
        blocks = [noise_block(np.random.default_rng(seed)) for seed in range(8)]
        ring, queue = ether.open_rx(1, N, 4), ether.open_tx(0, N, 16, False)
        parts = []
        if early:
            for data in blocks:
                queue.push(data, 1.0, never)
        for data in blocks:
            if not early:
                queue.push(data, 1.0, never)
            parts.append(read(ring))
        heard.append(np.concatenate(parts))
    np.testing.assert_array_equal(heard[0], heard[1])


def test_two_runs_are_alike_to_the_bit_and_another_seed_is_not():
    def run(seed):
        ether = ether_of(
            NodeSpec(ppm=13.0), NodeSpec(ppm=-4.0), seed=seed, figures=PRESETS["indoor_nlos"]
        )
        rng = np.random.default_rng(3)
        ring, queue = ether.open_rx(1, N, 4), ether.open_tx(0, N, 4, False)
        parts = []
        for i in range(10):
            queue.push(noise_block(rng), 1.0, never)
            ether.path_loss_db = 40.0 + i
            parts.append(read(ring))
        return np.concatenate(parts).tobytes()

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def test_noise_hangs_neither_on_other_radios_nor_on_other_captures():
    alone = ether_of(NodeSpec())
    whole = read(alone.open_rx(0, N, 4), 20)
    ether = ether_of(NodeSpec(), NodeSpec())
    ring = ether.open_rx(0, N, 4)
    other = ether.open_rx(1, N, 4)
    first = read(ring, 4)
    np.testing.assert_array_equal(first, whole[: 4 * N])
    assert not np.array_equal(read(other), first[:N])
    ring.close()
    ether.clock.wait_until(10 * N / RATE, timeout_s=None, cancelled=never)
    later = read(ether.open_rx(0, N, 4), 3)
    np.testing.assert_array_equal(later, whole[10 * N : 13 * N])


# ------------------------------------------------------------------------------------------------
# receiving


def test_a_ring_fills_at_once_and_then_stops():
    ether = ether_of(NodeSpec())
    tones = (Tone(frequency_hz=0.0, scale=0.9, phase_deg=90.0, channel="I"),)
    ring = ether.open_rx(0, N, 4)
    assert not ring.overflowed
    ether.clock.wait_until(20 * N / RATE, timeout_s=None, cancelled=never)
    ether.configure(0, RfSettings(rate_hz=RATE, rx_gain_db=40.0, tones=tones))
    stale = [sounding(read(ring)).any() for _ in range(4)]
    assert stale == [False] * 4  # they filled long ago
    assert ring.overflowed
    fresh = sounding(read(ring))
    assert fresh[2 * LATENCY :].all()


def test_overflow_is_cleared_by_whoever_has_seen_it():
    ether = ether_of(NodeSpec())
    ring = ether.open_rx(0, N, 4)
    read(ring, 10)
    assert not ring.overflowed
    ether.clock.wait_until(ether.clock.now() + 20 * N / RATE, timeout_s=None, cancelled=never)
    assert ring.overflowed
    read(ring, 8)
    ring.overflowed = False
    read(ring, 8)
    assert not ring.overflowed


def test_settings_act_at_the_time_they_were_made():
    ether = ether_of(NodeSpec(), NodeSpec())
    queue = ether.open_tx(0, N, 4, True)
    queue.push(block(0.5), 1.0, never)
    ring = ether.open_rx(1, N, 4)
    # so close behind a sample that it is that sample's
    ether.clock.wait_until(1.5 * N / RATE + 1e-10, timeout_s=None, cancelled=never)
    ether.configure(1, RfSettings(rate_hz=RATE, rx_gain_db=20.0))
    codes = np.abs(read(ring, 3).astype(float)).max(axis=1)
    before, after = codes[100 : 3 * N // 2 - 10], codes[3 * N // 2 + 10 :]
    assert np.median(before) / np.median(after) == pytest.approx(10.0, rel=0.1)
    assert before.min() > 2 * after.max()


@pytest.mark.slow
def test_settings_between_two_reads_act_from_the_first_sample_of_the_next_buffer():
    n = 333
    ether = ether_of(NodeSpec(ppm=7.7), NodeSpec(ppm=-3.3))
    queue = ether.open_tx(0, N, 4, True)
    queue.push(block(0.5), 1.0, never)
    ring = ether.open_rx(1, n, 2)
    read(ring)
    for i in range(300):
        ether.configure(1, replace(SETTINGS, rx_gain_db=40.0 - 20 * (i % 2)))
        levels = np.hypot(*read(ring).astype(float).T)
        wanted = 2048 * 10 ** ((20 * np.log10(0.5) + 7 - 10 - 40 + 40 - 20 * (i % 2) - 5.9) / 20)
        assert levels == pytest.approx(np.full(n, wanted), abs=8)


def test_a_path_of_infinite_loss_is_no_path():
    ether = ether_of(NodeSpec(), NodeSpec())
    ether.path_loss_db = float("inf")
    queue = ether.open_tx(0, N, 4, True)
    queue.push(block(), 1.0, never)
    assert not sounding(read(ether.open_rx(1, N, 4))).any()
    with pytest.raises(ConfigError, match="not a number"):
        ether.path_loss_db = float("nan")


def test_a_buffer_that_is_not_full_in_time_can_be_read_later():
    ether = ether_of(NodeSpec())
    ring = ether.open_rx(0, 1 << 20, 2)
    with pytest.raises(TimeoutError):
        ring.read(0.5, never)
    assert ether.clock.now() == pytest.approx(0.5)
    assert len(ring.read(0.5, never)) == 4 << 20


def test_another_rate_takes_another_time():
    ether = ether_of(NodeSpec())
    ring = ether.open_rx(0, N, 1)
    read(ring)
    assert ether.clock.now() == pytest.approx(N / RATE)
    ether.configure(0, RfSettings(rate_hz=2 * RATE))
    read(ring)
    assert ether.clock.now() == pytest.approx(1.5 * N / RATE)
    assert not ring.overflowed  # the count of samples goes on


def test_closed_and_called_off():
    ether = ether_of(NodeSpec())
    ring = ether.open_rx(0, N, 4)
    with pytest.raises(OSError, match=r"\[Errno 16\]") as refused:
        ether.open_rx(0, N, 4)
    assert refused.value.errno == errno.EBUSY
    with pytest.raises(Cancelled):
        ring.read(1.0, lambda: True)
    ring.close()
    with pytest.raises(Cancelled):
        ring.read(1.0, never)
    ether.open_rx(0, N, 4).close()


# ------------------------------------------------------------------------------------------------
# transmitting


def test_blocks_play_back_to_back_and_then_silence():
    ether = ether_of(NodeSpec(), NodeSpec())
    ring, queue = ether.open_rx(1, N, 16), ether.open_tx(0, N, 4, False)
    for _ in range(3):
        queue.push(block(), 1.0, never)
    assert ether.clock.now() == 0
    queue.push(block(), 1.0, never)  # the fourth waits until the first has played
    assert ether.clock.now() == pytest.approx(N / RATE)
    assert not queue.underflowed
    heard = np.flatnonzero(sounding(read(ring, 6)))
    assert abs(heard[0] - LATENCY) < 8
    assert abs(heard[-1] + 1 - 4 * N - LATENCY) < 8
    assert np.diff(heard).max() == 1
    assert queue.underflowed


def test_a_late_block_leaves_a_gap_and_a_mark():
    ether = ether_of(NodeSpec(), NodeSpec())
    ring, queue = ether.open_rx(1, N, 16), ether.open_tx(0, N, 4, False)
    queue.push(block(), 1.0, never)
    parts = [read(ring, 2)]
    assert queue.underflowed
    queue.underflowed = False
    queue.push(block(), 1.0, never)
    assert queue.underflowed
    parts.append(read(ring, 2))
    (edges,) = np.nonzero(np.diff(sounding(np.concatenate(parts)).astype(int)))
    assert edges == pytest.approx(np.array([0, N, 2 * N, 3 * N]) + LATENCY, abs=8)


def test_closing_drops_what_is_queued():
    ether = ether_of(NodeSpec(), NodeSpec())
    ring, queue = ether.open_rx(1, N, 16), ether.open_tx(0, N, 4, False)
    for _ in range(3):
        queue.push(block(), 1.0, never)
    parts = [read(ring, 1)]
    queue.close()
    parts.append(read(ring, 2))
    heard = np.flatnonzero(sounding(np.concatenate(parts)))
    assert abs(heard[-1] + 1 - N - LATENCY) < 8
    with pytest.raises(Cancelled):
        queue.push(block(), 1.0, never)


@pytest.mark.parametrize("data", [b"", bytes(5), bytes(4 * N + 4)])
def test_a_block_is_whole_samples_and_no_more_than_was_agreed(data):
    queue = ether_of(NodeSpec()).open_tx(0, N, 4, False)
    with pytest.raises(ValueError, match=f"has {len(data)} bytes"):
        queue.push(data, 1.0, never)


def test_a_cyclic_block_repeats_until_it_is_closed():
    ether = ether_of(NodeSpec(), NodeSpec())
    pattern = np.zeros((100, 2), "<i2")
    pattern[:50, 0] = 30000
    queue = ether.open_tx(0, 100, 4, True)
    queue.push(pattern.tobytes(), 1.0, never)
    with pytest.raises(OSError, match=r"\[Errno 16\]"):
        queue.push(pattern.tobytes(), 1.0, never)
    with pytest.raises(OSError, match=r"\[Errno 16\]"):
        ether.open_tx(0, 100, 4, True)
    ring = ether.open_rx(1, N, 4)
    codes = read(ring, 4).astype(float)[200 : 200 + 16000, 0].reshape(-1, 100)
    np.testing.assert_allclose(codes, np.broadcast_to(codes.mean(axis=0), codes.shape), atol=12)
    assert np.ptp(codes.mean(axis=0)) > 400
    assert not queue.underflowed
    queue.close()
    read(ring)
    assert not sounding(read(ring)).any()


def test_a_full_queue_times_out_and_keeps_the_block():
    ether = ether_of(NodeSpec(), NodeSpec())
    ring, queue = ether.open_rx(1, N, 16), ether.open_tx(0, N, 2, False)
    queue.push(block(), 1.0, never)
    with pytest.raises(TimeoutError):
        queue.push(block(), 0.5 * N / RATE, never)
    heard = np.flatnonzero(sounding(read(ring, 3)))
    assert abs(heard[-1] + 1 - 2 * N - LATENCY) < 8


def test_the_converter_takes_the_upper_twelve_bits_and_loopback_gives_them_back():
    ether = ether_of(NodeSpec(ppm=30.0))
    ether.configure(0, RfSettings(rate_hz=RATE, loopback=1))
    sent = np.random.default_rng(4).integers(-(2**15), 2**15, 2 * N).astype("<i2")
    queue = ether.open_tx(0, N, 4, True)
    queue.push(sent.tobytes(), 1.0, never)
    ring = ether.open_rx(0, N, 1)
    np.testing.assert_array_equal(read(ring, 2), np.tile(sent.reshape(-1, 2) >> 4, (2, 1)))
    queue.close()
    assert not read(ring).any()


def test_old_transmissions_are_forgotten_but_not_what_is_still_unread():
    ether = ether_of(NodeSpec(), NodeSpec())
    ring, queue = ether.open_rx(1, N, 4), ether.open_tx(0, N, 4, False)
    for _ in range(500):
        queue.push(block(), 1.0, never)
    assert len(ether._stations[0].emissions) < 20
    assert sounding(read(ring, 4))[2 * LATENCY :].all()


# ------------------------------------------------------------------------------------------------
# real time


class InventedTime:
    """A computer's time that passes only in sleeps, each of which lasts a little too long."""

    oversleep_s = 0.002

    def __init__(self):
        self.now_s = 50.0
        self.sleeps = 0

    def monotonic(self):
        return self.now_s

    def sleep(self, duration_s):
        self.now_s += duration_s + self.oversleep_s
        self.sleeps += 1


@pytest.fixture
def invented_time(monkeypatch):
    invented = InventedTime()
    monkeypatch.setattr("radio.emulator.clock.time", invented)
    return invented


def test_real_time_keeps_the_pace_without_work(invented_time):
    ether = ether_of(NodeSpec(), clock=RealTime())
    ring = ether.open_rx(0, N, 100)
    late_s = []
    for i in range(200):
        read(ring)
        late_s.append(ether.clock.now() - (i + 1) * N / RATE)
    assert min(late_s) >= 0  # never early
    assert max(late_s) <= invented_time.oversleep_s + 1e-9  # and no later at the end
    assert invented_time.sleeps <= 200  # it sleeps, it does not poll
    assert not ring.overflowed


def test_a_wait_in_real_time_ends_when_it_is_called_off_or_too_long(invented_time):
    clock = RealTime()
    with pytest.raises(TimeoutError):
        clock.wait_until(5.0, timeout_s=0.05, cancelled=never)
    assert clock.now() == pytest.approx(0.05, abs=0.01)
    with pytest.raises(Cancelled):
        clock.wait_until(60.0, timeout_s=None, cancelled=lambda: clock.now() > 0.3)
    assert clock.now() == pytest.approx(0.3, abs=0.03)


@pytest.mark.slow
def test_threads_stream_side_by_side():
    slow = RfSettings(rate_hz=600e3, rx_gain_db=40.0)
    ether = ether_of(NodeSpec(ppm=5.0), NodeSpec(), NodeSpec(), clock=RealTime(), settings=slow)
    heard, failures = [], []

    def send():
        # Room for many: a stalled thread leaves no gap. And it sends until all have heard it.
        queue = ether.open_tx(0, N, 4000, False)
        until_s = time.monotonic() + 60.0
        while len(heard) < 2 and time.monotonic() < until_s:
            queue.push(block(), 60.0, never)

    def receive(node):
        ring = ether.open_rx(node, N, 64)
        heard.append(sounding(read(ring, 60)))

    def turn_knobs():
        for i in range(100):
            ether.path_loss_db = 40.0 + i % 3
            ether.configure(2, replace(slow, rx_gain_db=40.0 + i % 2))
            time.sleep(0.001)

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:
            failures.append(error)

    jobs = [(send,), (receive, 1), (receive, 2), (turn_knobs,)]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert not failures
    assert len(heard) == 2
    for sounds in heard:
        assert sounds[-N:].all()
        assert np.count_nonzero(np.diff(sounds.astype(int))) <= 1
