import math

import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from radio.channel import Loopback, QueueFeedback
from radio.clocks import VirtualClock
from radio.link import BlockStore, Limits, Link, receiver
from radio.modem import framing, mcs, sync

PAYLOAD = np.random.default_rng(91).bytes(40_000)
BY_NAME = {scheme.name: scheme for scheme in mcs.MCS_TABLE}


class Observer(Loopback):
    """A loopback that keeps what was transmitted and may swallow, repeat or hold back
    transmissions."""

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
        self.bytes = 0

    def send(self, message):
        self.bytes += len(message)
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


def bench(snr_db, *, seed=92, fates="", messages="", store=None, **changes):
    clock = VirtualClock()
    air = Observer(
        fates,
        clock=clock,
        rng=np.random.default_rng(seed),
        snr_db=snr_db,
        **{"cfo_hz": -21e3, **changes},
    )
    return Link(air, Unreliable(clock, messages), clock, store=store), air, clock


def headers(transmitted):
    """Of everything that was transmitted, as a receiver without noise reads them."""
    found = [(iq, *sync.find_bursts(iq)) for iq in transmitted]
    return [receiver.peek_header(iq, burst) for iq, burst in found]


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [0.0, 6.0, 25.0])
def test_report_equals_what_an_observer_counts(snr_db):
    payload = PAYLOAD if snr_db > 5 else PAYLOAD[:8000]
    link, air, clock = bench(snr_db)
    sounding = link.sound()
    report, received = link.deliver(payload, sounding=sounding)
    assert received == payload
    assert report.delivered
    assert report.reason == ""
    seen = headers(air.transmitted)
    samples = sum(map(len, air.transmitted))
    blocks = sum(header.block_count for header in seen)
    bits = sum(h.block_count * framing.LONG.coded_bits(h.mcs) for h in seen if h.block_count)
    assert all(
        header.n_samples == len(iq) for header, iq in zip(seen, air.transmitted, strict=True)
    )
    assert report.bits_on_air == bits
    assert report.blocks_sent == blocks == sum(report.blocks_by_mcs.values())
    assert {h.mcs.name for h in seen if h.block_count} == set(report.blocks_by_mcs)
    assert report.bursts_sent == len(seen)
    assert report.header_bits_on_air == sum(
        192 * 2 * framing.header_symbols(h.robust) for h in seen
    )
    assert report.airtime_s == pytest.approx(samples / 2e6)
    assert report.elapsed_s == pytest.approx(clock.now())
    assert report.bursts_lost == 0
    assert report.block_error_rate <= 0.05
    assert report.prefix_bytes == len(payload)
    assert report.feedback_bytes == link.feedback.bytes
    assert report.snr_db == pytest.approx(snr_db, abs=0.5)
    assert sounding.snr_db == pytest.approx(snr_db, abs=1.0)
    assert report.cfo_hz == pytest.approx(-21e3, abs=150)
    assert report.evm_rms == pytest.approx(10 ** (-snr_db / 20), rel=0.25)
    assert report.goodput_bps == pytest.approx(8 * len(payload) / report.airtime_s)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fates", "messages"),
    [
        ("x", ""),  # the sounding is lost
        (".x", ""),  # a data burst is lost
        ("..x", ""),  # the last one is lost
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
    assert report.blocks_sent == sum(header.block_count for header in headers(air.transmitted))


@pytest.mark.slow
def test_a_long_payload_takes_little_more_than_its_airtime():
    """1 % of the blocks lost at random: they go again, and next to nothing else does."""

    class Lossy(receiver.Receiver):
        rng = np.random.default_rng(95)

        def _accept(self, reception, sample_rate_hz):
            if reception.blocks is not None:
                reception.blocks.passed[self.rng.random(len(reception.blocks.passed)) < 0.01] = (
                    False
                )
            return super()._accept(reception, sample_rate_hz)

    link, _, _ = bench(30.0)
    link.receiver = Lossy(epoch=1)
    payload = np.random.default_rng(96).bytes(300_000)
    report, received = link.deliver(payload)
    assert received == payload
    assert 1 <= report.blocks_lost <= 12
    assert report.blocks_sent <= 290 + report.blocks_lost + 12
    ((name, _),) = report.blocks_by_mcs.items()
    assert report.airtime_s < 1.1 * framing.data_symbols(290, BY_NAME[name]) * 288 / 2e6
    assert report.elapsed_s < report.airtime_s + 3 * 0.02 + 1e-3  # sounding, window, holes


@pytest.mark.parametrize("snr_db", [-20.0, -10.0])
def test_an_unusable_channel_ends_with_a_reason_in_time(snr_db):
    link, _, clock = bench(snr_db)
    report, received = link.deliver(PAYLOAD, Limits(elapsed_s=5.0))
    assert received is None
    assert not report.delivered
    assert "unusable" in report.reason or "answered" in report.reason
    assert report.goodput_bps == 0.0
    assert clock.now() <= 5.0
    assert report.blocks_sent == 0
    assert math.isnan(report.snr_db) or report.snr_db == pytest.approx(snr_db, abs=1.5)


def test_robust_schemes_carry_a_payload_below_the_noise():
    link, _, _ = bench(-5.0)
    report, received = link.deliver(PAYLOAD[:5000])
    assert received == PAYLOAD[:5000]
    assert set(report.blocks_by_mcs) == {mcs.MCS_TABLE[0].name}


@pytest.mark.slow
def test_a_fade_that_passes_is_waited_for():
    link, air, clock = bench(12.0)

    def transmit(iq, usual=air.transmit):
        air.snr_db = -15.0 if 0.05 < clock.now() < 0.6 else 12.0
        usual(iq)

    air.transmit = transmit
    report, received = link.deliver(PAYLOAD)
    assert received == PAYLOAD
    assert report.elapsed_s > 0.6


@pytest.mark.slow
def test_a_channel_worse_than_its_snr_says_is_met_with_a_slower_scheme():
    class Interfered(receiver.Receiver):
        """Fast schemes lose one block in three, whatever the SNR."""

        rng = np.random.default_rng(97)

        def _accept(self, reception, sample_rate_hz):
            if reception.blocks is not None and reception.header.mcs.efficiency > 4:
                reception.blocks.passed[self.rng.random(len(reception.blocks.passed)) < 0.3] = False
            return super()._accept(reception, sample_rate_hz)

    link, _, _ = bench(17.0)
    link.receiver = Interfered(epoch=1)
    for _ in range(3):
        report, received = link.deliver(PAYLOAD[:20_000])
        assert received == PAYLOAD[:20_000]
    assert link.adaptation.margin_db > 1.0
    assert max(BY_NAME[name].efficiency for name in report.blocks_by_mcs) < 4


def test_a_silent_feedback_path_ends_with_a_reason():
    link, _, clock = bench(20.0, messages="x" * 50)
    report, received = link.deliver(PAYLOAD, Limits(elapsed_s=30.0))
    assert received is None
    assert "answered" in report.reason
    assert clock.now() < 5.0
    sounding = link.sound()
    assert "answered" in sounding.reason
    assert sounding.bursts_sent == 2
    assert np.isnan([sounding.snr_db, sounding.flat_snr_db, sounding.measured_at_s]).all()


def test_what_was_measured_before_a_fade_does_not_stand_for_it():
    link, air, _ = bench(20.0)
    link.deliver(PAYLOAD[:10_000])
    air.snr_db = -30.0
    sounding = link.sound()
    assert "none of 2 sounding bursts was answered" in sounding.reason
    assert np.isnan(
        [sounding.snr_db, sounding.flat_snr_db, sounding.cfo_hz, sounding.measured_at_s]
    ).all()
    report, received = link.deliver(PAYLOAD, sounding=sounding)
    assert received is None
    assert report.blocks_sent == 0
    assert np.isnan(report.snr_db)


def test_every_attempt_of_a_sounding_costs_air():
    link, air, _ = bench(20.0, messages="x")  # the first answer is lost
    sounding = link.sound()
    assert (sounding.reason, sounding.bursts_sent) == ("", 2)
    assert sounding.airtime_s == pytest.approx(sum(map(len, air.transmitted)) / 2e6)
    report, _ = link.deliver(PAYLOAD, Limits(airtime_s=0.04), sounding=sounding)
    assert "airtime limit of 0.04 s" in report.reason
    assert report.airtime_s == pytest.approx(sum(map(len, air.transmitted)) / 2e6)
    assert sounding.airtime_s < report.airtime_s <= 0.04


def test_limits_hold_are_named_and_leave_a_prefix():
    link, air, _ = bench(20.0)
    report, received = link.deliver(PAYLOAD, Limits(airtime_s=0.04))
    assert received is None
    assert "airtime limit of 0.04 s" in report.reason
    assert sum(map(len, air.transmitted)) / 2e6 <= 0.04
    prefix = link.receiver.prefix(link.next_session - 1)
    assert 10_000 < len(prefix) == report.prefix_bytes < 40_000
    assert PAYLOAD.startswith(prefix)
    link, _, clock = bench(20.0)
    report, _ = link.deliver(PAYLOAD, Limits(elapsed_s=0.05))
    assert "time limit of 0.05 s" in report.reason
    assert clock.now() <= 0.05


def test_a_restarted_receiver_gets_the_payload_anew():
    link, _, _ = bench(16.0)
    restarts = []

    class Restarting(receiver.Receiver):
        def feed(self, iq, sample_rate_hz):
            if not restarts and self.latest is not None and self.latest.header.block_count:
                restarts.append(True)
                link.receiver = receiver.Receiver(epoch=77)
                return link.receiver.feed(iq, sample_rate_hz)
            return super().feed(iq, sample_rate_hz)

    link.receiver = Restarting(epoch=1)
    report, received = link.deliver(PAYLOAD)
    assert restarts
    assert received == PAYLOAD
    assert report.delivered
    assert 0 <= report.blocks_lost < report.blocks_sent


def test_a_link_that_starts_again_goes_on_with_what_its_store_holds(tmp_path):
    first, _, _ = bench(20.0, store=BlockStore(tmp_path))
    cut, _ = first.deliver(PAYLOAD, Limits(airtime_s=0.04))
    assert not cut.delivered
    again, _, _ = bench(20.0, store=BlockStore(tmp_path))
    report, received = again.deliver(PAYLOAD)
    assert received == PAYLOAD
    assert report.blocks_lost == 0
    assert report.blocks_sent <= framing.block_count_of(40_000) + 4 - cut.blocks_sent


def test_rounds_follow_one_another_with_their_own_snr_and_rate():
    link, air, _ = bench(14.0)
    for snr_db, rate_hz in ((14.0, 2e6), (22.0, 1e6), (17.0, 1.5e6)):
        air.snr_db, air.sample_rate_hz = snr_db, rate_hz
        sounding = link.sound()
        report, received = link.deliver(PAYLOAD[:10_000], sounding=sounding)
        assert received == PAYLOAD[:10_000]
        assert report.snr_db == pytest.approx(snr_db, abs=0.5)
        assert report.cfo_hz == pytest.approx(-21e3, abs=100)
        assert link.bandwidth_hz == pytest.approx(rate_hz * 201 / 256)


def test_same_seed_same_samples_same_report():
    runs = []
    for seed in (1, 1, 2):
        link, air, _ = bench(12.0, seed=seed)
        report, _ = link.deliver(PAYLOAD[:8000])
        runs.append((report, b"".join(iq.tobytes() for iq in air.transmitted)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_an_empty_payload_is_refused():
    link, _, _ = bench(20.0)
    with pytest.raises(ConfigError, match="empty"):
        link.deliver(b"")


@pytest.mark.parametrize("size", [1, 139, 140, 834, 835, 1036])
def test_a_single_byte_and_the_block_boundaries_arrive(size):
    link, _, _ = bench(20.0)
    assert link.deliver(PAYLOAD[:size])[1] == PAYLOAD[:size]


def test_a_radio_that_delivers_nan_is_a_broken_bench():
    def broken(iq, rng):
        return iq * np.float32(np.nan)

    link, _, _ = bench(20.0, impairments=(broken,))
    with pytest.raises(DeviceError, match="not finite"):
        link.deliver(PAYLOAD)
