"""The link over emulated radios in virtual time: the same in every run, and what the ether was
told."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from hil.contract import IQ, LinkReport
from radio.channel import PRESETS, QueueFeedback
from radio.clocks import VirtualClock
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether, NodeSpec
from radio.link import Link
from radio.pluto.driver import PlutoDevice
from radio.pluto.permission import Band, Permission
from radio.pluto.settings import PlutoSettings
from tests.radio.pluto.one_shot_pair import OneShotPair

pytestmark = pytest.mark.usefixtures("libiio")
ALLOWED = Permission([Band(low_hz=2.44e9, high_hz=2.46e9, max_dbm=-13.0)])
PAYLOAD = np.random.default_rng(8).bytes(30_000)
TX_RMS_DBFS = -20.0
"""Of the kit's bursts at the converter: -14 dB of full scale in IQ, 6 dB backoff."""


def settings_of(uri: str, **changes: Any) -> PlutoSettings:
    values: dict[str, Any] = {
        "uri": uri,
        "rate_hz": 1e6,
        "tx_lo_hz": 2.45e9,
        "rx_lo_hz": 2.45e9,
        "rx_gain_db": 40.0,
        "tx_attenuation_db": 20.0,
        "buffer_samples": 8192,
    }
    return PlutoSettings(**values | changes)


class Recorder(OneShotPair):
    """Keeps a hash of all samples received."""

    digest = ""

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        iq = super().receive(n_samples, timeout_s=timeout_s)
        self.digest = hashlib.sha256(self.digest.encode() + iq.tobytes()).hexdigest()
        return iq


def deliver(
    snr_db: float = 20.0, ppm: float = -3.0, *, loopback: bool = False, figures: str = "awgn"
) -> tuple[LinkReport, bytes | None, str]:
    """One payload from radio 0 to radio 1, or from radio 0 back to itself within its chip."""
    nodes = [NodeSpec(), NodeSpec(ppm=ppm)]
    with EmulatedPlutos(
        Ether(nodes, clock=VirtualTime(), figures=PRESETS[figures], seed=5)
    ) as emulated:
        clock = VirtualClock()
        sender = PlutoDevice(
            settings_of(emulated.uris[0], loopback="digital" if loopback else "none"), ALLOWED
        )
        receiver = sender if loopback else PlutoDevice(settings_of(emulated.uris[1]), Permission())
        with Recorder(sender, receiver, clock) as pair:
            if not loopback:
                emulated.ether.set_snr(0, 1, snr_db, TX_RMS_DBFS)
            report, received = Link(pair, QueueFeedback(clock), clock).deliver(PAYLOAD)
            return report, received, pair.digest


def test_three_runs_are_the_same_bit_for_bit() -> None:
    runs = [deliver() for _ in range(3)]
    assert runs[0][1] == PAYLOAD
    assert len({(repr(report), digest) for report, _, digest in runs}) == 1


@pytest.mark.parametrize("snr_db", [3.0, 10.0, 17.0, 24.0, 30.0])
def test_measured_snr_is_the_ethers(snr_db: float) -> None:
    report, received, _ = deliver(snr_db)
    assert received == PAYLOAD
    assert report.snr_db == pytest.approx(snr_db, abs=0.5)


@pytest.mark.parametrize("ppm", [-3.0, 0.0, 5.0, 10.0])
def test_measured_carrier_offset_is_the_oscillators(ppm: float) -> None:
    report, received, _ = deliver(ppm=ppm)
    assert received == PAYLOAD
    assert report.cfo_hz == pytest.approx(-ppm * 1e-6 * 2.45e9, rel=0.01, abs=20)


def test_one_radio_with_its_own_echo() -> None:
    report, received, _ = deliver(loopback=True)
    assert received == PAYLOAD
    assert report.snr_db > 40
    assert abs(report.cfo_hz) < 1


def test_no_burst_is_lost_in_a_long_transfer() -> None:
    with EmulatedPlutos(Ether([NodeSpec()], clock=VirtualTime(), seed=5)) as emulated:
        clock = VirtualClock()
        device = PlutoDevice(settings_of(emulated.uris[0], loopback="digital"), ALLOWED)
        with OneShotPair(device, device, clock) as pair:
            for n in (
                1,
                8192,
                8193,
                5 * 8192 + 17,
                40 * 8192,
            ):  # more than all buffers of the radio hold
                sent = np.exp(2j * np.pi * np.arange(n) / 100).astype(np.complex64) / 2
                pair.transmit(sent)
                heard = pair.receive(n + 4096, timeout_s=1.0)
                at = int(np.flatnonzero(np.abs(heard) > 0.1)[0])
                assert np.allclose(heard[at : at + n], sent / 2, atol=2 / 2048)
                assert at < 4096
