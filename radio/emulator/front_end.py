"""Figures and settings of an emulated radio, and the levels that follow from them.

Levels at an antenna are in dBm. In dBFS, the constant 1.0 has 0 dBFS: a complex tone of amplitude
1, I and Q each just reaching full scale. SNR is Es/N0 per used subcarrier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from hil.contract import ConfigError
from radio.modem.ofdm import N_FFT, N_USED

CONVERTER_BITS: Final = 12
CODES: Final = 1 << (CONVERTER_BITS - 1)
"""Codes of a converter on each side of 0; amplitude 1.0."""
_THERMAL_DBM_HZ: Final = -173.98
"""kT at 290 K."""
_ROUNDING_DBFS: Final = 10 * math.log10(2 / 12 / CODES**2)
"""Power of the rounding errors of I and Q, each uniform over one code."""
_SPREAD_DB: Final = 10 * math.log10(N_FFT / N_USED)
"""Density in the used band over the mean density of the whole band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One radio's own figures.

    Attributes:
        ppm: error of its reference oscillator: acts on both carriers and on the sample clock,
            -1000..1000.
        tx_full_scale_dbm: transmitted power of 0 dBFS without attenuation. AD9363 data sheet,
            "maximum output power": about +7 dBm.
        noise_figure_db: noise figure of the receiver. AD9363 data sheet: 3 dB.
        adc_full_scale_dbm: antenna power that reaches 0 dBFS at 0 dB gain. AD9361 reference manual
            (UG-570): full scale is 0.625 V peak, across 50 Ω.
        adc_noise_dbfs: noise behind the gain stage. The data sheets give none; the default is 0.73
            codes rms in each of I and Q, enough for the rounding to act as noise whatever the
            signal is.
        rx_dc_dbfs: DC offset at the converter, magnitude, equal in I and Q; -200 = none.
        rx_iq_gain_db, rx_iq_phase_deg: imbalance of the receiver's mixer.
    """

    ppm: float = 0.0
    tx_full_scale_dbm: float = 7.0
    noise_figure_db: float = 3.0
    adc_full_scale_dbm: float = 5.9
    adc_noise_dbfs: float = -66.0
    rx_dc_dbfs: float = -200.0
    rx_iq_gain_db: float = 0.0
    rx_iq_phase_deg: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.ppm) <= 1000:
            raise ConfigError(f"oscillator error is {self.ppm} ppm; it must lie within ±1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tone:
    """One tone of the transmitter's direct digital synthesis: scale · sin(2π · frequency · t +
    phase) on I or Q.

    Attributes:
        frequency_hz: 0..rate / 2.
        scale: amplitude over full scale, 0..1.
        phase_deg: phase at the synthesiser's sample 0.
        channel: the converter it feeds.
    """

    frequency_hz: float
    scale: float
    phase_deg: float
    channel: Literal["I", "Q"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RfSettings:
    """Settings of a radio.

    Attributes:
        rx_lo_hz, tx_lo_hz: nominal carrier frequencies.
        rate_hz: nominal sample rate of both directions, > 0.
        rx_gain_db: gain between antenna and converter.
        tx_attenuation_db: ≥ 0.
        rx_bandwidth_hz, tx_bandwidth_hz: width of the analogue filters; None: the sample rate.
        loopback: 0 = none, 1 = what is received are the codes that are transmitted.
        tx_lo_on: False = nothing leaves the transmitter.
        tones: tones of the direct digital synthesis; they sound while no stream plays.
    """

    rx_lo_hz: float = 2.4e9
    tx_lo_hz: float = 2.4e9
    rate_hz: float = 2e6
    rx_gain_db: float = 30.0
    tx_attenuation_db: float = 10.0
    rx_bandwidth_hz: float | None = None
    tx_bandwidth_hz: float | None = None
    loopback: int = 0
    tx_lo_on: bool = True
    tones: tuple[Tone, ...] = ()


def received_dbfs(
    tx: NodeSpec, tx_set: RfSettings, rx: NodeSpec, rx_set: RfSettings, loss_db: float
) -> float:
    """Level at the receiver's converter of 0 dBFS at the transmitter's, over a path that loses
    loss_db."""
    arriving_dbm = tx.tx_full_scale_dbm - tx_set.tx_attenuation_db - loss_db
    return arriving_dbm + rx_set.rx_gain_db - rx.adc_full_scale_dbm


def noise_dbfs(rx: NodeSpec, rx_set: RfSettings) -> float:
    """Noise ahead of the receiver's rounding, over the whole sampled band."""
    thermal_dbm = _THERMAL_DBM_HZ + rx.noise_figure_db + 10 * math.log10(rx_set.rate_hz)
    return _sum_db(thermal_dbm + rx_set.rx_gain_db - rx.adc_full_scale_dbm, rx.adc_noise_dbfs)


def floor_dbfs(rx: NodeSpec, rx_set: RfSettings) -> float:
    """All noise of the receiver, rounding included, over the whole sampled band."""
    return _sum_db(noise_dbfs(rx, rx_set), _ROUNDING_DBFS)


def snr_db(
    tx: NodeSpec,
    tx_set: RfSettings,
    rx: NodeSpec,
    rx_set: RfSettings,
    *,
    loss_db: float,
    tx_rms_dbfs: float,
) -> float:
    """Es/N0 per used subcarrier of the kit's OFDM: thermal and converter noise, and the rounding at
    both ends.

    Clipping, multipath about its mean, and imperfect front ends are not counted.
    """
    link_db = received_dbfs(tx, tx_set, rx, rx_set, loss_db)
    noise = _sum_db(_receiver_floor_dbfs(rx, rx_set, tx_set), link_db + _ROUNDING_DBFS)
    return tx_rms_dbfs + link_db + _SPREAD_DB - noise


def loss_for_snr_db(
    tx: NodeSpec,
    tx_set: RfSettings,
    rx: NodeSpec,
    rx_set: RfSettings,
    *,
    snr_db: float,
    tx_rms_dbfs: float,
) -> float:
    """Path loss that gives an SNR: the inverse of snr_db.

    Raises:
        ConfigError: the rounding of the transmitted samples alone is more than that SNR allows.
    """
    wanted = 10 ** ((tx_rms_dbfs + _SPREAD_DB - snr_db) / 10)
    own = 10 ** (_ROUNDING_DBFS / 10)
    if not wanted > own:
        limit_db = tx_rms_dbfs + _SPREAD_DB - _ROUNDING_DBFS
        raise ConfigError(
            f"emulated SNR of {snr_db} dB at {tx_rms_dbfs} dBFS: 12-bit samples at that level "
            "cannot exceed "
            f"{limit_db:.1f} dB; send at a higher level"
        )
    link_db = _receiver_floor_dbfs(rx, rx_set, tx_set) - 10 * math.log10(wanted - own)
    return received_dbfs(tx, tx_set, rx, rx_set, 0.0) - link_db


def _receiver_floor_dbfs(rx: NodeSpec, rx_set: RfSettings, tx_set: RfSettings) -> float:
    """All noise of the receiver, rounding included, in a band as wide as the transmitter's sample
    rate."""
    return floor_dbfs(rx, rx_set) + 10 * math.log10(tx_set.rate_hz / rx_set.rate_hz)


def _sum_db(a: float, b: float) -> float:
    return 10 * math.log10(10 ** (a / 10) + 10 ** (b / 10))
