"""One radio that hears itself: over a cable with an attenuator, or emulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hil.contract import IQ
from radio.channel import QueueFeedback
from radio.clocks import MonotonicClock
from radio.link import Link
from radio.pluto.pair import PlutoPair
from radio.pluto.process import Pluto

Tone = Callable[[int, int], IQ]


def power_db(iq: IQ) -> float:
    return float(10 * np.log10(np.mean(np.abs(iq - iq.mean()) ** 2)))


@pytest.fixture(scope="module")
def opened(hardware_lab: Any) -> Iterator[Pluto]:
    with Pluto(
        hardware_lab.settings(), hardware_lab.permission, patience_s=hardware_lab.patience_s
    ) as pluto:
        yield pluto


@pytest.fixture
def pluto(lab: Any, opened: Pluto) -> Pluto:
    """The open radio, silent and set as at the start."""
    opened.stop_transmit()
    opened.configure(rx_gain_db=40.0, tx_attenuation_db=20.0, tx_lo_hz=lab.lo_hz)
    return opened


@pytest.mark.slow
def test_tones_come_back_at_their_sign_and_move_with_the_carriers(
    lab: Any, pluto: Pluto, tone: Tone
) -> None:
    for periods, tx_offset, expected in ((100, 0.0, 0.1), (-100, 0.0, -0.1), (100, 0.15, 0.25)):
        pluto.configure(tx_lo_hz=lab.lo_hz + tx_offset * lab.rate_hz)
        pluto.transmit_cyclic(tone(periods, 1000))
        spectrum = np.abs(np.fft.fft(pluto.capture(10_000)))
        spectrum[0] = 0
        assert np.fft.fftfreq(10_000)[np.argmax(spectrum)] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_attenuation_and_gain_move_the_level(pluto: Pluto, tone: Tone) -> None:
    pluto.transmit_cyclic(tone(100, 1000))
    levels_db = []
    for attenuation_db, gain_db in ((20.0, 40.0), (30.0, 40.0), (30.0, 30.0)):
        pluto.configure(tx_attenuation_db=attenuation_db, rx_gain_db=gain_db)
        levels_db.append(power_db(pluto.capture(20_000)))
    assert levels_db[0] - levels_db[1] == pytest.approx(10.0, abs=0.5)
    assert levels_db[1] - levels_db[2] == pytest.approx(10.0, abs=1.0)


@pytest.mark.slow
def test_silence_after_transmitting(pluto: Pluto, tone: Tone) -> None:
    before_db = power_db(pluto.capture(20_000))
    pluto.transmit_cyclic(tone(100, 1000))
    signal_db = power_db(pluto.capture(20_000))
    pluto.stop_transmit()
    after_db = power_db(pluto.capture(20_000))
    assert signal_db > before_db + 20
    assert after_db == pytest.approx(before_db, abs=0.5)


@pytest.mark.slow
def test_link_delivers_without_a_carrier_offset(lab: Any, pluto: Pluto) -> None:
    payload = np.random.default_rng(2).bytes(20_000)
    clock = MonotonicClock()
    pluto.restart_receive()
    link = Link(PlutoPair(pluto, pluto), QueueFeedback(clock, delay_s=0.0), clock)
    report, received = link.deliver(payload, lab.limits)
    assert received == payload, report.reason
    assert abs(report.cfo_hz) < 20  # one synthesizer's reference feeds both directions
