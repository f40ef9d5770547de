"""Radios for the tests of this folder: those of --pluto-uri and --pluto-uri-2, or emulated ones.

Emulated radios run in real time, which a busy machine may not keep up with. So they run slower and
buffer more than real ones, the waits are long, and the links are patient: a burst that is lost to a
stalled process is sent again.

With --pluto-uri the radio's transmitter is to be wired to its receiver over at least 30 dB
(test_cabled_loopback.py), with --pluto-uri-2 the first radio's to the second one's (test_pair.py).
All transmit around 2.45 GHz, -13 dBm at most. A radio that is named and cannot be reached is a
failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hil.contract import IQ
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime
from radio.emulator.ether import Ether, NodeSpec
from radio.link import Limits
from radio.pluto.permission import Band, Permission
from radio.pluto.settings import PlutoSettings

PPM = (0.0, 2.0)
"""Oscillator errors of the emulated radios."""
CABLE_DB = 40.0
"""Between the emulated radios, and from each transmitter to its own receiver."""
PATIENCE_S = 90.0
LIMITS = Limits(elapsed_s=PATIENCE_S, idle_turns=1000, feedback_timeout_s=5.0)
"""No limit but one for tests that would never end."""


@dataclass(frozen=True)
class Lab:
    """The radios at hand.

    Attributes:
        uris: one or two.
        emulated: the emulator, or None with real radios.
    """

    uris: tuple[str, ...]
    emulated: EmulatedPlutos | None
    permission = Permission([Band(low_hz=2.44e9, high_hz=2.46e9, max_dbm=-13.0)])
    lo_hz = 2.45e9
    ppm = PPM
    limits = LIMITS
    patience_s = PATIENCE_S

    @property
    def rate_hz(self) -> float:
        """Sample rate: what USB 2 carries both ways, or what the emulator computes with ease."""
        return 1e6 if self.emulated is None else 6e5

    def settings(self, radio: int = 0, **changes: Any) -> PlutoSettings:
        """Settings for a radio, both carriers the same."""
        values: dict[str, Any] = {
            "uri": self.uris[radio],
            "rate_hz": self.rate_hz,
            "kernel_buffers": 16 if self.emulated is None else 64,
            "tx_lo_hz": self.lo_hz,
            "rx_lo_hz": self.lo_hz,
            "rx_gain_db": 40.0,
            "tx_attenuation_db": 20.0,
        }
        return PlutoSettings(**values | changes)


@pytest.fixture(scope="session")
def hardware_lab(request: pytest.FixtureRequest, libiio: None) -> Iterator[Lab]:
    """The radios named on the command line, or two emulated ones."""
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    named = tuple(
        filter(None, (request.config.getoption(name) for name in ("--pluto-uri", "--pluto-uri-2")))
    )
    if named:
        yield Lab(named, None)
        return
    ether = Ether(
        [NodeSpec(ppm=ppm) for ppm in PPM],
        clock=RealTime(),
        path_loss_db=CABLE_DB,
        coupling_loss_db=CABLE_DB,
        seed=3,
    )
    with EmulatedPlutos(ether) as emulated:
        yield Lab(emulated.uris, emulated)


@pytest.fixture
def lab(hardware_lab: Lab) -> Lab:
    """The radios; emulated ones without leftovers of other tests on their air."""
    if hardware_lab.emulated is not None:
        hardware_lab.emulated.ether.path_loss_db = CABLE_DB
        hardware_lab.emulated.ether.coupling_loss_db = CABLE_DB
    return hardware_lab


@pytest.fixture
def emulated(lab: Lab) -> EmulatedPlutos:
    """The emulator, for what only it can do on demand."""
    if lab.emulated is None:
        pytest.skip(
            "shows faults, or knows the truth, on demand: emulated radios alone do (run without "
            "--pluto-uri)"
        )
    return lab.emulated


@pytest.fixture(scope="session")
def tone() -> Callable[[int, int], IQ]:
    """A complex tone of amplitude 0.5: periods in so many samples; negative ones turn the other
    way."""

    def make(periods: int, n_samples: int) -> IQ:
        return (0.5 * np.exp(2j * np.pi * periods * np.arange(n_samples) / n_samples)).astype(
            np.complex64
        )

    return make
