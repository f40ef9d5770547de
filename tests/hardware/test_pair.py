"""One radio sends, another one hears it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from radio.channel import QueueFeedback
from radio.clocks import MonotonicClock
from radio.link import Link
from radio.pluto.pair import PlutoPair
from radio.pluto.process import Pluto

TX_RMS_DBFS = -20.0
"""Of the kit's bursts at the converter: -14 dB of full scale in IQ, 6 dB backoff."""
PAYLOAD = np.random.default_rng(4).bytes(20_000)


@pytest.fixture(scope="module")
def pair(hardware_lab: Any) -> Iterator[PlutoPair]:
    if len(hardware_lab.uris) < 2:
        pytest.skip("needs two radios: give --pluto-uri-2 as well")
    sender, receiver = (
        Pluto(
            hardware_lab.settings(radio),
            hardware_lab.permission,
            patience_s=hardware_lab.patience_s,
            io_timeout_s=1.5,
        )
        for radio in range(2)
    )
    with PlutoPair(sender, receiver) as opened:
        yield opened


def link_over(pair: PlutoPair) -> Link:
    clock = MonotonicClock()
    return Link(pair, QueueFeedback(clock, delay_s=0.0), clock)


@pytest.mark.slow
def test_link_delivers_again_and_again(lab: Any, pair: PlutoPair) -> None:
    link = link_over(pair)
    for _ in range(3):
        report, received = link.deliver(PAYLOAD, lab.limits)
        assert received == PAYLOAD, report.reason
        assert report.snr_db > 5


@pytest.mark.slow
def test_carrier_offset_is_the_oscillators(lab: Any, pair: PlutoPair, emulated: Any) -> None:
    report, _ = link_over(pair).deliver(PAYLOAD, lab.limits)
    truth_hz = (lab.ppm[0] - lab.ppm[1]) * 1e-6 * lab.lo_hz
    assert report.cfo_hz == pytest.approx(truth_hz, rel=0.01, abs=20)


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [6.0, 15.0, 24.0])
def test_measured_snr_is_the_ethers(
    lab: Any, pair: PlutoPair, emulated: Any, snr_db: float
) -> None:
    emulated.ether.set_snr(0, 1, snr_db, TX_RMS_DBFS)
    report, received = link_over(pair).deliver(PAYLOAD, lab.limits)
    assert emulated.ether.snr_db(0, 1, TX_RMS_DBFS) == pytest.approx(snr_db, abs=0.01)
    assert received == PAYLOAD, report.reason
    assert report.snr_db == pytest.approx(snr_db, abs=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("radio", [0, 1])
@pytest.mark.parametrize("fault", ["drop_connection", "vanish"])
def test_link_survives(lab: Any, pair: PlutoPair, emulated: Any, fault: str, radio: int) -> None:
    faults = emulated.faults[radio]
    before = (pair.tx, pair.rx)[radio].outages
    faults.vanish(1.0) if fault == "vanish" else getattr(faults, fault)()
    report, received = link_over(pair).deliver(PAYLOAD, lab.limits)
    assert received == PAYLOAD, report.reason
    assert (pair.tx, pair.rx)[radio].outages > before
