"""One radio whose chip returns what it is sent: all of the driver, nothing of the air."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hil.contract import IQ, DeviceError
from radio.channel import QueueFeedback
from radio.clocks import MonotonicClock
from radio.link import Link
from radio.pluto.pair import PlutoPair
from radio.pluto.process import Pluto

Tone = Callable[[int, int], IQ]


@pytest.fixture(scope="module")
def opened(hardware_lab: Any) -> Iterator[Pluto]:
    settings = hardware_lab.settings(loopback="digital")
    with Pluto(
        settings, hardware_lab.permission, patience_s=hardware_lab.patience_s, io_timeout_s=1.5
    ) as pluto:
        yield pluto


@pytest.fixture
def pluto(lab: Any, opened: Pluto) -> Pluto:
    """The open radio, silent and set as at the start."""
    opened.stop_transmit()
    opened.configure(
        rx_lo_hz=lab.lo_hz, tx_lo_hz=lab.lo_hz, rx_gain_db=40.0, tx_attenuation_db=20.0
    )
    return opened


@pytest.fixture
def closed(opened: Pluto) -> Iterator[None]:
    """The shared radio is free for a test with settings of its own."""
    opened.__exit__(None, None, None)
    yield
    opened.__enter__()


def echoes(pluto: Pluto, tone: IQ) -> bool:
    """Whether a tone comes back at its level (1.0 of the DAC's unit is half of the ADC's full
    scale)."""
    pluto.transmit_cyclic(tone)
    heard = pluto.capture(20_000)
    pluto.stop_transmit()
    return bool(np.allclose(np.abs(heard), 0.25, atol=0.02))


def burst_arrives(pluto: Pluto, burst: IQ) -> bool:
    """Whether a burst comes back whole, within the second of air after it left."""
    pluto.transmit(burst)
    pluto.skip_until(pluto.on_air_s() - len(burst) / pluto.sample_rate_hz)
    left, n_heard = pluto.sample_rate_hz, 0
    while left > 0 and n_heard < len(burst):
        heard = pluto.receive(20_000, timeout_s=2.0)
        n_heard += np.count_nonzero(np.abs(heard) > 0.2)
        left -= max(len(heard), 1000)
    return n_heard == len(burst)


@pytest.mark.slow
def test_identity_and_temperature(lab: Any, pluto: Pluto) -> None:
    assert pluto.identity.emulated or lab.emulated is None
    assert pluto.identity.uri == lab.uris[0]
    assert pluto.identity.serial not in ("", "unknown")
    assert -20 < pluto.temperature_c() < 90


@pytest.mark.slow
def test_settings_hold_after_write_and_read_back(pluto: Pluto) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):  # every value is read back within, or this raises
        pluto.configure(
            rx_lo_hz=float(rng.uniform(400e6, 3.7e9)),
            tx_lo_hz=float(rng.uniform(400e6, 3.7e9)),
            rx_gain_db=float(rng.integers(0, 60)),
            tx_attenuation_db=float(rng.integers(0, 359)) / 4,
        )


@pytest.mark.slow
@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("rate_hz", [600e3, 2.5e6])
def test_rates_with_and_without_the_filter(lab: Any, tone: Tone, rate_hz: float) -> None:
    with Pluto(lab.settings(loopback="digital", rate_hz=rate_hz), lab.permission) as pluto:
        assert echoes(pluto, tone(3, 1000))


@pytest.mark.slow
def test_cyclic_tone_comes_back_and_a_second_one_replaces_it(pluto: Pluto, tone: Tone) -> None:
    pluto.transmit_cyclic(tone(5, 1000))
    first = pluto.capture(10_000)
    pluto.transmit_cyclic(tone(-7, 1000))
    second = pluto.capture(10_000)
    pluto.stop_transmit()
    silence = pluto.capture(10_000)
    assert np.argmax(np.abs(np.fft.fft(first))) == 50
    assert np.argmax(np.abs(np.fft.fft(second))) == 10_000 - 70
    assert np.abs(silence).max() < 0.002


@pytest.mark.slow
def test_a_gain_step_is_not_answered_from_old_buffers(pluto: Pluto, tone: Tone) -> None:
    pluto.transmit_cyclic(tone(5, 1000))
    pluto.receive(1000, timeout_s=10.0)
    time.sleep(0.4)  # many buffers fill meanwhile
    pluto.transmit_cyclic(0.5 * tone(5, 1000))
    assert np.allclose(np.abs(pluto.capture(1000)), 0.125, atol=0.02)
    pluto.transmit_cyclic(0.25 * tone(5, 1000))
    pluto.restart_receive()
    assert np.allclose(np.abs(pluto.receive(50_000, timeout_s=10.0)[-1000:]), 0.0625, atol=0.02)


@pytest.mark.slow
def test_stream_both_ways_without_a_gap(lab: Any, pluto: Pluto, tone: Tone) -> None:
    period = 2042  # no divisor of a buffer: a lost one shows as a jump of the phase
    n_samples = round(lab.rate_hz)
    pluto.transmit_cyclic(tone(1, period))
    pluto.restart_receive()
    pluto.receive(2 * pluto.settings.buffer_samples, timeout_s=10.0)
    heard = pluto.receive(n_samples, timeout_s=30.0)
    assert len(heard) == n_samples
    steps = np.angle(heard[1:] * heard[:-1].conj()) * period / (2 * np.pi)
    assert np.abs(steps - 1).max() < 4  # 1 plus the converter's rounding


@pytest.mark.slow
def test_link_delivers(lab: Any, pluto: Pluto) -> None:
    payload = np.random.default_rng(1).bytes(20_000)
    clock = MonotonicClock()
    pluto.restart_receive()
    link = Link(PlutoPair(pluto, pluto), QueueFeedback(clock, delay_s=0.0), clock)
    report, received = link.deliver(payload, lab.limits)
    assert received == payload, report.reason
    assert report.snr_db > 30
    assert abs(report.cfo_hz) < 20


FAULTS: dict[str, Callable[[Any, Pluto], None]] = {
    "dropped connection": lambda faults, pluto: faults.drop_connection(),
    "timeout": lambda faults, pluto: faults.timeout(1),
    "busy": lambda faults, pluto: faults.busy(1),
    "lost block": lambda faults, pluto: faults.lose_block(1),
    "late answer": lambda faults, pluto: faults.delay(2.0),
    "vanishes for 2 s": lambda faults, pluto: faults.vanish(2.0),
    "process killed": lambda faults, pluto: os.kill(pluto.process_id, signal.SIGKILL),
    "process hangs": lambda faults, pluto: os.kill(pluto.process_id, signal.SIGSTOP),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_recovers_from(pluto: Pluto, tone: Tone, emulated: Any, fault: str) -> None:
    gain_db = 10.0 + list(FAULTS).index(fault)
    pluto.configure(rx_gain_db=gain_db)
    pluto.receive(1000, timeout_s=10.0)
    outages = pluto.outages
    FAULTS[fault](emulated.faults[0], pluto)
    assert any(burst_arrives(pluto, tone(40, 8000)) for _ in range(10))  # some may be lost
    assert echoes(pluto, tone(5, 1000))
    if fault == "lost block":
        assert pluto.outages == outages
    else:
        assert pluto.outages > outages
    assert pluto.settings.rx_gain_db == gain_db


@pytest.mark.slow
@pytest.mark.usefixtures("closed")
def test_clipped_samples_are_counted(lab: Any, emulated: Any, tone: Tone) -> None:
    with Pluto(lab.settings(rx_gain_db=60.0), lab.permission) as pluto:
        emulated.ether.coupling_loss_db = 10.0
        pluto.transmit_cyclic(tone(5, 1000))
        pluto.capture(1000)
        assert pluto.clipped_samples > 500


@pytest.mark.slow
def test_a_cyclic_signal_goes_on_after_an_outage(pluto: Pluto, tone: Tone, emulated: Any) -> None:
    outages = pluto.outages
    pluto.transmit_cyclic(tone(5, 1000))
    emulated.faults[0].drop_connection()
    assert np.allclose(np.abs(pluto.capture(10_000)), 0.25, atol=0.02)
    assert pluto.outages > outages


@pytest.mark.slow
@pytest.mark.usefixtures("closed")
def test_gives_up_when_patience_is_over(lab: Any, emulated: Any) -> None:
    settings = lab.settings(loopback="digital")
    with Pluto(settings, lab.permission, patience_s=0.6, io_timeout_s=1.5) as pluto:
        emulated.faults[0].vanish()
        try:
            with pytest.raises(DeviceError, match=r"stayed away for 0\.6 s"):
                pluto.capture(1000)
        finally:
            emulated.faults[0].return_()
        assert len(pluto.capture(1000)) == 1000  # it is there again, and so is everything
