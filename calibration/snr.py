"""Errors of the receiver's SNR and carrier offset.

For every point of a grid, single bursts with random payload, carrier offset and delay cross a
transceiver whose SNR is known, at the scheme that the link would choose; what the receiver makes of
each is compared with it.

    python -m calibration.snr --bursts 200 --json snr.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from calibration.burst import TransceiverFactory, cross, loopback_factory
from hil.contract import ConfigError
from hil.reporting.text_table import TextTable
from radio.modem import mcs, ofdm

_BLOCKS_PER_BURST = 4
_WITHIN_DB = 1.0
_WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrPoint:
    """One point of the grid.

    Attributes:
        snr_db: Es/N0 per used subcarrier that the channel was set to.
        bursts, bursts_read: bursts sent, and bursts found with a valid header.
        bias_db, std_db: mean and standard deviation of (measured - set), single bursts; NaN without
            any.
        within_1_db: share of all bursts whose measurement lies within 1 dB; a lost burst counts as
            outside.
        covered: share of measurements whose ± one sigma holds the set value.
        cfo_rms_subcarriers: rms error of the carrier offset in subcarrier spacings; NaN where it is
            not known.
        block_error_rate: share of blocks lost among those sent.
    """

    snr_db: float
    bursts: int
    bursts_read: int
    bias_db: float
    std_db: float
    within_1_db: float
    covered: float
    cfo_rms_subcarriers: float
    block_error_rate: float


def measure_snr(
    factory: TransceiverFactory, grid_db: Sequence[float], bursts_per_point: int, seed: int
) -> list[SnrPoint]:
    """One SnrPoint for each value of the grid.

    Args:
        factory: makes a transceiver for each burst.
        grid_db: SNRs to set.
        bursts_per_point: ≥ 1, of 4 blocks each.
        seed: seed of payloads and, through the factory, of the channel.

    Raises:
        ConfigError: there is less than one burst.
    """
    if bursts_per_point < 1:
        raise ConfigError(f"{bursts_per_point} bursts per point; at least 1 is needed")
    rng = np.random.default_rng(seed)
    return [_measure_point(factory, snr_db, bursts_per_point, rng) for snr_db in grid_db]


def _measure_point(
    factory: TransceiverFactory, snr_db: float, bursts: int, rng: np.random.Generator
) -> SnrPoint:
    errors, sigmas, cfo_errors = [], [], []
    passed = 0
    place = int(mcs.fastest(snr_db))
    for _ in range(bursts):
        with factory(snr_db, rng) as transceiver:
            reception = cross(transceiver, place, _BLOCKS_PER_BURST, rng)
            true_cfo_hz = float(getattr(transceiver, "cfo_hz", np.nan))
            rate_hz = transceiver.sample_rate_hz
        passed += int(reception.blocks.passed.sum()) if reception and reception.blocks else 0
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
        cfo_rms_subcarriers=float(np.sqrt(np.mean(np.square(cfo_errors))))
        if errors
        else float("nan"),
        block_error_rate=1 - passed / (bursts * _BLOCKS_PER_BURST),
    )


def _table(points: Sequence[SnrPoint]) -> TextTable:
    rows = [
        (
            f"{p.snr_db:g}",
            mcs.MCS_TABLE[int(mcs.fastest(p.snr_db))].name,
            f"{p.bursts_read}/{p.bursts}",
            f"{p.bias_db:+.3f}",
            f"{p.std_db:.3f}",
            f"{p.within_1_db:.3f}",
            f"{p.covered:.2f}",
            f"{p.cfo_rms_subcarriers:.4f}",
            f"{p.block_error_rate:.4f}",
        )
        for p in points
    ]
    return TextTable(
        heads=(
            "SNR dB",
            "scheme",
            "bursts read",
            "bias dB",
            "std dB",
            "within 1 dB",
            "within 1 sigma",
            "CFO rms",
            "BLER",
        ),
        rows=rows,
        notes=("SNR: Es/N0 per used subcarrier. CFO: in subcarrier spacings.",),
        text_columns=("scheme",),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: measure in loopback, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m calibration.snr", description=main.__doc__)
    parser.add_argument("--bursts", type=int, default=200, help="per point")
    parser.add_argument("--low", type=float, default=-5.0, help="first SNR, dB")
    parser.add_argument("--high", type=float, default=30.0, help="last SNR, dB")
    parser.add_argument("--step", type=float, default=5.0, help="dB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args(arguments)
    if options.step <= 0 or options.high < options.low or options.bursts < 1:
        parser.error("--step and --bursts must be positive and --high at least --low")
    grid = np.arange(options.low, options.high + options.step / 2, options.step)
    points = measure_snr(loopback_factory(), grid.tolist(), options.bursts, options.seed)
    print("\n".join(_table(points).lines(_WIDTH)))
    if options.json is not None:
        record = {
            "device": "loopback",
            "quantity": "Es/N0 per used subcarrier, dB",
            "seed": options.seed,
            "points": [asdict(p) for p in points],
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
