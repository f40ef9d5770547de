"""Block errors of every MCS against SNR, over the whole receiver, and the table that the link
chooses by.

For each scheme the waterfall is found first, then blocks are counted across it, and a logistic
curve is fitted by maximum likelihood: in loopback here, on a bench by bench_mcs.py. Loopback's
table is written to radio/modem/mcs_table.json, from which a link on a bench that was not calibrated
reads thresholds and predicts losses.

    python -m calibration.mcs --blocks 200
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from calibration.burst import TransceiverFactory, cross, loopback_factory
from hil.contract import CalibrationError
from hil.rounding import ceil_div
from hil.system.workers import run_jobs
from radio.modem import mcs

SCHEMES_QUANTITY = (
    "Es/N0 per used subcarrier in dB at which 10 % of the long blocks are lost, "
    "and the logistic width"
)
_BLOCKS_PER_BURST = 8
_COARSE_STEP_DB = 0.5
_COARSE_BLOCKS = 32
_SEARCH_STEPS = 24
_GRID_DB = np.arange(-0.45, 0.46, 0.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlerPoint:
    """Blocks sent and lost at one SNR."""

    snr_db: float
    sent: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """A fitted curve of block errors.

    Attributes:
        threshold_db: Es/N0 at which 10 % of the blocks are lost.
        threshold_std_db: one sigma of it, from the counts.
        width_db: step over which the odds of a loss fall by a factor e.
        points: what it was fitted to.
    """

    threshold_db: float
    threshold_std_db: float
    width_db: float
    points: tuple[BlerPoint, ...]


Counter = Callable[[int, float, int, np.random.Generator], BlerPoint]
"""(place of the MCS, SNR to set, blocks at least, rng) → what was lost, at the SNR that is known
best."""


def count_losses(
    factory: TransceiverFactory, place: int, snr_db: float, blocks: int, rng: np.random.Generator
) -> BlerPoint:
    """Lost blocks among single bursts; those of a burst that was not found or not read are lost.

    Args:
        factory: called once for every burst.
        place: index of the MCS in mcs.MCS_TABLE.
        snr_db: Es/N0 that the channel is set to.
        blocks: number of blocks, rounded up to whole bursts of 8.
        rng: generator of content and channel.
    """
    passed = 0
    bursts = ceil_div(blocks, _BLOCKS_PER_BURST)
    for _ in range(bursts):
        with factory(snr_db, rng) as transceiver:
            reception = cross(transceiver, place, _BLOCKS_PER_BURST, rng)
        passed += reception.n_passed if reception is not None else 0
    sent = bursts * _BLOCKS_PER_BURST
    return BlerPoint(snr_db=snr_db, sent=sent, lost=sent - passed)


def loopback_counter(factory: TransceiverFactory | None = None) -> Counter:
    """Counter of lost blocks over simulated channels."""
    return partial(count_losses, factory or loopback_factory())


def measure_waterfall(
    counter: Counter,
    place: int,
    *,
    start_db: float,
    blocks: int,
    seed: int,
    least_width_db: float = 0.0,
) -> Waterfall:
    """Block errors of one scheme against SNR.

    Args:
        counter: sends blocks.
        place: index of the MCS in mcs.MCS_TABLE.
        start_db: SNR at which the search begins.
        blocks: number of blocks at each of 7 points.
        seed: seed of content and channel.
        least_width_db: smallest width that is believed, as in fit_waterfall.

    Raises:
        CalibrationError: no waterfall within 12 dB of start_db.
    """
    rng = np.random.default_rng([seed, place])
    middle_db = _middle_db(counter, place, start_db, rng)
    points = [counter(place, middle_db + float(d), blocks, rng) for d in _GRID_DB]
    return fit_waterfall(points, least_width_db=least_width_db)


def _middle_db(counter: Counter, place: int, start_db: float, rng: np.random.Generator) -> float:
    """An SNR at which some blocks pass, half a step above one at which hardly any does."""
    snr_db, direction = start_db, 0
    for _ in range(_SEARCH_STEPS):
        point = counter(place, snr_db, _COARSE_BLOCKS, rng)
        step = 1 if 2 * point.lost > point.sent else -1
        if step == -direction:
            return snr_db + step * _COARSE_STEP_DB / 2
        direction = step
        snr_db += step * _COARSE_STEP_DB
    raise CalibrationError(
        f"{mcs.MCS_TABLE[place].name}: no SNR within {_SEARCH_STEPS * _COARSE_STEP_DB:g} dB of "
        f"{start_db:g} dB "
        "at which blocks begin to pass; is the channel set as it says?"
    )


def fit_waterfall(
    points: Sequence[BlerPoint], level: float = 0.1, least_width_db: float = 0.0
) -> Waterfall:
    """The logistic curve that makes the counts most likely.

    Args:
        points: counts at two SNRs or more, some blocks lost and some not.
        level: share of lost blocks that defines the threshold.
        least_width_db: a steeper curve is not believed: few blocks, all lost here and none there,
            would show a step.

    Raises:
        CalibrationError: every block was lost, or none.
    """
    snr_db = np.array([p.snr_db for p in points])
    sent, lost = (
        np.array([getattr(p, field) for p in points], float) for field in ("sent", "lost")
    )
    if lost.sum() in (0, sent.sum()):
        raise CalibrationError(
            f"{int(lost.sum())} of {int(sent.sum())} blocks lost between {snr_db.min():g} and "
            f"{snr_db.max():g} dB; "
            "choose SNRs at which some pass and some do not"
        )
    logit = np.log(level / (1 - level))

    def cost(x: NDArray[np.float64]) -> float:
        z = logit - (snr_db - x[0]) / max(np.exp(x[1]), least_width_db)
        return -float(np.sum(lost * log_expit(z) + (sent - lost) * log_expit(-z)))

    order = np.argsort(-snr_db)
    start = np.array([np.interp(level, (lost / sent)[order], snr_db[order]), np.log(0.1)])
    found = minimize(
        cost, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6, "maxiter": 2000}
    ).x
    width_db = max(float(np.exp(found[1])), least_width_db)
    return Waterfall(
        threshold_db=float(found[0]),
        threshold_std_db=_threshold_std_db(snr_db, sent, float(found[0]), width_db, logit),
        width_db=width_db,
        points=tuple(points),
    )


def _threshold_std_db(
    snr_db: NDArray[np.float64],
    sent: NDArray[np.float64],
    threshold_db: float,
    width_db: float,
    logit: float,
) -> float:
    """Cramér-Rao bound of the threshold, the width being unknown too."""
    z = logit - (snr_db - threshold_db) / width_db
    weight = sent * expit(z) * expit(-z)
    gradient = np.stack([np.full(len(z), 1 / width_db), (snr_db - threshold_db) / width_db**2])
    information = (weight * gradient) @ gradient.T
    return float(np.linalg.pinv(information)[0, 0] ** 0.5)


def _measure(job: tuple[int, float, int, int]) -> Waterfall:
    place, start_db, blocks, seed = job
    return measure_waterfall(loopback_counter(), place, start_db=start_db, blocks=blocks, seed=seed)


def _record(waterfalls: dict[int, Waterfall], seed: int) -> dict[str, Any]:
    return {
        "quantity": SCHEMES_QUANTITY,
        "device": "loopback",
        "conditions": "AWGN, carrier offset within ±0.95 fs/32, random delay, 8 blocks a burst",
        "seed": seed,
        "schemes": [
            {
                "mcs": scheme.index,
                "threshold_db": round(waterfalls[place].threshold_db, 3),
                "threshold_std_db": round(waterfalls[place].threshold_std_db, 3),
                "width_db": round(waterfalls[place].width_db, 4),
                "blocks": sum(p.sent for p in waterfalls[place].points),
            }
            for place, scheme in enumerate(mcs.MCS_TABLE)
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: measure every scheme in loopback and write the table."""
    parser = argparse.ArgumentParser(prog="python -m calibration.mcs", description=main.__doc__)
    parser.add_argument("--blocks", type=int, default=200, help="at each of 7 points of a scheme")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = one a core")
    parser.add_argument("--out", type=Path, default=mcs.TABLE_FILE, help="file for the table")
    options = parser.parse_args(arguments)
    if options.blocks < 1:
        parser.error("--blocks must be at least 1")
    waterfalls: dict[int, Waterfall] = {}
    jobs = [
        (place, scheme.threshold_db, options.blocks, options.seed)
        for place, scheme in enumerate(mcs.MCS_TABLE)
    ]
    with Progress() as progress:
        task = progress.add_task("schemes", total=len(jobs))

        def done(job: tuple[int, float, int, int], waterfall: Waterfall) -> None:
            waterfalls[job[0]] = waterfall
            progress.advance(task)

        run_jobs(_measure, jobs, workers=options.workers, on_done=done)
    options.out.write_text(json.dumps(_record(waterfalls, options.seed), indent=1) + "\n")
    for place, scheme in enumerate(mcs.MCS_TABLE):
        found = waterfalls[place]
        print(
            f"{scheme.name}: 10 % lost at {found.threshold_db:.2f} dB (one sigma "
            f"{found.threshold_std_db:.2f}), width {found.width_db:.3f} dB"
        )


if __name__ == "__main__":
    main()
