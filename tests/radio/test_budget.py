import math

import numpy as np
import pytest

from hil.contract import ConfigError
from radio import budget
from radio.link import Limits, Link
from radio.loopback import Loopback, QueueFeedback, VirtualClock


def deliver(payload, snr_db, limits=None):
    clock = VirtualClock()
    loopback = Loopback(clock=clock, rng=np.random.default_rng(71), snr_db=snr_db, cfo_hz=3e3)
    return Link(loopback, QueueFeedback(clock), clock).deliver(payload, limits)


@pytest.mark.parametrize(("snr_db", "tolerance"), [(13.0, 0.03), (16.0, 0.005), (19.5, 0.03), (25.0, 0.005)])
@pytest.mark.parametrize("size", [3_000, 60_000])
def test_airtime_is_what_a_delivery_spends(snr_db, tolerance, size):
    report, _ = deliver(np.random.default_rng(72).bytes(size), snr_db)
    assert report.delivered
    # few blocks: one more or less is several per cent
    slack = tolerance * (1 if size > 10_000 else 5) * report.airtime_s
    assert budget.airtime_s(size, snr_db, 2e6) == pytest.approx(report.airtime_s, abs=slack)


def test_a_payload_cut_to_the_budget_arrives_within_it():
    bits = budget.payload_bits(0.12, 21.0, 2e6)
    report, received = deliver(bytes(bits // 8), 21.0, Limits(airtime_s=0.12))
    assert report.delivered
    assert received == bytes(bits // 8)
    assert 0.95 * 0.12 < report.airtime_s <= 0.12


@pytest.mark.parametrize("snr_db", [12.5, 15.0, 20.0, 30.0])
def test_both_directions_agree(snr_db):
    for airtime_s in (0.01, 0.05, 0.3, 2.0):
        n_bytes = budget.payload_bits(airtime_s, snr_db, 1e6) // 8
        assert budget.airtime_s(n_bytes, snr_db, 1e6) <= airtime_s
        assert budget.airtime_s(n_bytes + 3 * 138, snr_db, 1e6) > airtime_s


def test_rate_snr_and_margin_count():
    slow, fast = (budget.payload_bits(0.1, 15.0, rate) for rate in (1e6, 2e6))
    assert fast == pytest.approx(2 * slow, rel=0.03)
    assert budget.payload_bits(0.1, 22.0, 2e6) > 1.8 * budget.payload_bits(0.1, 15.0, 2e6)
    assert budget.payload_bits(0.1, 20.0, 2e6, margin_db=3.0) < budget.payload_bits(0.1, 20.0, 2e6)


def test_an_unusable_channel_carries_nothing():
    assert budget.payload_bits(10.0, 5.0, 2e6) == 0
    assert math.isinf(budget.airtime_s(1, 5.0, 2e6))
    assert budget.payload_bits(0.0, 25.0, 2e6) == 0


def test_impossible_arguments_are_refused():
    for call in (
        lambda: budget.payload_bits(-1.0, 20.0, 2e6),
        lambda: budget.payload_bits(1.0, 20.0, 0.0),
        lambda: budget.airtime_s(0, 20.0, 2e6),
        lambda: budget.airtime_s(10, 20.0, -1.0),
    ):
        with pytest.raises(ConfigError):
            call()
