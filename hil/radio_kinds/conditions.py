"""SNR, bandwidth and airtime of every round, from the trajectories of [radio]; and the run's
random generators.

The loop's simulated radio and the training environments read the same functions here, so that one
seed means the same channel in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from hil.contract import ConfigError, Floats
from hil.reporting.run_folder import read_run
from hil.settings.radio import LoopbackRadio
from hil.settings.trajectories import (
    BANDWIDTH_LIMITS_HZ,
    SHARE_LIMITS,
    SNR_LIMITS_DB,
    AnyTrajectory,
    Constant,
    Csv,
    Fading,
    GaussMarkov,
    Independent,
    Replay,
    Steps,
)
from radio.channel.trace import Trace, read_column, read_trace
from radio.channel.trajectory import constant, fading, gauss_markov, independent, steps

LIMITS: Final = {
    "channel.snr_db": SNR_LIMITS_DB,
    "channel.bandwidth_hz": BANDWIDTH_LIMITS_HZ,
    "channel.airtime_share": SHARE_LIMITS,
}
"""Columns of a run that follow a trajectory, and what may stand in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """State of the channel in n rounds.

    Attributes:
        snr_db, bandwidth_hz, airtime_share: float64[n], as ChannelState, without any error of
            measurement.
    """

    snr_db: Floats
    bandwidth_hz: Floats
    airtime_share: Floats


def seeded(seed: int, purpose: str) -> np.random.Generator:
    """The run's generator for one purpose: streams of different purposes are independent."""
    return np.random.default_rng([seed, *purpose.encode()])


def conditions(settings: LoopbackRadio, rounds: int, seed: int) -> Conditions:
    """State of the channel in all rounds of a run; of what moves within a round, its state at the
    start.

    Raises:
        ConfigError: a run that is to be replayed, or a file, cannot be.
    """

    def of(trajectory: AnyTrajectory, purpose: str, column: str) -> Floats:
        rng = seeded(seed, purpose)
        return values(trajectory, rounds, rng, column, settings.round_period_s)

    return Conditions(
        snr_db=of(settings.channel.snr_db, "snr", "channel.snr_db"),
        bandwidth_hz=of(settings.bandwidth_hz, "bandwidth", "channel.bandwidth_hz"),
        airtime_share=of(settings.airtime_share, "airtime", "channel.airtime_share"),
    )


def sinr_db(settings: LoopbackRadio, snr_db: Floats) -> Floats:
    """Signal to interference and noise; the interferer counts as white noise of its mean power."""
    interferer = settings.channel.interferer
    if interferer is None:
        return snr_db
    return np.asarray(snr_db - 10 * np.log10(1 + 10 ** (interferer.mean_inr_db / 10)))


def values(
    trajectory: AnyTrajectory,
    n: int,
    rng: np.random.Generator,
    column: str,
    period_s: float = 0.0,
) -> Floats:
    """Values of a trajectory, float64[n].

    Args:
        trajectory: description from hil.toml.
        n: number of rounds.
        rng: generator for this trajectory alone.
        column: name of the quantity in a recorded run.
        period_s: time from round to round; 0 = not known beforehand.
    Raises:
        ConfigError: a run or a file that cannot be read, is too short, or holds what is no number
            or out of range.
    """
    match trajectory:
        case Constant(value=value):
            return constant(value, n)
        case Steps(values=each, dwell=dwell):
            return steps(each, dwell, n)
        case Independent(values=each):
            return independent(each, n, rng)
        case Replay(run=run):
            return steps(_recorded(Path(run), column), 1, n)
        case Csv(time="round") as file:
            return _by_round(file, n, column)
        case Csv() as file:
            return _by_time(file, n, column, period_s)
        case Fading() as t:
            return fading(t.mean, t.k_factor_db, t.doppler_per_round, t.low, t.high, n, rng)
        case GaussMarkov() as t:
            return gauss_markov(t.mean, t.std, t.correlation, t.low, t.high, n, rng)


def trace_of(trajectory: AnyTrajectory, column: str) -> Trace | None:
    """The file behind a trajectory that moves within a round, or None. Raises ConfigError."""
    if not isinstance(trajectory, Csv) or trajectory.time == "round":
        return None
    return read_trace(
        Path(trajectory.path),
        trajectory.column,
        trajectory.time_column,
        LIMITS[column],
        loops=trajectory.at_end == "loop",
    )


def _by_round(file: Csv, n: int, column: str) -> Floats:
    """A row for each round."""
    each = read_column(Path(file.path), file.column, LIMITS[column])
    if file.at_end == "loop":
        return steps(each.tolist(), 1, n)
    if len(each) < n and file.at_end == "refuse":
        raise ConfigError(f"{file.path}: {len(each)} rows for {n} rounds; {_LONGER}")
    return each[np.minimum(np.arange(n), len(each) - 1)]


def _by_time(file: Csv, n: int, column: str, period_s: float) -> Floats:
    """The values at the starts of the rounds."""
    trace = trace_of(file, column)
    if trace is None or not period_s:
        raise ConfigError(
            f"{file.path}: time = 'seconds' needs to know how long a round lasts; set "
            "radio.round_period_s, or time = 'round'"
        )
    if n * period_s > trace.duration_s * (1 + 1e-9) and file.at_end == "refuse":
        raise ConfigError(
            f"{file.path}: covers {trace.duration_s:g} s, {n} rounds of {period_s:g} s last "
            f"{n * period_s:g} s; {_LONGER}"
        )
    return trace.at(np.arange(n) * period_s)


_LONGER: Final = (
    "give it more rows, run fewer rounds, or set at_end = 'loop' (from the start again) or 'hold' "
    "(its last row stays)"
)


def _recorded(folder: Path, column: str) -> list[float]:
    """Values that a run measured; rounds without a measurement are left out."""
    measured = read_run(folder).numbers(column)
    known: list[float] = measured[~np.isnan(measured)].tolist()
    if not known:
        raise ConfigError(
            f"{folder}: no round of this run has a {column} to replay; name one that has"
        )
    low, high = LIMITS[column]
    if min(known) < low or max(known) > high:
        raise ConfigError(
            f"{folder}: {column} = {min(known):g}..{max(known):g} must stay within {low:g} and "
            f"{high:g}; replay another run"
        )
    return known
