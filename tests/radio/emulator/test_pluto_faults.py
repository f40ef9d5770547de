"""Faults of an emulated Pluto, as pyadi-iio meets them."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from radio.emulator import EmulatedPlutos
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether
from radio.emulator.front_end import NodeSpec
from tests.radio.emulator.pyadi_client import pyadi_client

pytestmark = pytest.mark.usefixtures("libiio", "contexts_go_last")

N = 1024
DEADLINE_S = 60.0


@pytest.fixture
def plutos() -> Iterator[EmulatedPlutos]:
    with EmulatedPlutos(Ether([NodeSpec(), NodeSpec()], clock=VirtualTime(), seed=5)) as running:
        yield running


def _error_number(call: Callable[[], object]) -> int | None:
    """What a failing call fails with. Nothing keeps its traceback, which would hold the buffer
    open."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@pytest.fixture
def looped(plutos: EmulatedPlutos) -> Iterator[Any]:
    """A radio in digital loopback that sends a ramp of 16 buffers over and over, and has begun to
    receive."""
    with pyadi_client(plutos) as sdr:
        sdr.loopback = 1
        sdr.rx_buffer_size = N
        sdr.tx_cyclic_buffer = True
        ramp = np.arange(16 * N)
        sdr.tx(16.0 * (ramp % N) + 16j * (ramp // N))
        sdr.rx()
        yield sdr


def _block(sdr: Any) -> int:
    """Which buffer of the ramp comes next."""
    received = sdr.rx()
    assert len(set(received.imag)) == 1
    return int(received.imag[0])


def test_a_lost_block_is_a_gap_of_a_buffer(plutos: EmulatedPlutos, looped: Any) -> None:
    before = _block(looped)
    plutos.faults[0].lose_block(2)
    assert [(_block(looped) - before) % 16, (_block(looped) - before) % 16] == [3, 4]


def test_a_clipped_block_is_overdriven_and_the_next_is_not(
    plutos: EmulatedPlutos, looped: Any
) -> None:
    plutos.faults[0].clip_block()
    clipped = looped.rx()
    assert np.mean(clipped.real == 2047) > 0.9
    assert max(looped.rx().real) == N - 1


def test_a_timeout_is_error_110_and_the_radio_goes_on(plutos: EmulatedPlutos, looped: Any) -> None:
    plutos.faults[0].timeout()
    assert _error_number(looped.rx) == errno.ETIMEDOUT
    assert len(looped.rx()) == N


def test_a_timeout_meets_the_transmitter_too(plutos: EmulatedPlutos) -> None:
    with pyadi_client(plutos) as sdr:
        sdr.tx(np.zeros(N, complex))
        plutos.faults[0].timeout()
        assert _error_number(lambda: sdr.tx(np.zeros(N, complex))) == errno.ETIMEDOUT
        sdr.tx(np.zeros(N, complex))


def test_busy_is_error_16_as_often_as_asked(plutos: EmulatedPlutos) -> None:
    with pyadi_client(plutos) as sdr:
        plutos.faults[0].busy(2)
        for _ in range(2):
            assert _error_number(sdr.rx) == errno.EBUSY
        assert len(sdr.rx()) == N


def test_a_delay_holds_one_transfer_up(plutos: EmulatedPlutos, looped: Any) -> None:
    plutos.faults[0].delay(0.2)
    begin_s = time.monotonic()
    looped.rx()
    assert time.monotonic() - begin_s >= 0.2


def test_a_dropped_connection_ends_one_client_and_the_next_is_served(
    plutos: EmulatedPlutos, looped: Any
) -> None:
    with pyadi_client(plutos, node=1) as neighbour:
        neighbour.rx()
        plutos.faults[0].drop_connection()
        assert _error_number(looped.rx) is not None
        assert len(neighbour.rx()) == 1024
    with pyadi_client(plutos) as sdr:
        assert sdr.loopback == 1
        assert len(sdr.rx()) == 1024


def _can_connect(uri: str) -> bool:
    """Whether a fresh process reaches the radio: a failed attempt leaves libiio's words on
    stderr."""
    script = f"import iio; iio.Context({uri!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=DEADLINE_S, check=False
    )
    return done.returncode == 0


def test_a_radio_that_vanishes_returns_on_the_same_port_with_its_settings(
    plutos: EmulatedPlutos,
) -> None:
    with pyadi_client(plutos) as sdr:
        sdr.rx_lo = 868_000_000
        sdr.rx()
        plutos.faults[0].vanish()
        assert _error_number(sdr.rx) is not None
    assert not _can_connect(plutos.uris[0])
    plutos.faults[0].return_()
    with pyadi_client(plutos) as sdr:
        assert sdr.rx_lo == pytest.approx(868e6, abs=8)
        assert len(sdr.rx()) == 1024


def test_a_radio_returns_by_itself(plutos: EmulatedPlutos) -> None:
    plutos.faults[0].vanish(0.2)
    plutos.faults[0].vanish(0.2)  # a second one while it is away changes nothing
    end_s = time.monotonic() + DEADLINE_S
    while not _can_connect(plutos.uris[0]):
        assert time.monotonic() < end_s


def test_the_others_hear_nothing_of_a_radio_that_vanished(plutos: EmulatedPlutos) -> None:
    with pyadi_client(plutos, 0) as sender, pyadi_client(plutos, 1) as receiver:
        for client in (sender, receiver):
            client.sample_rate = 2_000_000
            client.rx_lo = client.tx_lo = 915_000_000
            client.gain_control_mode_chan0 = "manual"
        sender.tx_hardwaregain_chan0 = 0
        sender.dds_single_tone(500_000, 0.9)
        receiver.rx_hardwaregain_chan0 = 40

        def level() -> float:
            receiver.rx_destroy_buffer()
            receiver.rx()
            return float(np.mean(np.abs(receiver.rx()) ** 2))

        heard = level()
        plutos.faults[0].vanish()
        silent = level()
        plutos.faults[0].return_()
        assert level() == pytest.approx(heard, rel=0.1)
        assert silent < 0.01 * heard


def test_a_client_that_is_killed_leaves_the_radio_free(plutos: EmulatedPlutos) -> None:
    script = f"""
import adi, numpy as np
sdr = adi.Pluto({plutos.uris[0]!r})
sdr.tx_cyclic_buffer = True
sdr.tx(np.zeros(1024, complex))
sdr.rx()
print("holding", flush=True)
input()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"holding\n"
    finally:
        holder.kill()
        holder.wait(DEADLINE_S)
        holder.stdin.close()
        holder.stdout.close()
    with pyadi_client(plutos) as sdr:
        sdr.tx_cyclic_buffer = True
        sdr.tx(np.zeros(N, complex))
        assert len(sdr.rx()) == 1024
