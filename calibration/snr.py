"""How well the receiver measures SNR, and at which SNR each MCS begins to carry.

For every point of a grid, single bursts with random payload, carrier offset and delay cross a transceiver whose SNR is
known; what the receiver makes of each is compared with it.

    python -m calibration.snr --bursts 200 --json snr.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hil.contract import ConfigError, Transceiver
from radio import framing, ofdm, sync
from radio.loopback import Loopback, VirtualClock
from radio.mcs import MCS_TABLE
from radio.receiver import Reception, receive_burst

TransceiverFactory = Callable[[float, np.random.Generator], Transceiver]
"""(snr_db, rng) → the transceiver for one burst, its channel set to that SNR."""

_BLOCKS_PER_BURST = 8
_WITHIN_DB = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrPoint:
    """One point of the grid.

    Attributes:
        snr_db: Es/N0 per used subcarrier that the channel was set to.
        bursts, bursts_read: sent, and found with a valid header.
        bias_db, std_db: mean and standard deviation of (measured - set), single bursts; NaN without any.
        within_1_db: share of all bursts whose measurement lies within 1 dB; a lost burst counts as outside.
        covered: share of measurements whose ± one sigma holds the set value.
        cfo_rms_subcarriers: rms error of the carrier offset in subcarrier spacings; NaN where it is not known.
        block_error_rate: MCS name → share of blocks lost among those sent.
    """

    snr_db: float
    bursts: int
    bursts_read: int
    bias_db: float
    std_db: float
    within_1_db: float
    covered: float
    cfo_rms_subcarriers: float
    block_error_rate: dict[str, float]


def loopback_factory(sample_rate_hz: float = 2e6) -> TransceiverFactory:
    """Loopbacks with a random carrier offset within ±0.95 fs/32 and a random delay of up to 2,000 samples."""

    def make(snr_db: float, rng: np.random.Generator) -> Loopback:
        cfo_hz = float(rng.uniform(-0.95, 0.95)) * sync.MAX_CFO * sample_rate_hz
        return Loopback(
            clock=VirtualClock(),
            rng=rng,
            snr_db=snr_db,
            sample_rate_hz=sample_rate_hz,
            cfo_hz=cfo_hz,
            max_delay_samples=2000,
        )

    return make


def measure_snr(
    factory: TransceiverFactory, grid_db: Sequence[float], bursts_per_point: int, seed: int
) -> list[SnrPoint]:
    """One SnrPoint for each value of the grid.

    Args:
        factory: called once for every burst.
        grid_db: SNRs to set.
        bursts_per_point: ≥ 1; the MCS take turns.
        seed: of payloads and, through the factory, of the channel.

    Raises:
        ConfigError: for less than one burst.
    """
    if bursts_per_point < 1:
        raise ConfigError(f"{bursts_per_point} bursts per point; at least 1 is needed")
    rng = np.random.default_rng(seed)
    return [_measure_point(factory, snr_db, bursts_per_point, rng) for snr_db in grid_db]


def _measure_point(factory: TransceiverFactory, snr_db: float, bursts: int, rng: np.random.Generator) -> SnrPoint:
    errors, sigmas, cfo_errors = [], [], []
    sent = dict.fromkeys((mcs.name for mcs in MCS_TABLE), 0)
    lost = dict(sent)
    for number in range(bursts):
        mcs = number % len(MCS_TABLE)
        name = MCS_TABLE[mcs].name
        with factory(snr_db, rng) as transceiver:
            reception = _single_burst(transceiver, mcs, rng)
            true_cfo_hz = float(getattr(transceiver, "cfo_hz", np.nan))
            rate_hz = transceiver.sample_rate_hz
        sent[name] += _BLOCKS_PER_BURST
        passed = int(reception.section.passed.sum()) if reception and reception.section else 0
        lost[name] += _BLOCKS_PER_BURST - passed
        if reception is not None:
            errors.append(reception.measurement.snr_db - snr_db)
            sigmas.append(reception.measurement.snr_std_db)
            cfo_errors.append((reception.cfo - true_cfo_hz / rate_hz) * ofdm.N_FFT)
    error = np.abs(errors)
    return SnrPoint(
        snr_db=float(snr_db),
        bursts=bursts,
        bursts_read=len(errors),
        bias_db=float(np.mean(errors)) if errors else float("nan"),
        std_db=float(np.std(errors)) if errors else float("nan"),
        within_1_db=float(np.sum(error <= _WITHIN_DB)) / bursts,
        covered=float(np.mean(error <= sigmas)) if errors else float("nan"),
        cfo_rms_subcarriers=float(np.sqrt(np.mean(np.square(cfo_errors)))) if errors else float("nan"),
        block_error_rate={name: lost[name] / sent[name] for name in sent if sent[name]},
    )


def _single_burst(transceiver: Transceiver, mcs: int, rng: np.random.Generator) -> Reception | None:
    """One burst of random blocks across the transceiver, or None if it was not found or its header failed."""
    payload = rng.bytes(_BLOCKS_PER_BURST * framing.BLOCK_PAYLOAD_BYTES)
    header = framing.BurstHeader(
        session=1,
        burst=0,
        mcs=mcs,
        first_block=0,
        block_count=_BLOCKS_PER_BURST,
        payload_bytes=len(payload),
        tag=bytes(framing.TAG_BYTES),
    )
    iq = framing.build_burst(header, payload, range(_BLOCKS_PER_BURST)).iq
    transceiver.transmit(iq)
    heard = transceiver.receive(len(iq) + 4096, timeout_s=1.0)
    receptions = [receive_burst(heard, found) for found in sync.find_bursts(heard)]
    return next((reception for reception in receptions if reception.header == header), None)


def threshold_db(points: Sequence[SnrPoint], mcs_name: str, level: float = 0.1) -> float:
    """SNR at which an MCS loses `level` of its blocks, linear in log(BLER) between points; NaN outside the grid."""
    pairs = [(p.snr_db, p.block_error_rate[mcs_name]) for p in sorted(points, key=lambda p: p.snr_db)]
    for (low_db, high_rate), (high_db, low_rate) in pairwise(pairs):
        if high_rate >= level > low_rate:
            upper, lower = np.log(high_rate), np.log(max(low_rate, 1e-6))
            return float(low_db + (high_db - low_db) * (upper - np.log(level)) / (upper - lower))
    return float("nan")


def _table(points: Sequence[SnrPoint]) -> Table:
    table = Table("SNR dB", "read", "bias dB", "std dB", "within 1 dB", "in 1 sigma", "CFO rms subc.")
    for mcs in MCS_TABLE:
        table.add_column(f"BLER {mcs.name}")
    for p in points:
        table.add_row(
            f"{p.snr_db:g}",
            f"{p.bursts_read}/{p.bursts}",
            f"{p.bias_db:+.3f}",
            f"{p.std_db:.3f}",
            f"{p.within_1_db:.3f}",
            f"{p.covered:.2f}",
            f"{p.cfo_rms_subcarriers:.4f}",
            *(f"{p.block_error_rate.get(mcs.name, float('nan')):.4f}" for mcs in MCS_TABLE),
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: measure in loopback, print a table and the thresholds, write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m calibration.snr", description=main.__doc__)
    parser.add_argument("--bursts", type=int, default=200, help="per point")
    parser.add_argument("--low", type=float, default=5.0, help="first SNR, dB")
    parser.add_argument("--high", type=float, default=25.0, help="last SNR, dB")
    parser.add_argument("--step", type=float, default=2.0, help="dB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args(arguments)
    if options.step <= 0 or options.high < options.low or options.bursts < 1:
        parser.error("--step and --bursts must be positive and --high at least --low")
    grid = np.arange(options.low, options.high + options.step / 2, options.step)
    points = measure_snr(loopback_factory(), grid.tolist(), options.bursts, options.seed)
    thresholds = {mcs.name: threshold_db(points, mcs.name) for mcs in MCS_TABLE}
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(_table(points))
    for name, value in thresholds.items():
        console.print(f"{name}: 10 % of the blocks lost at {value:.2f} dB")
    if options.json is not None:
        record = {
            "device": "loopback",
            "quantity": "Es/N0 per used subcarrier, dB",
            "seed": options.seed,
            "points": [asdict(p) for p in points],
            "threshold_db": {name: None if np.isnan(v) else v for name, v in thresholds.items()},
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
