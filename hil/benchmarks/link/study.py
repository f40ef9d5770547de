"""What a study of the bench is, and what several of them share.

Bars and the table of thresholds are targets of this radio. Thresholds: AWGN, perfect
synchronisation, 10 % of blocks of 8448 bits lost, 20 iterations of belief propagation by an
independent implementation of the same codes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hil.benchmarks.link.bars import Bar, Estimate, threshold
from radio.modem import mcs

Results = Mapping[str, list[Any]]
"""Study → results of its tasks, in their order."""

Summary = tuple[list[Bar], dict[str, Any]]
"""Bars, and curves for the report as plain values."""

REFERENCE_DB: Final = {
    2: -1.4,
    3: 0.6,
    4: 2.25,
    5: 4.7,
    7: 6.4,
    9: 8.15,
    10: 8.65,
    11: 10.5,
    13: 12.3,
    15: 13.6,
    17: 15.4,
    19: 17.3,
    20: 18.8,
    22: 20.1,
    24: 21.9,
    26: 23.8,
}
"""Index of the MCS → threshold in dB."""
_SEED: Final = 1
_ROBUST_START_DB: Final = {0: -6.0, 1: -3.7}


@dataclass(frozen=True, slots=True)
class Task:
    """One trial with its settings.

    Attributes:
        trial: (rng, **settings) → plain values; a function that other processes can import.
        settings: the trial's settings.
        weight: about how long it takes, in any unit; longest first.
    """

    trial: Callable[..., dict[str, Any]]
    settings: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Study:
    """What is tried, and what it says.

    Attributes:
        tasks: quick? → trials.
        summarise: results of all studies by name → bars, and curves for the report.
        alone: timings, for which nothing else may run.
    """

    tasks: Callable[[bool], Sequence[Task]]
    summarise: Callable[[Results], Summary]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A task, as it goes to another process.

    Attributes:
        study: its study's name.
        number: its place there.
        task: the task itself.
    """

    study: str
    number: int
    task: Task


def run_job(job: Job) -> dict[str, Any]:
    """The result of a job; its randomness comes from its study and place alone."""
    seed = np.random.SeedSequence(_SEED, spawn_key=(zlib.crc32(job.study.encode()), job.number))
    return job.task.trial(np.random.default_rng(seed), **job.task.settings)


def start_db(place: int) -> float:
    """Where the walk over a scheme's waterfall begins."""
    index = mcs.MCS_TABLE[place].index
    return REFERENCE_DB.get(index, _ROBUST_START_DB.get(index, 0.0))


def finite(value: float) -> float | None:
    """The value, None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def thresholds(results: Results, study: str) -> dict[int, Estimate]:
    """10 % points of a study's curves by place in the table; empty if it did not run."""
    return {r["place"]: threshold(r["points"]) for r in results.get(study, [])}


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of independent estimates."""
    figure = a.figure - b.figure
    if not all(math.isfinite(x) for x in (a.figure, a.low, a.high, b.figure, b.low, b.high)):
        return Estimate(figure)
    return Estimate(
        figure,
        figure - math.hypot(a.figure - a.low, b.high - b.figure),
        figure + math.hypot(a.high - a.figure, b.figure - b.low),
    )


def base_db(known: Mapping[int, Estimate], place: int, fallback: float) -> tuple[Estimate, str]:
    """A threshold of another study of this run, or what stands in for it."""
    if place in known:
        return known[place], "measured beside"
    return Estimate(fallback), "from the table, as that study did not run"
