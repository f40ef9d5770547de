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
from pydantic import TypeAdapter, ValidationError

from hil.contract import ConfigError, Floats
from hil.reporting.run_folder import read_run
from hil.settings.channel import (
    AnyTrajectory,
    BandwidthTrajectory,
    Constant,
    Fading,
    GaussMarkov,
    Independent,
    Replay,
    ShareTrajectory,
    SnrTrajectory,
    Steps,
)
from hil.settings.radio import LoopbackRadio
from radio.channel.trajectory import constant, fading, gauss_markov, independent, steps

_RECORDED: Final[dict[str, TypeAdapter[AnyTrajectory]]] = {
    "channel.snr_db": TypeAdapter(SnrTrajectory),
    "channel.bandwidth_hz": TypeAdapter(BandwidthTrajectory),
    "channel.airtime_share": TypeAdapter(ShareTrajectory),
}
"""Columns of a run that can be replayed, and what may stand in them."""


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
    """State of the channel in all rounds of a run.

    Raises:
        ConfigError: a run that is to be replayed cannot be.
    """
    return Conditions(
        snr_db=values(settings.channel.snr_db, rounds, seeded(seed, "snr"), "channel.snr_db"),
        bandwidth_hz=values(
            settings.bandwidth_hz, rounds, seeded(seed, "bandwidth"), "channel.bandwidth_hz"
        ),
        airtime_share=values(
            settings.airtime_share, rounds, seeded(seed, "airtime"), "channel.airtime_share"
        ),
    )


def values(trajectory: AnyTrajectory, n: int, rng: np.random.Generator, column: str) -> Floats:
    """Values of a trajectory, float64[n].

    Args:
        trajectory: description from hil.toml.
        n: number of rounds.
        rng: generator for this trajectory alone.
        column: name of the quantity in a recorded run.
    Raises:
        ConfigError: a run that is to be replayed is none, holds no number in that column, or one
            out of range.
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
        case Fading() as t:
            return fading(t.mean, t.k_factor_db, t.doppler_per_round, t.low, t.high, n, rng)
        case GaussMarkov() as t:
            return gauss_markov(t.mean, t.std, t.correlation, t.low, t.high, n, rng)


def _recorded(folder: Path, column: str) -> list[float]:
    """Values that a run measured; rounds without a measurement are left out."""
    measured = read_run(folder).numbers(column)
    known: list[float] = measured[~np.isnan(measured)].tolist()
    if not known:
        raise ConfigError(
            f"{folder}: no round of this run has a {column} to replay; name one that has"
        )
    try:
        _RECORDED[column].validate_python({"kind": "steps", "values": known})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{folder}: {column} = {min(known):g}..{max(known):g} {reason}; replay another run"
        ) from error
    return known
