"""The driver, the emulator and the network stack between them: how fast, and how true.

Two emulated Plutos behind the libiio network protocol; every sample crosses the whole stack. Speeds
hang on the machine; accuracies are in virtual time and come out the same everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from calibration.burst import random_burst
from hil.lab.emulate import (
    BENCH_LO_HZ,
    BENCH_PERMISSION,
    BENCH_RATE_HZ,
    BURST_RMS_DBFS,
    bench_settings,
)
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import Clock, RealTime, VirtualTime
from radio.emulator.ether import Ether
from radio.emulator.front_end import NodeSpec
from radio.link.receiver import Reception, receive_burst
from radio.modem import sync
from radio.pluto.driver import PlutoDevice
from radio.pluto.permission import Permission
from radio.pluto.process import Pluto

OnProgress = Callable[[int, int, str], None]

SNRS_DB: Final = (3.0, 6.0, 10.0, 15.0, 20.0, 25.0, 30.0)
_PPM: Final = 3.0
_FAST_HZ: Final = 4e6
_FAST_BUFFER: Final = 2**16
_RUNS: Final = 5
_PLACE: Final = 2
"""MCS of the bursts whose SNR is measured: the slowest behind the short preamble."""


def bench(
    on_progress: OnProgress, *, bursts: int = 10, seconds: float = 2.0, seed: int = 0
) -> dict[str, float]:
    """Figures by name; names carry their units.

    An SNR is the Es/N0 per used subcarrier.

    Args:
        on_progress: called before each step, and once all is done, with (steps done, steps in all,
            what is measured now).
        bursts: number of bursts at each SNR.
        seconds: duration of the samples in each measurement of speed, s.
        seed: seed of noise and content.
    """
    steps: tuple[tuple[str, Callable[[], dict[str, float]]], ...] = (
        (
            "speed, free running",
            lambda: {"rx_free_running_hz": _rate_hz(VirtualTime(), seconds, seed)},
        ),
        (
            "speed, real time",
            lambda: {"rx_of_4e6_in_real_time_hz": _rate_hz(RealTime(), seconds, seed)},
        ),
        ("opening", lambda: _opening(seed)),
        *(
            (f"SNR of {snr_db:g} dB", lambda snr_db=snr_db: _accuracy(snr_db, bursts, seed))
            for snr_db in SNRS_DB
        ),
    )
    figures: dict[str, float] = {}
    for done, (what, measure) in enumerate(steps):
        on_progress(done, len(steps), what)
        figures |= measure()
    on_progress(len(steps), len(steps), "done")
    return figures


def _ether(clock: Clock, seed: int) -> Ether:
    return Ether([NodeSpec(), NodeSpec(ppm=_PPM)], clock=clock, seed=seed)


def _rate_hz(clock: Clock, seconds: float, seed: int) -> float:
    """Samples a second that come through while the other radio transmits, median of some runs."""
    with EmulatedPlutos(_ether(clock, seed)) as plutos:
        fast = [
            replace(bench_settings(uri), rate_hz=_FAST_HZ, buffer_samples=_FAST_BUFFER)
            for uri in plutos.uris
        ]
        with (
            PlutoDevice(fast[0], BENCH_PERMISSION) as sender,
            PlutoDevice(fast[1], Permission()) as receiver,
        ):
            sender.transmit_cyclic(random_burst(_PLACE, 4, np.random.default_rng(seed)).iq)
            receiver.start_receive()
            receiver.read()
            return float(np.median([_timed(receiver, seconds) for _ in range(_RUNS)]))


def _timed(receiver: PlutoDevice, seconds: float) -> float:
    buffers = max(1, round(seconds * _FAST_HZ / _RUNS / _FAST_BUFFER))
    began_s = time.perf_counter()
    for _ in range(buffers):
        receiver.read()
    return buffers * _FAST_BUFFER / (time.perf_counter() - began_s)


def _opening(seed: int) -> dict[str, float]:
    """Time to a radio that is set and read back, in its own process, median of some runs."""
    elapsed_s = []
    with EmulatedPlutos(_ether(RealTime(), seed)) as plutos:
        for _ in range(_RUNS):
            began_s = time.perf_counter()
            with Pluto(bench_settings(plutos.uris[0]), Permission()):
                elapsed_s.append(time.perf_counter() - began_s)
    return {"open_s": float(np.median(elapsed_s))}


def _accuracy(snr_db: float, bursts: int, seed: int) -> dict[str, float]:
    """Errors of the receiver's measurements on bursts that crossed the stack."""
    rng = np.random.default_rng([seed, round(snr_db)])
    ether = _ether(VirtualTime(), seed)
    with EmulatedPlutos(ether) as plutos:
        sending, receiving = (bench_settings(uri) for uri in plutos.uris)
        with (
            PlutoDevice(sending, BENCH_PERMISSION) as sender,
            PlutoDevice(receiving, Permission()) as receiver,
        ):
            ether.set_snr(0, 1, snr_db, BURST_RMS_DBFS)
            heard = [_cross(sender, receiver, rng) for _ in range(bursts)]
    found = [reception for reception in heard if reception is not None]
    if not found:
        return {f"found_at_{snr_db:g}_db": 0.0}
    snr = np.array([reception.measurement.snr_db for reception in found])
    cfo_hz = np.array([reception.cfo * BENCH_RATE_HZ for reception in found])
    clock_ppm = np.array([reception.clock_offset_ppm for reception in found])
    return {
        f"found_at_{snr_db:g}_db": len(found) / bursts,
        f"snr_error_at_{snr_db:g}_db_db": float(np.mean(snr) - snr_db),
        f"snr_error_worst_at_{snr_db:g}_db_db": float(np.abs(snr - snr_db).max()),
        f"cfo_error_worst_at_{snr_db:g}_db_hz": float(
            np.abs(cfo_hz + _PPM * 1e-6 * BENCH_LO_HZ).max()
        ),
        f"clock_error_worst_at_{snr_db:g}_db_ppm": float(np.abs(clock_ppm + _PPM).max()),
    }


def _cross(
    sender: PlutoDevice, receiver: PlutoDevice, rng: np.random.Generator
) -> Reception | None:
    """One burst, repeated by the sender, out of a capture of two periods."""
    iq = random_burst(_PLACE, 2, rng).iq
    iq = np.concatenate([iq, np.zeros(1024 + len(iq) % 2, np.complex64)])
    sender.transmit_cyclic(iq)
    heard = receiver.capture(2 * len(iq))
    sender.stop_transmit()
    receptions = [receive_burst(heard, found) for found in sync.find_bursts(heard)]
    whole = [r for r in receptions if r.header is not None and r.n_passed == r.n_sent]
    return whole[0] if whole else None
