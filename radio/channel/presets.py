"""Channels by name, and the models that their figures stand for, in the order in which a signal
meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from hil.contract import ChannelModel, ConfigError
from radio.channel.chain import Medium
from radio.channel.clock_offset import ClockOffset
from radio.channel.fading import TappedDelayLine
from radio.channel.frontend import Clipping, DcOffset, IqImbalance, Quantisation, RappAmplifier
from radio.channel.oscillator import PhaseNoise
from radio.channel.profiles import SCATTERED
from radio.channel.responses import RecordedDelayLine, read_responses

NO_NOISE_DBC_HZ: Final = -200.0
NO_DC_DBFS: Final = -200.0
NO_CLIPPING_DBFS: Final = 20.0
LINEAR_BACKOFF_DB: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a channel does beside noise and delay; the defaults are a channel that does nothing
    else.

    Attributes:
        profile: "none" (no multipath), "flat" (one fading path), "TDL-A" to "TDL-E" of TR 38.901,
            or "file" (impulse responses of response_path).
        response_path: a .npz file, see channel.responses.
        keep_gain: leave the mean power of its responses as it is; False: bring it to 1.
        delay_spread_ns: rms delay spread of a TDL profile.
        doppler_hz: largest Doppler shift.
        k_factor_db: power of a line of sight over all scattered power; None = the profile's own.
        cfo_hz: carrier offset; where rounds draw theirs, it lies uniformly within ± this.
        cfo_drift_hz_s: drift of the carrier offset.
        clock_offset_ppm: excess of the transmitter's sample clock over the receiver's.
        phase_noise_dbc_hz: single-sideband density at phase_noise_offset_hz; -200 = none.
        phase_noise_offset_hz: > 0.
        pll_bandwidth_hz: bandwidth of the loop that holds the oscillator; 0 = free running.
        tx_iq_gain_db, tx_iq_phase_deg, tx_dc_dbfs: errors of the transmitter's mixer, DC -200 =
            none.
        pa_backoff_db: saturation power over mean transmit power; 60 = linear.
        pa_smoothness: p of Rapp's model.
        iq_gain_db, iq_phase_deg, dc_dbfs: errors of the receiver's mixer.
        clip_dbfs: level at which the receiver limits I and Q; 20 = never.
        adc_bits: resolution of the receiver's converter; 0 = none.
    """

    profile: str = "none"
    response_path: str = ""
    keep_gain: bool = False
    delay_spread_ns: float = 0.0
    doppler_hz: float = 0.0
    k_factor_db: float | None = None
    cfo_hz: float = 0.0
    cfo_drift_hz_s: float = 0.0
    clock_offset_ppm: float = 0.0
    phase_noise_dbc_hz: float = NO_NOISE_DBC_HZ
    phase_noise_offset_hz: float = 10e3
    pll_bandwidth_hz: float = 0.0
    tx_iq_gain_db: float = 0.0
    tx_iq_phase_deg: float = 0.0
    tx_dc_dbfs: float = NO_DC_DBFS
    pa_backoff_db: float = LINEAR_BACKOFF_DB
    pa_smoothness: float = 2.0
    iq_gain_db: float = 0.0
    iq_phase_deg: float = 0.0
    dc_dbfs: float = NO_DC_DBFS
    clip_dbfs: float = NO_CLIPPING_DBFS
    adc_bits: int = 0


NOISE_ALONE: Final = Figures()
_CABLE: Final = Figures(cfo_hz=200.0, clock_offset_ppm=0.5, adc_bits=12)
_INDOORS: Final = replace(_CABLE, cfo_hz=10e3, clock_offset_ppm=2.0)

PRESETS: Final[Mapping[str, Figures]] = {
    "awgn": Figures(cfo_hz=10e3),
    "lab_cable": _CABLE,
    "indoor_los": replace(_INDOORS, profile="TDL-D", delay_spread_ns=30.0, doppler_hz=1.0),
    "indoor_nlos": replace(_INDOORS, profile="TDL-B", delay_spread_ns=100.0, doppler_hz=2.0),
    "pedestrian": replace(_INDOORS, profile="TDL-C", delay_spread_ns=300.0, doppler_hz=5.0),
    "harsh": Figures(
        cfo_hz=10e3,
        cfo_drift_hz_s=50.0,
        clock_offset_ppm=20.0,
        phase_noise_dbc_hz=-87.0,
        pll_bandwidth_hz=50e3,
        pa_backoff_db=10.0,
        iq_gain_db=1.0,
        iq_phase_deg=3.0,
        dc_dbfs=-45.0,
        clip_dbfs=-7.0,
        adc_bits=12,
    ),
}
"""What hil.toml may name. Delay spreads and profiles of the three fading ones are those of TS
38.101-4's TDLD30, TDLB100 and TDLC300. "harsh" has every impairment of the radios themselves, and
no multipath."""

_NEEDS: Final = {
    "delay_spread_ns": ("profile", ("none", "flat", "file")),
    "doppler_hz": ("profile", ("none", "file")),
    "k_factor_db": ("profile", ("none", "file")),
    "response_path": ("profile", ("none", *SCATTERED)),
    "keep_gain": ("profile", ("none", *SCATTERED)),
    "phase_noise_offset_hz": ("phase_noise_dbc_hz", (NO_NOISE_DBC_HZ,)),
    "pll_bandwidth_hz": ("phase_noise_dbc_hz", (NO_NOISE_DBC_HZ,)),
    "pa_smoothness": ("pa_backoff_db", (LINEAR_BACKOFF_DB,)),
}
"""Figure → the one it hangs on, and the values of that one under which it would do nothing."""


def figures(preset: str, **overrides: Any) -> Figures:
    """A preset, with some figures replaced.

    Raises:
        ConfigError: for an unknown preset or figure, or one that would do nothing.
    """
    known = {field.name for field in fields(Figures)}
    unknown = sorted(overrides.keys() - known)
    if preset not in PRESETS or unknown:
        raise ConfigError(
            f"channel preset {preset!r} with figures {unknown}; presets are {', '.join(PRESETS)}, "
            f"figures {', '.join(sorted(known))}"
        )
    found = replace(PRESETS[preset], **overrides)
    for name, (needed, idle) in _NEEDS.items():
        if name in overrides and getattr(found, needed) in idle:
            raise ConfigError(
                f"channel figure {name} = {overrides[name]} does nothing while {needed} = "
                f"{getattr(found, needed)}; "
                f"set {needed} as well"
            )
    if found.profile == "file" and not found.response_path:
        raise ConfigError("channel profile is 'file'; set response_path as well, to a .npz file")
    return found


def transmit_end(f: Figures) -> tuple[ChannelModel, ...]:
    """The transmitter's DC offset, mixer and amplifier."""
    models: list[ChannelModel] = []
    if f.tx_dc_dbfs > NO_DC_DBFS:
        models.append(DcOffset(f.tx_dc_dbfs))
    if f.tx_iq_gain_db or f.tx_iq_phase_deg:
        models.append(IqImbalance(f.tx_iq_gain_db, f.tx_iq_phase_deg))
    if f.pa_backoff_db < LINEAR_BACKOFF_DB:
        models.append(RappAmplifier(f.pa_backoff_db, f.pa_smoothness))
    return tuple(models)


def multipath(f: Figures, sample_rate_hz: float, rng: np.random.Generator) -> tuple[Medium, ...]:
    """The air between the antennas; `rng` draws its realisation."""
    if f.profile == "none":
        return ()
    if f.profile == "file":
        recorded = read_responses(Path(f.response_path))
        return (RecordedDelayLine(recorded, sample_rate_hz=sample_rate_hz, keep_gain=f.keep_gain),)
    line = TappedDelayLine(
        f.profile,
        sample_rate_hz=sample_rate_hz,
        rng=rng,
        delay_spread_ns=f.delay_spread_ns,
        doppler_hz=f.doppler_hz,
        k_factor_db=f.k_factor_db,
    )
    return (line,)


def clocks(f: Figures, sample_rate_hz: float) -> tuple[Medium, ...]:
    """Sample clock offset and phase noise."""
    media: list[Medium] = []
    if f.clock_offset_ppm:
        media.append(ClockOffset(f.clock_offset_ppm, sample_rate_hz))
    if f.phase_noise_dbc_hz > NO_NOISE_DBC_HZ:
        noise = PhaseNoise(
            f.phase_noise_dbc_hz,
            sample_rate_hz,
            offset_hz=f.phase_noise_offset_hz,
            pll_bandwidth_hz=f.pll_bandwidth_hz,
        )
        media.append(noise)
    return tuple(media)


def receive_end(f: Figures) -> tuple[ChannelModel, ...]:
    """The receiver's mixer, DC offset, limiter and converter."""
    models: list[ChannelModel] = []
    if f.iq_gain_db or f.iq_phase_deg:
        models.append(IqImbalance(f.iq_gain_db, f.iq_phase_deg))
    if f.dc_dbfs > NO_DC_DBFS:
        models.append(DcOffset(f.dc_dbfs))
    if f.clip_dbfs < NO_CLIPPING_DBFS:
        models.append(Clipping(f.clip_dbfs))
    if f.adc_bits:
        models.append(Quantisation(f.adc_bits))
    return tuple(models)
