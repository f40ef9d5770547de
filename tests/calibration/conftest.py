"""A bench in this process whose truth is known: what the measurements are held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from calibration.bench import Bench
from radio.channel import (
    ClockOffset,
    DcOffset,
    FrequencyOffset,
    IqImbalance,
    PhaseNoise,
    Quantisation,
)
from radio.modem import ofdm
from radio.pluto.settings import MAX_ATTENUATION_DB, DeviceIdentity, PlutoSettings


@dataclass
class InventedAir:
    """Truth of a bench: a transmitter, a path, a receiver.

    What a receiver's input of 0 dB reads at a real gain of 0 dB is 0 dBFS; the transmitter's full
    scale is 0 dB.
    """

    loss_db: float = 30.0
    noise_db: float = -100.0  # of the input, over the whole band
    adc_noise_db: float = -70.0
    cfo_hz: float = 0.0
    clock_ppm: float = 0.0
    dc_dbfs: float = -200.0
    iq_gain_db: float = 0.0
    iq_phase_deg: float = 0.0
    phase_noise_dbc_hz: float | None = None
    gain_error_db: Callable[[float], float] = lambda gain_db: 0.0
    attenuation_error_db: Callable[[float], float] = lambda attenuation_db: 0.0
    interferer_in_silence: bool = False
    seed: int = 1
    temperature_c: float = 31.0
    sent: np.ndarray | None = field(default=None, init=False)
    attenuation_db: float = field(default=MAX_ATTENUATION_DB, init=False)

    def gain_db(self, setting):
        return setting + self.gain_error_db(setting)

    def real_attenuation_db(self, setting):
        return setting + self.attenuation_error_db(setting)

    def noise_dbfs(self, gain_setting):
        parts = (
            self.noise_db + self.gain_db(gain_setting),
            self.adc_noise_db,
            10 * math.log10(2 / 12 / 2048**2),
        )
        return 10 * math.log10(sum(10 ** (part / 10) for part in parts))

    def snr_db(self, gain_setting, attenuation_setting):
        level = (
            20 * math.log10(ofdm.RMS_LEVEL)
            - self.real_attenuation_db(attenuation_setting)
            - self.loss_db
            + self.gain_db(gain_setting)
        )
        return level + 10 * math.log10(ofdm.N_FFT / ofdm.N_USED) - self.noise_dbfs(gain_setting)


class InventedRadio:
    """One of its two radios."""

    def __init__(
        self, air: InventedAir, serial: str, *, emulated: bool = True, **settings: float
    ) -> None:
        self.air = air
        self.identity = DeviceIdentity(
            serial=serial, firmware="v0", model="invented", emulated=emulated, uri="none:"
        )
        given = {
            "rate_hz": 1e6,
            "tx_lo_hz": 915e6,
            "rx_lo_hz": 915e6,
            "rx_gain_db": 20.0,
            "tx_attenuation_db": 10.0,
        }
        self.settings = PlutoSettings(uri="none:", **(given | settings))
        self.rng = np.random.default_rng(air.seed)
        self.captured = 0

    def configure(self, *, rx_gain_db=None, tx_attenuation_db=None):
        changes = {"rx_gain_db": rx_gain_db, "tx_attenuation_db": tx_attenuation_db}
        self.settings = replace(
            self.settings, **{k: v for k, v in changes.items() if v is not None}
        )
        if tx_attenuation_db is not None:
            self.air.attenuation_db = tx_attenuation_db

    def transmit_cyclic(self, iq):
        assert len(iq) % 2 == 0
        assert np.abs(iq).max() <= 1
        self.air.sent = iq
        self.air.attenuation_db = self.settings.tx_attenuation_db

    def stop_transmit(self):
        self.air.sent = None

    def temperature_c(self):
        return self.air.temperature_c

    def capture(self, n_samples):
        air, rng, rate_hz = self.air, self.rng, self.settings.rate_hz
        self.captured += n_samples
        gain_db = air.gain_db(self.settings.rx_gain_db)
        iq = np.zeros(n_samples, np.complex64)
        if air.sent is not None:
            first = int(rng.integers(len(air.sent)))
            whole = np.resize(np.roll(air.sent, -first), n_samples + 200)
            if air.clock_ppm:
                whole = ClockOffset(air.clock_ppm, rate_hz)(whole, rng)
            stretched = whole[50 : 50 + n_samples]
            level_db = gain_db - air.loss_db - air.real_attenuation_db(air.attenuation_db)
            iq = FrequencyOffset(air.cfo_hz, rate_hz)(stretched, rng) * np.float32(
                10 ** (level_db / 20)
            )
            if air.phase_noise_dbc_hz is not None:
                iq = PhaseNoise(air.phase_noise_dbc_hz, rate_hz, pll_bandwidth_hz=50e3)(iq, rng)
        elif air.interferer_in_silence:
            iq += np.float32(3 * 10 ** ((air.noise_db + gain_db) / 20)) * np.exp(
                2j * np.pi * 0.1 * np.arange(n_samples)
            ).astype(np.complex64)
        noise_db = 10 * math.log10(
            10 ** ((air.noise_db + gain_db) / 10) + 10 ** (air.adc_noise_db / 10)
        )
        noise = rng.standard_normal(2 * n_samples, np.float32).view(np.complex64) * np.float32(
            2**-0.5
        )
        iq = iq + noise * np.float32(10 ** (noise_db / 20))
        iq = IqImbalance(air.iq_gain_db, air.iq_phase_deg)(iq, rng)
        iq = DcOffset(air.dc_dbfs)(iq, rng)
        return Quantisation(12)(iq, rng)


@pytest.fixture(scope="session")
def make_bench():
    """(air, **settings) → a Bench of two invented radios, the clock at noon."""

    def make(
        air: InventedAir, *, one_radio: bool = False, emulated: bool = True, **settings: float
    ) -> Bench:
        receiver = InventedRadio(air, "rx-1", emulated=emulated, **settings)
        transmitter = (
            receiver if one_radio else InventedRadio(air, "tx-1", emulated=emulated, **settings)
        )
        return Bench(
            transmitter=transmitter,
            receiver=receiver,
            path="invented cable, 30 dB",
            now=lambda: datetime(2026, 5, 4, 12, tzinfo=UTC),
        )

    return make


@pytest.fixture(scope="session")
def make_air():
    """Truths → an InventedAir."""
    return InventedAir
