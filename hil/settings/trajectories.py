"""How a value of hil.toml moves from round to round, or in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field

from hil.settings.table import Table


class Constant(Table):
    """The same value in every round; a bare number means this."""

    kind: Literal["constant"] = "constant"
    value: float


class Steps(Table):
    """Each value for `dwell` rounds, then from the start."""

    kind: Literal["steps"]
    values: list[float] = Field(min_length=1)
    dwell: int = Field(default=1, ge=1)


class GaussMarkov(Table):
    """A stationary Gauss-Markov walk that is kept within [low, high]."""

    kind: Literal["gauss_markov"]
    mean: float
    std: float = Field(gt=0)
    correlation: float = Field(ge=0, lt=1)
    low: float
    high: float


class Independent(Table):
    """One of `values` in every round, all equally likely, independent of the rounds before."""

    kind: Literal["independent"]
    values: list[float] = Field(min_length=1)


class Fading(Table):
    """Block fading of the mean power: Rayleigh, or Rician where a line of sight is given; in dB,
    held within limits."""

    kind: Literal["fading"]
    mean: float
    k_factor_db: float = Field(default=-40.0, ge=-40, le=40)
    """Power of the line of sight over the scattered power; -40 dB is Rayleigh."""
    doppler_per_round: float = Field(default=0.1, gt=0, le=0.5)
    """Doppler frequency times the time from round to round: J0(2 pi x) is the correlation of two
    rounds."""
    low: float
    high: float


class Replay(Table):
    """The values that a recorded run measured, round by round; at its end from the start again."""

    kind: Literal["replay"]
    run: str
    """Run folder."""


class Csv(Table):
    """One column of a CSV file."""

    kind: Literal["csv"]
    path: str = Field(min_length=1)
    column: str = Field(min_length=1)
    """Name in the file's first line."""
    time: Literal["round", "seconds"] = "round"
    """"round": a row for each round; "seconds": each row holds from its time on."""
    time_column: str = Field(default="time_s", min_length=1)
    """Column of the times in seconds, for "seconds"; they count from the first row's."""
    at_end: Literal["refuse", "loop", "hold"] = "refuse"
    """A file that is shorter than the run: refused, repeated, or its last row holds."""


AnyTrajectory = Constant | Steps | GaussMarkov | Independent | Fading | Replay | Csv

SNR_LIMITS_DB: Final = (-30.0, 60.0)
BANDWIDTH_LIMITS_HZ: Final = (50e3, 50e6)
SHARE_LIMITS: Final = (0.0, 1.0)


def _number_is_constant(value: object) -> object:
    return {"kind": "constant", "value": value} if isinstance(value, int | float) else value


def _within(low: float, high: float) -> Callable[[AnyTrajectory], AnyTrajectory]:
    def check(trajectory: AnyTrajectory) -> AnyTrajectory:
        match trajectory:
            case Constant(value=value):
                values = [value]
            case Steps(values=values) | Independent(values=values):
                pass
            case Replay() | Csv():
                return trajectory  # their values are checked when the file is read
            case GaussMarkov() | Fading():
                if (
                    not trajectory.low <= trajectory.mean <= trajectory.high
                    or trajectory.low == trajectory.high
                ):
                    raise ValueError("low ≤ mean ≤ high and low < high must hold")
                values = [trajectory.low, trajectory.high]
        if min(values) < low or max(values) > high:
            raise ValueError(f"must stay within {low:g} and {high:g}")
        return trajectory

    return check


_Kind = Discriminator("kind")
SnrTrajectory = Annotated[
    Annotated[AnyTrajectory, _Kind],
    BeforeValidator(_number_is_constant),
    AfterValidator(_within(*SNR_LIMITS_DB)),
]
BandwidthTrajectory = Annotated[
    Annotated[AnyTrajectory, _Kind],
    BeforeValidator(_number_is_constant),
    AfterValidator(_within(*BANDWIDTH_LIMITS_HZ)),
]
ShareTrajectory = Annotated[
    Annotated[AnyTrajectory, _Kind],
    BeforeValidator(_number_is_constant),
    AfterValidator(_within(*SHARE_LIMITS)),
]
