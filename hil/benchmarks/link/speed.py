"""How fast the modem computes, in samples and bits a second of wall-clock time, and on what
machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hil.benchmarks.link.burst_trials import SAMPLE_RATE_HZ, air, make_burst
from hil.system.threads import usable_cores
from radio import ldpc
from radio.link.receiver import Receiver
from radio.modem import framing, mcs, qam

_IDLE_LOAD: Final = 0.3
"""Load average per core below which the machine counts as idle when the bench starts."""
_HALF_RATE_BITS: Final = 16896
_HALF_RATE_THRESHOLD_DB: Final = 1.3
"""QPSK at R = 1/2, between the table's entries at 0.44 (0.6 dB) and 0.59 (2.25 dB)."""


def machine() -> dict[str, Any]:
    """CPU model, cores, load average at this moment, and whether that is idle."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    cores = usable_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "cpu": model,
        "cores": cores,
        "load_average": round(load, 2),
        "idle": load < _IDLE_LOAD * cores,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


@dataclass(frozen=True, slots=True)
class _Timings:
    """Seconds of each run: by the clock, and of this process's own computing, which other load
    touches little."""

    wall_s: list[float]
    cpu_s: list[float]

    def rates(self, name: str, amount: float) -> dict[str, list[float]]:
        """Amount per second, both ways."""
        return {
            name: [amount / t for t in self.wall_s],
            f"{name}_cpu": [amount / t for t in self.cpu_s],
        }


def _repeated(run: Callable[[], None], repeats: int) -> _Timings:
    """Timings of a run, the first one (compiling, caches) left out."""
    run()
    wall_s, cpu_s = [], []
    for _ in range(repeats):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        run()
        wall_s.append(time.perf_counter() - began_s)
        cpu_s.append(time.process_time() - began_cpu_s)
    return _Timings(wall_s, cpu_s)


def decoder_speed(
    rng: np.random.Generator, *, blocks: int, threads: int, repeats: int
) -> dict[str, Any]:
    """Information bits a second of the LDPC decoder at R = 1/2, QPSK, 1 dB above the threshold.

    Args:
        rng: source of blocks and noise.
        blocks: decoded by each thread at a time.
        threads: number of threads that decode side by side.
        repeats: timings.
    """
    code = framing.LONG.code
    info = rng.integers(0, 2, (blocks, code.info_bits), np.uint8)
    coded = ldpc.rate_match(code, ldpc.encode(code, info), _HALF_RATE_BITS, 2)
    variance = np.float32(10 ** (-(_HALF_RATE_THRESHOLD_DB + 1) / 10))
    symbols = qam.map_bits(coded.ravel(), 2)
    symbols += rng.standard_normal(2 * len(symbols), np.float32).view(np.complex64) * np.sqrt(
        variance / 2
    )
    llrs = qam.demap(symbols, np.asarray(variance, np.float32), 2).reshape(coded.shape)
    soft = ldpc.rate_recover(code, llrs, 2)
    iterations: list[float] = []
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            decoded = pool.map(lambda _: ldpc.decode(code, soft), range(threads))
            iterations.extend(float(one.iterations.mean()) for one in decoded)

        taken = _repeated(run, repeats)
    bits = threads * blocks * code.info_bits
    return {
        "threads": threads,
        **taken.rates("bits_per_s", bits),
        "iterations": float(np.mean(iterations)),
        "started": machine(),
    }


def modem_speed(
    rng: np.random.Generator,
    *,
    place: int,
    snr_db: float,
    n_blocks: int,
    bursts: int,
    repeats: int,
    threads: int,
) -> dict[str, Any]:
    """Samples a second of the transmitter, and of the receiver with everything: search, sync,
    equaliser, decoder, SNR.

    Args:
        rng: source of content and channel.
        place: the MCS's in mcs.MCS_TABLE.
        snr_db: SNR at the receiver.
        n_blocks: blocks of each burst.
        bursts: number of bursts in a run.
        repeats: timings.
        threads: receivers that run side by side, each on the whole stream.
    """
    made = [make_burst(place, n_blocks, rng) for _ in range(bursts)]
    payloads = [rng.bytes(burst.header.payload_bytes) for burst in made]
    stream = np.concatenate([air(burst.iq, snr_db, rng) for burst in made])

    def transmit() -> None:
        for burst, payload in zip(made, payloads, strict=True):
            framing.build_burst(burst.header, framing.split(payload)[:n_blocks], range(n_blocks))

    def hear(_: int) -> int:
        receiver = Receiver(epoch=1)
        receptions = receiver.feed(stream, SAMPLE_RATE_HZ) + receiver.flush(SAMPLE_RATE_HZ)
        return sum(reception.n_passed for reception in receptions)

    passed: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        receiving = _repeated(lambda: passed.extend(pool.map(hear, range(threads))), repeats)
    transmitting = _repeated(transmit, repeats)
    sent_samples = sum(len(burst.iq) for burst in made)
    return {
        "place": place,
        "name": mcs.MCS_TABLE[place].name,
        "snr_db": snr_db,
        "blocks": n_blocks * bursts,
        "passed": min(passed),
        "threads": threads,
        **transmitting.rates("transmit_samples_per_s", sent_samples),
        **receiving.rates("receive_samples_per_s", threads * len(stream)),
        "started": machine(),
    }
