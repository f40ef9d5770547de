import math

import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel import Loopback, QueueFeedback
from radio.clocks import VirtualClock
from radio.link import Limits, Link, budget
from radio.modem import framing, mcs

DELAY_S = 0.02


def deliver(payload, snr_db, limits=None):
    clock = VirtualClock()
    loopback = Loopback(clock=clock, rng=np.random.default_rng(71), snr_db=snr_db, cfo_hz=3e3)
    link = Link(loopback, QueueFeedback(clock, delay_s=DELAY_S), clock)
    limits = limits or Limits()
    return link.deliver(payload, limits, sounding=link.sound(limits))


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [-5.0, 1.0, 9.0, 21.0])
@pytest.mark.parametrize("size", [500, 20_000, 150_000])
def test_airtime_is_what_a_delivery_spends(snr_db, size):
    if size > 20_000 and snr_db < 0:
        pytest.skip("four seconds of air, and the same path as 20 kB")
    report, _ = deliver(np.random.default_rng(72).bytes(size), snr_db)
    assert report.delivered
    # a sounding of unknown SNR is longer, and few blocks come in whole numbers
    expected_s = budget.airtime_s(size, snr_db, 2e6, round_trip_s=DELAY_S)
    assert expected_s == pytest.approx(report.airtime_s, rel=0.06, abs=0.008)


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [3.0, 15.0])
def test_a_payload_cut_to_the_budget_arrives_within_it(snr_db):
    bits = budget.payload_bits(0.2, snr_db, 2e6, round_trip_s=DELAY_S)
    report, received = deliver(bytes(bits // 8), snr_db, Limits(airtime_s=0.21))
    assert received == bytes(bits // 8)
    assert 0.9 * 0.2 < report.airtime_s <= 0.21


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [-5.0, 3.5, 12.5, 20.0, 30.0])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.05])
def test_both_directions_agree(snr_db, round_trip_s):
    more = framing.LONG.block_payload_bytes
    for airtime_s in (0.05, 0.3, 2.0):
        n_bytes = budget.payload_bits(airtime_s, snr_db, 1e6, round_trip_s=round_trip_s) // 8
        if n_bytes < 1:
            continue
        assert budget.airtime_s(n_bytes, snr_db, 1e6, round_trip_s=round_trip_s) <= airtime_s * (
            1 + 1e-9
        )
        assert (
            budget.airtime_s(n_bytes + 2 * more, snr_db, 1e6, round_trip_s=round_trip_s) > airtime_s
        )


@pytest.mark.slow
def test_rate_snr_margin_and_waiting_count():
    slow, fast = (budget.payload_bits(0.2, 15.0, rate) for rate in (1e6, 2e6))
    assert fast == pytest.approx(2 * slow, rel=0.05)
    assert budget.payload_bits(0.1, 22.0, 2e6) > 1.25 * budget.payload_bits(0.1, 15.0, 2e6)
    assert budget.payload_bits(0.1, 20.0, 2e6, margin_db=3.0) < budget.payload_bits(0.1, 20.0, 2e6)
    assert budget.payload_bits(0.1, 20.0, 2e6, round_trip_s=0.2) < budget.payload_bits(
        0.1, 20.0, 2e6
    )


def test_more_airtime_and_more_snr_never_carry_less():
    snr_db = np.arange(-9.0, 30.0, 0.25)
    bits = budget.payload_bits(0.3, snr_db, 2e6, round_trip_s=0.02)
    # a scheme that was just switched to loses a little more than the one before
    assert (np.diff(bits) >= -0.02 * bits[1:]).all()
    assert (
        np.diff(budget.payload_bits(np.linspace(0, 1, 200), 8.0, 2e6, round_trip_s=0.02)) >= 0
    ).all()


def test_copies_that_add_up_carry_below_the_slowest_threshold_and_nothing_carries_far_below():
    threshold_db = mcs.MCS_TABLE[0].threshold_db
    at, below = (budget.payload_bits(2.0, threshold_db + d, 2e6) for d in (0.5, -1.0))
    assert 0.35 * at < below < 0.65 * at
    assert budget.payload_bits(10.0, threshold_db - 5, 2e6) == 0
    assert math.isinf(budget.airtime_s(1, threshold_db - 5, 2e6))
    assert budget.payload_bits(10.0, math.nan, 2e6) == 0
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
