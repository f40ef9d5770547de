"""One radio that hears itself: over a cable with an attenuator, or emulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hil.contract import IQ
from radio.channel.loopback import QueueFeedback
from radio.clocks import MonotonicClock
from radio.link.both_ends import Limits, Link
from radio.pluto.pair import PlutoPair
from radio.pluto.process import Pluto

Tone = Callable[[int, int], IQ]


def power_db(iq: IQ) -> float:
    return float(10 * np.log10(np.mean(np.abs(iq - iq.mean()) ** 2)))


def test_tones_come_back_at_their_sign_and_move_with_the_carriers(lab: Any, tone: Tone) -> None:
    with Pluto(lab.settings(), lab.permission) as pluto:
        for periods, tx_offset_hz, expected_hz in (
            (100, 0.0, 100e3),
            (-100, 0.0, -100e3),
            (100, 150e3, 250e3),
        ):
            pluto.configure(tx_lo_hz=lab.lo_hz + tx_offset_hz)
            pluto.transmit_cyclic(tone(periods, 1000))
            spectrum = np.abs(np.fft.fft(pluto.capture(10_000)))
            spectrum[0] = 0
            assert np.fft.fftfreq(10_000, 1e-6)[np.argmax(spectrum)] == pytest.approx(
                expected_hz, abs=100
            )


def test_attenuation_and_gain_move_the_level(lab: Any, tone: Tone) -> None:
    with Pluto(lab.settings(tx_attenuation_db=20.0), lab.permission) as pluto:
        pluto.transmit_cyclic(tone(100, 1000))
        levels_db = []
        for attenuation_db, gain_db in ((20.0, 40.0), (30.0, 40.0), (30.0, 30.0)):
            pluto.configure(tx_attenuation_db=attenuation_db, rx_gain_db=gain_db)
            levels_db.append(power_db(pluto.capture(20_000)))
    assert levels_db[0] - levels_db[1] == pytest.approx(10.0, abs=0.5)
    assert levels_db[1] - levels_db[2] == pytest.approx(10.0, abs=1.0)


def test_silence_after_transmitting(lab: Any, tone: Tone) -> None:
    with Pluto(lab.settings(), lab.permission) as pluto:
        before_db = power_db(pluto.capture(20_000))
        pluto.transmit_cyclic(tone(100, 1000))
        signal_db = power_db(pluto.capture(20_000))
        pluto.stop_transmit()
        after_db = power_db(pluto.capture(20_000))
    assert signal_db > before_db + 20
    assert after_db == pytest.approx(before_db, abs=0.5)


def test_link_delivers_without_a_carrier_offset(lab: Any) -> None:
    payload = np.random.default_rng(2).bytes(20_000)
    pluto = Pluto(lab.settings(), lab.permission)
    clock = MonotonicClock()
    with PlutoPair(pluto, pluto) as pair:
        link = Link(pair, QueueFeedback(clock, delay_s=0.0), clock)
        report, received = link.deliver(payload, Limits(elapsed_s=20.0))
    assert received == payload
    assert abs(report.cfo_hz) < 20  # one synthesizer's reference feeds both directions
