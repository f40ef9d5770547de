"""[radio.channel] of hil.toml: the simulated air."""

from __future__ import annotations

from typing import Annotated, Final, Literal, cast, get_args

from pydantic import Discriminator, Field, ValidationInfo, field_validator

from hil.settings.interferer import AnyInterferer
from hil.settings.table import Table
from hil.settings.trajectories import GaussMarkov, SnrTrajectory

ChannelPreset = Literal["awgn", "lab_cable", "indoor_los", "indoor_nlos", "pedestrian", "harsh"]
SHIPPED_PRESETS: Final[tuple[ChannelPreset, ...]] = get_args(ChannelPreset)
ChannelProfile = Literal["none", "flat", "TDL-A", "TDL-B", "TDL-C", "TDL-D", "TDL-E", "file"]


class ChannelFigures(Table):
    """Single figures of a channel; one that is not set is the preset's."""

    profile: ChannelProfile | None = None
    """Multipath: none, one fading path, a tapped delay line of 3GPP TR 38.901, or a file's."""
    response_path: str | None = None
    """A .npz file with impulse responses, for the profile "file"."""
    keep_gain: bool | None = None
    """Leave the mean power of those responses as it is; false = bring it to 1."""
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

    @property
    def set_figures(self) -> dict[str, float | str]:
        """The figures that are set, by name."""
        return self.model_dump(include=set(ChannelFigures.model_fields), exclude_none=True)


class OwnPreset(ChannelFigures):
    """[radio.channel.presets.NAME]: figures under a name of one's own."""

    like: ChannelPreset = "awgn"
    """The preset that has the figures which are not set here."""


class ChannelSettings(ChannelFigures):
    """[radio.channel]: what the simulated air does."""

    presets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")], OwnPreset] = Field(
        default={}
    )
    """Presets of one's own, by name."""
    preset: str = "awgn"
    """"awgn": noise and carrier offset alone; "lab_cable": with a converter and nearly equal
    clocks; "indoor_los", "indoor_nlos", "pedestrian": with multipath and Doppler; "harsh": all
    impairments of the radios themselves; or a name of `presets`."""
    snr_db: SnrTrajectory = GaussMarkov(
        kind="gauss_markov", mean=19.0, std=4.0, correlation=0.5, low=13.0, high=25.0
    )
    """Mean SNR of each round; fading comes on top."""
    max_delay_samples: int = Field(default=2000, ge=0, le=10_000_000)
    feedback_delay_s: float = Field(default=0.02, ge=0, le=60)
    interferer: Annotated[AnyInterferer, Discriminator("kind")] | None = None
    """Another transmitter on the air; not set = none."""

    @field_validator("presets")
    @classmethod
    def _own_names(cls, presets: dict[str, OwnPreset]) -> dict[str, OwnPreset]:
        taken = sorted(set(SHIPPED_PRESETS) & set(presets))
        if taken:
            raise ValueError(f"the name {taken[0]!r} ships; choose another")
        return presets

    @field_validator("preset")
    @classmethod
    def _known(cls, preset: str, earlier: ValidationInfo) -> str:
        known = (*SHIPPED_PRESETS, *earlier.data.get("presets", ()))
        if preset not in known:
            raise ValueError(f"must be one of {', '.join(map(repr, known))}")
        return preset

    @property
    def shipped_preset(self) -> ChannelPreset:
        """The preset that ships and lies below all that is set."""
        own = self.presets.get(self.preset)
        return own.like if own else cast(ChannelPreset, self.preset)

    def overrides(self) -> dict[str, float | str]:
        """The figures that are set, in this table or in a preset of one's own, by name."""
        own = self.presets.get(self.preset)
        return {**(own.set_figures if own else {}), **self.set_figures}
