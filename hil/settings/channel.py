"""[radio.channel] of hil.toml: the simulated air, and how a value moves from round to round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

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


AnyTrajectory = Constant | Steps | GaussMarkov | Independent | Fading | Replay


def _number_is_constant(value: object) -> object:
    return {"kind": "constant", "value": value} if isinstance(value, int | float) else value


def _within(low: float, high: float) -> Callable[[AnyTrajectory], AnyTrajectory]:
    def check(trajectory: AnyTrajectory) -> AnyTrajectory:
        match trajectory:
            case Constant(value=value):
                values = [value]
            case Steps(values=values) | Independent(values=values):
                pass
            case Replay():
                return trajectory  # its values are checked when the run is read
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
    AfterValidator(_within(-30.0, 60.0)),
]
BandwidthTrajectory = Annotated[
    Annotated[AnyTrajectory, _Kind],
    BeforeValidator(_number_is_constant),
    AfterValidator(_within(50e3, 50e6)),
]
ShareTrajectory = Annotated[
    Annotated[AnyTrajectory, _Kind],
    BeforeValidator(_number_is_constant),
    AfterValidator(_within(0.0, 1.0)),
]


ChannelPreset = Literal["awgn", "lab_cable", "indoor_los", "indoor_nlos", "pedestrian", "harsh"]
ChannelProfile = Literal["none", "flat", "TDL-A", "TDL-B", "TDL-C", "TDL-D", "TDL-E"]


class ChannelFigures(Table):
    """Single figures of a channel; one that is not set is the preset's."""

    profile: ChannelProfile | None = None
    """Multipath: none, one fading path, or a tapped delay line of 3GPP TR 38.901."""
    delay_spread_ns: float | None = Field(default=None, ge=0, le=1000)
    """Root mean square, of a TDL profile."""
    doppler_hz: float | None = Field(default=None, ge=0, le=1000)
    """Largest Doppler shift."""
    k_factor_db: float | None = Field(default=None, ge=-40, le=40)
    """Power of a line of sight over all scattered power; not set anywhere = the profile's own."""
    cfo_hz: float | None = Field(default=None, ge=0, le=1e6)
    """The carrier offset of a round is drawn uniformly within ± this."""
    cfo_drift_hz_s: float | None = Field(default=None, ge=-10_000, le=10_000)
    clock_offset_ppm: float | None = Field(default=None, ge=-100, le=100)
    """Excess of the transmitter's sample clock over the receiver's."""
    phase_noise_dbc_hz: float | None = Field(default=None, ge=-200, le=-40)
    """Single-sideband density at phase_noise_offset_hz from the carrier; -200 = none."""
    phase_noise_offset_hz: float | None = Field(default=None, gt=0, le=10e6)
    pll_bandwidth_hz: float | None = Field(default=None, ge=0, le=10e6)
    """Bandwidth of the loop that holds the oscillator; 0 = free running."""
    tx_iq_gain_db: float | None = Field(default=None, ge=-6, le=6)
    tx_iq_phase_deg: float | None = Field(default=None, ge=-30, le=30)
    tx_dc_dbfs: float | None = Field(default=None, ge=-200, le=-6)
    """-200 = none."""
    pa_backoff_db: float | None = Field(default=None, ge=0, le=60)
    """Saturation power of the transmitter's amplifier over its mean power; 60 = linear."""
    pa_smoothness: float | None = Field(default=None, ge=0.5, le=10)
    """p of Rapp's amplifier."""
    iq_gain_db: float | None = Field(default=None, ge=-6, le=6)
    """Gain of one branch of the receiver's mixer over the other."""
    iq_phase_deg: float | None = Field(default=None, ge=-30, le=30)
    """Departure of its branches from a right angle."""
    dc_dbfs: float | None = Field(default=None, ge=-200, le=-6)
    """DC offset of the receiver; -200 = none."""
    clip_dbfs: float | None = Field(default=None, ge=-30, le=20)
    """Level at which the receiver limits I and Q; 20 = never."""
    adc_bits: int | None = Field(default=None, ge=0, le=16)
    """Resolution of the receiver's converter; 0 = no converter."""

    def overrides(self) -> dict[str, float | str]:
        """The figures that are set, by name."""
        return self.model_dump(include=set(ChannelFigures.model_fields), exclude_none=True)


class ChannelSettings(ChannelFigures):
    """[radio.channel]: what the simulated air does."""

    preset: ChannelPreset = "awgn"
    """"awgn": noise and carrier offset alone; "lab_cable": with a converter and nearly equal
    clocks; "indoor_los", "indoor_nlos", "pedestrian": with multipath and Doppler; "harsh": all
    impairments of the radios themselves."""
    snr_db: SnrTrajectory = GaussMarkov(
        kind="gauss_markov", mean=19.0, std=4.0, correlation=0.5, low=13.0, high=25.0
    )
    """Mean SNR of each round; fading comes on top."""
    max_delay_samples: int = Field(default=2000, ge=0, le=10_000_000)
    feedback_delay_s: float = Field(default=0.02, ge=0, le=60)
