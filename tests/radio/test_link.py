import math

import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from radio import framing, receiver, sync
from radio.link import Limits, Link
from radio.loopback import Loopback, QueueFeedback, VirtualClock
from radio.mcs import MCS_TABLE

PAYLOAD = np.random.default_rng(91).bytes(30_000)


class Observer(Loopback):
    """A loopback that keeps what was transmitted and may swallow, repeat or hold back transmissions."""

    def __init__(self, fates="", **arguments):
        super().__init__(**arguments)
        self.fates = list(fates)
        self.transmitted = []
        self.held_back = []

    def transmit(self, iq):
        self.transmitted.append(iq)
        fate = self.fates.pop(0) if self.fates else "."
        if fate == "x":
            return
        if fate == "<":
            self.held_back.append(iq)
            return
        super().transmit(iq[: len(iq) // 2] if fate == "/" else iq)
        if fate == "2":
            super().transmit(iq)
        while self.held_back:
            super().transmit(self.held_back.pop())


class Unreliable(QueueFeedback):
    """Messages are lost, doubled, damaged or swapped by turns."""

    def __init__(self, clock, fates):
        super().__init__(clock, delay_s=0.02)
        self.fates = list(fates)
        self.held_back = []

    def send(self, message):
        fate = self.fates.pop(0) if self.fates else "."
        if fate == "x":
            return
        if fate == "<":
            self.held_back.append(message)
            return
        super().send(message[:-1] if fate == "/" else message)
        if fate == "2":
            super().send(message)
        while self.held_back:
            super().send(self.held_back.pop())


def bench(snr_db, *, seed=92, fates="", messages="", **changes):
    clock = VirtualClock()
    air = Observer(fates, clock=clock, rng=np.random.default_rng(seed), snr_db=snr_db, **{"cfo_hz": -21e3, **changes})
    return Link(air, Unreliable(clock, messages), clock), air, clock


def observed_blocks(transmitted):
    """Blocks counted from what was transmitted: by the headers, checked against the bursts' lengths."""
    total, headers = 0, 0
    for iq in transmitted:
        (burst,) = sync.find_bursts(iq)
        header = receiver.peek_header(iq, burst)
        bits = {"QPSK": 384, "16-QAM": 768}[MCS_TABLE[header.mcs].name]
        symbols = (len(iq) - 832) / 288 - 8
        assert symbols == math.ceil(header.block_count * 1152 / bits)
        total += header.block_count
        headers += 1
    return total, headers


@pytest.mark.parametrize("snr_db", [11.5, 13.0, 17.0, 19.0, 25.0])
def test_report_equals_what_an_observer_counts(snr_db):
    link, air, clock = bench(snr_db)
    sounding = link.sound()
    report, received = link.deliver(PAYLOAD, sounding=sounding)
    assert received == PAYLOAD
    assert report.delivered
    assert report.reason == ""
    blocks, bursts = observed_blocks(air.transmitted)
    samples = sum(map(len, air.transmitted))
    assert report.bits_on_air == blocks * 1152
    assert report.blocks_sent == blocks == sum(report.blocks_by_mcs.values())
    assert report.bursts_sent == bursts
    assert report.header_bits_on_air == bursts * 8 * 192 * 2
    assert report.airtime_s == pytest.approx(samples / 2e6)
    assert report.elapsed_s == pytest.approx(clock.now())
    assert report.blocks_lost == blocks - math.ceil(30_000 / 138)  # nothing held was sent again
    assert report.bursts_lost == 0
    assert report.snr_db == pytest.approx(snr_db, abs=0.3)
    assert sounding.snr_db == pytest.approx(snr_db, abs=1.0)
    assert report.cfo_hz == pytest.approx(-21e3, abs=100)
    assert report.evm_rms == pytest.approx(10 ** (-snr_db / 20), rel=0.15)
    assert report.goodput_bps == pytest.approx(240_000 / report.airtime_s)


def test_at_13_db_few_blocks_are_lost():
    link, _, _ = bench(13.0)
    report, _ = link.deliver(np.random.default_rng(93).bytes(100_000))
    assert report.block_error_rate < 0.05
    assert report.goodput_bps > 2.3e6


@pytest.mark.parametrize(
    ("fates", "messages"),
    [
        ("x", ""),  # the sounding is lost
        (".x", ""),  # a data burst is lost
        (".222", ""),
        (".<.", ""),  # two bursts change places
        ("./", ""),  # a burst is cut in half
        ("", "x.x.x"),
        ("", "2222"),
        ("", "//"),
        ("", "<."),
        ("x.2/<.x", ".x2</"),
    ],
)
def test_delivery_survives_lost_doubled_swapped_and_cut_bursts_and_messages(fates, messages):
    link, air, _ = bench(16.0, fates=fates, messages=messages)
    report, received = link.deliver(PAYLOAD)
    assert received == PAYLOAD
    assert report.delivered
    blocks, _ = observed_blocks(air.transmitted)
    assert report.bits_on_air == blocks * 1152


@pytest.mark.parametrize("snr_db", [-10.0, -1.0, 5.0])
def test_an_unusable_channel_ends_with_a_reason_in_time(snr_db):
    link, _, clock = bench(snr_db)
    report, received = link.deliver(PAYLOAD, Limits(elapsed_s=5.0))
    assert received is None
    assert not report.delivered
    assert report.reason
    assert report.goodput_bps == 0.0
    assert clock.now() <= 5.0
    assert report.blocks_sent <= 8 * 5
    assert math.isnan(report.snr_db) or report.snr_db == pytest.approx(snr_db, abs=1.0)


def test_a_silent_feedback_path_ends_with_a_reason():
    link, _, clock = bench(20.0, messages="x" * 50)
    report, received = link.deliver(PAYLOAD, Limits(elapsed_s=30.0))
    assert received is None
    assert "answered" in report.reason
    assert clock.now() < 5.0
    sounding = link.sound()
    assert "answered" in sounding.reason
    assert sounding.bursts_sent == 2


def test_limits_hold_and_are_named():
    link, air, _ = bench(20.0)
    report, received = link.deliver(PAYLOAD, Limits(airtime_s=0.02))
    assert received is None
    assert "airtime limit of 0.02 s" in report.reason
    assert sum(map(len, air.transmitted)) / 2e6 <= 0.02
    link, _, clock = bench(20.0)
    report, _ = link.deliver(PAYLOAD, Limits(elapsed_s=0.03))
    assert "time limit of 0.03 s" in report.reason
    assert clock.now() <= 0.03


def test_a_restarted_receiver_gets_the_payload_anew():
    link, _, _ = bench(16.0)
    restarts = []

    class Restarting(receiver.Receiver):
        def feed(self, iq, sample_rate_hz):
            if not restarts and self.latest is not None:
                restarts.append(True)
                link.receiver = receiver.Receiver(epoch=77)
                return link.receiver.feed(iq, sample_rate_hz)
            return super().feed(iq, sample_rate_hz)

    link.receiver = Restarting(epoch=1)
    report, received = link.deliver(PAYLOAD)
    assert restarts
    assert received == PAYLOAD
    assert report.delivered


def test_rounds_follow_one_another_with_their_own_snr_and_rate():
    link, air, _ = bench(14.0)
    for snr_db, rate_hz in ((14.0, 2e6), (22.0, 1e6), (17.0, 1.5e6)):
        air.snr_db, air.sample_rate_hz = snr_db, rate_hz
        sounding = link.sound()
        report, received = link.deliver(PAYLOAD, sounding=sounding)
        assert received == PAYLOAD
        assert report.snr_db == pytest.approx(snr_db, abs=0.3)
        assert report.cfo_hz == pytest.approx(-21e3, abs=100)
        assert link.bandwidth_hz == pytest.approx(rate_hz * 201 / 256)
    assert set(report.blocks_by_mcs) == {"QPSK"}


def test_same_seed_same_samples_same_report():
    runs = []
    for seed in (1, 1, 2):
        link, air, _ = bench(12.0, seed=seed)
        report, _ = link.deliver(PAYLOAD)
        runs.append((report, b"".join(iq.tobytes() for iq in air.transmitted)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_an_empty_payload_is_refused():
    link, _, _ = bench(20.0)
    with pytest.raises(ConfigError, match="empty"):
        link.deliver(b"")


def test_a_single_byte_and_a_block_boundary_arrive():
    link, _, _ = bench(20.0)
    for payload in (b"x", bytes(framing.BLOCK_PAYLOAD_BYTES), bytes(framing.BLOCK_PAYLOAD_BYTES + 1)):
        assert link.deliver(payload)[1] == payload


def test_a_radio_that_delivers_nan_is_a_broken_bench():
    def broken(iq, rng):
        return iq * np.float32(np.nan)

    link, _, _ = bench(20.0, impairments=(broken,))
    with pytest.raises(DeviceError, match="not finite"):
        link.deliver(PAYLOAD)
