"""Figures that records derive from their fields."""

from __future__ import annotations

import pytest

from hil.contract import KEEP, LinkReport, RankPlan


def report(**fields: object) -> LinkReport:
    known = {
        "delivered": True,
        "reason": "",
        "payload_bytes": 1000,
        "airtime_s": 0.5,
        "elapsed_s": 0.6,
        "bits_on_air": 8448,
        "header_bits_on_air": 100,
        "bursts_sent": 2,
        "bursts_lost": 0,
        "blocks_sent": 8,
        "blocks_lost": 2,
        "snr_db": 10.0,
        "snr_std_db": 0.1,
        "evm_rms": 0.1,
        "cfo_hz": 0.0,
        "feedback_bytes": 10,
    }
    return LinkReport(**{**known, **fields})


def test_goodput_counts_delivered_payload_bits_per_second_of_air():
    assert report().goodput_bps == pytest.approx(16_000)
    assert report(delivered=False).goodput_bps == 0
    assert report(airtime_s=0.0).goodput_bps == 0


def test_block_error_rate_is_a_share_of_the_blocks_sent():
    assert report().block_error_rate == 0.25
    assert report(blocks_sent=0, blocks_lost=0).block_error_rate == 0


def test_only_a_plan_that_keeps_every_module_sends_nothing():
    assert RankPlan(ranks={"a": KEEP, "b": KEEP}).sends_nothing
    assert not RankPlan(ranks={"a": KEEP, "b": 0}).sends_nothing  # a rank of 0 takes the update off
