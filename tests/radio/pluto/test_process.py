"""The process around a radio: what it loads, what it refuses, and that nothing of it stays
behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from hil.contract import ConfigError, DeviceError
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime
from radio.emulator.ether import Ether, NodeSpec
from radio.pluto.pair import PlutoPair
from radio.pluto.permission import Band, Permission
from radio.pluto.process import Pluto
from radio.pluto.settings import PlutoSettings

pytestmark = pytest.mark.usefixtures("libiio")
ALLOWED = Permission([Band(low_hz=2.44e9, high_hz=2.46e9, max_dbm=-13.0)])
BURST = np.full(1000, 0.5, np.complex64)


@pytest.fixture
def emulated() -> Iterator[EmulatedPlutos]:
    with EmulatedPlutos(Ether([NodeSpec(), NodeSpec()], clock=RealTime(), seed=1)) as plutos:
        yield plutos


def settings_of(uri: str, rate_hz: float = 1e6) -> PlutoSettings:
    return PlutoSettings(
        uri=uri,
        rate_hz=rate_hz,
        tx_lo_hz=2.45e9,
        rx_lo_hz=2.45e9,
        rx_gain_db=30.0,
        tx_attenuation_db=20.0,
        loopback="digital",
        kernel_buffers=64,  # a second of air: a busy machine loses nothing
    )


def loaded(module: str) -> set[str]:
    """The top-level packages that a module brings in."""
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_process_loads_only_what_it_needs_and_its_parent_no_driver() -> None:
    assert not loaded("radio.pluto.child") & {"scipy", "numba", "torch", "pydantic", "matplotlib"}
    assert not loaded("radio.pluto.process") & {"adi", "iio"}


def test_an_unreachable_radio_is_an_error_at_once_and_leaves_no_process() -> None:
    before = psutil.Process().children()
    with (
        pytest.raises(DeviceError, match=r"127\.0\.0\.1:1, connecting"),
        Pluto(settings_of("ip:127.0.0.1:1"), ALLOWED),
    ):
        pass
    assert psutil.Process().children() == before


def test_refusals_cross_the_process_and_the_radio_goes_on(emulated: EmulatedPlutos) -> None:
    with Pluto(settings_of(emulated.uris[0]), Permission()) as pluto:
        with pytest.raises(ConfigError, match="not allowed"):
            pluto.transmit(BURST)
        with pytest.raises(ConfigError, match="not allowed"):
            pluto.transmit_cyclic(BURST)
        with pytest.raises(DeviceError, match="not finite"):
            pluto.transmit(BURST * np.nan)
        with pytest.raises(DeviceError, match="full scale"):
            pluto.transmit(4 * BURST)
        with pytest.raises(ConfigError, match="rx_gain_db"):
            pluto.configure(rx_gain_db=100.0)
        with pytest.raises(DeviceError, match="rx_lo"):
            pluto.configure(rx_lo_hz=5e9)
        assert pluto.settings.rx_lo_hz == 2.45e9
        assert not np.any(pluto.capture(5000))
        assert pluto.outages == 0


@pytest.mark.slow
def test_a_burst_is_played_to_its_end_when_the_radio_is_closed(emulated: EmulatedPlutos) -> None:
    listener = Pluto(settings_of(emulated.uris[1]), Permission())
    with listener, Pluto(settings_of(emulated.uris[0]), ALLOWED) as sender:
        listener.configure(loopback="none")
        sender.configure(loopback="none")
        emulated.ether.path_loss_db = 40.0
        listener.restart_receive()
        sender.transmit(np.tile(BURST, 40))
        sender.__exit__(None, None, None)
        heard = listener.receive(1_000_000, timeout_s=30.0)  # a second of air, whole or late
    assert np.count_nonzero(np.abs(heard) > 0.5 * np.abs(heard).max()) >= 40_000 - 10


def test_a_terminals_signals_are_the_parents(emulated: EmulatedPlutos) -> None:
    with Pluto(settings_of(emulated.uris[0]), ALLOWED) as pluto:
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(pluto.process_id, number)
            assert not np.any(pluto.capture(5000))
        assert pluto.outages == 0


@pytest.mark.slow
def test_a_radio_that_listened_listens_again_as_soon_as_it_is_back(
    emulated: EmulatedPlutos,
) -> None:
    with Pluto(settings_of(emulated.uris[0]), ALLOWED, patience_s=60.0) as pluto:
        pluto.restart_receive()
        emulated.faults[0].drop_connection()
        while not pluto.outages:
            pluto.receive(1000, timeout_s=1.0)
        time.sleep(1.0)  # a million samples go by, which nobody fetches
        assert len(pluto.receive(100_000, timeout_s=0.0)) > 50_000


def test_outside_with_it_is_not_open() -> None:
    with pytest.raises(DeviceError, match="not open"):
        Pluto(settings_of("ip:127.0.0.1:1"), ALLOWED).receive(10, timeout_s=0.1)


def test_a_pair_has_one_rate() -> None:
    with pytest.raises(ConfigError, match="use one rate"):
        PlutoPair(
            *(Pluto(settings_of("ip:127.0.0.1:1", rate_hz), ALLOWED) for rate_hz in (1e6, 2e6))
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver_hangs", "number"),
    [(False, signal.SIGKILL), (True, signal.SIGKILL), (False, signal.SIGHUP)],
)
def test_no_process_outlives_its_parent(
    emulated: EmulatedPlutos, driver_hangs: bool, number: signal.Signals
) -> None:
    program = f"""
import signal
from radio.pluto.permission import Permission
from radio.pluto.process import Pluto
from radio.pluto.settings import PlutoSettings
settings = PlutoSettings(uri={emulated.uris[0]!r}, rate_hz=1e6, tx_lo_hz=2.45e9, rx_lo_hz=2.45e9,
    rx_gain_db=30.0,
                         tx_attenuation_db=20.0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have had it ignored
with Pluto(settings, Permission(), io_timeout_s=60.0) as pluto:
    print(pluto.process_id, flush=True)
    while True:
        pluto.capture(10_000)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    if driver_hangs:
        emulated.faults[0].delay(100.0)
        time.sleep(0.2)
    os.kill(parent.pid, number)
    parent.wait(60)
    parent.stdout.close()
    child.wait(60)
