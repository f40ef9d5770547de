"""SNR against attenuation by two methods that share nothing: they must agree.

Data-aided: the modem's own estimate from bursts whose content is known. Noise floor: received power
with the signal on, minus that with the transmitter silent, over the noise on the used subcarriers.
Phase noise, image and clipping harm the first and are invisible to the second, an interferer that
comes and goes harms the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.burst import CyclicBurst, Hearing, cyclic_burst, hear
from calibration.record import CalibrationRecord
from hil.contract import CalibrationError
from radio.modem import mcs, ofdm, snr
from radio.pluto.settings import MAX_ATTENUATION_DB

AGREEMENT_DB: Final = 1.5
RANGE_DB: Final = (5.0, 35.0)
"""SNRs at which the two methods must agree."""
_BURSTS: Final = 2
_CLIPPED_SHARE: Final = 1e-4
_DIAL_STEP_DB: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """SNR against attenuation at one gain.

    Attributes:
        attenuation_db: float64[k], rising: where bursts were received unclipped.
        data_aided_db, noise_floor_db, level_dbfs: float64[repeats, k].
    """

    attenuation_db: NDArray[np.float64]
    data_aided_db: NDArray[np.float64]
    noise_floor_db: NDArray[np.float64]
    level_dbfs: NDArray[np.float64]


def measure_sweep(bench: Bench, plan: Plan) -> Sweep:
    """Both methods at every attenuation, as far as bursts are received; repeats one whole sweep
    after the other.

    Raises:
        CalibrationError: no burst was received at two attenuations.
    """
    sent = cyclic_burst(mcs.slowest(robust=False).place, 1, np.random.default_rng([plan.seed, 2]))
    attenuations = plan.attenuations_db
    table = np.full((3, plan.repeats, len(attenuations)), math.nan)
    bench.set(rx_gain_db=plan.rx_gain_db)
    for repeat in range(plan.repeats):
        bench.silence()
        silence = bench.capture(2 * plan.samples)
        with bench.sending(sent.iq, tx_attenuation_db=attenuations[0]):
            for k, attenuation_db in enumerate(attenuations):
                bench.set(tx_attenuation_db=attenuation_db)
                heard = hear(bench, sent, _BURSTS)
                if heard.clipped > _CLIPPED_SHARE:
                    continue
                data_aided_db = measured_snr_db(heard)
                if math.isnan(data_aided_db):
                    break
                by_floor_db = noise_floor_snr_db(
                    heard, sent, levels.power(silence), levels.subcarrier_noise(silence)
                )
                table[:, repeat, k] = data_aided_db, by_floor_db, float(levels.dbfs(heard.power))
    seen = np.isfinite(table).all(axis=(0, 1))
    if seen.sum() < 2:
        raise CalibrationError(
            f"bursts are received unclipped at {int(seen.sum())} of {len(attenuations)} "
            "attenuations; check cable and "
            f"antenna, and rx_gain_db = {plan.rx_gain_db:g}"
        )
    data_aided, by_floor, level = table[:, :, seen]
    return Sweep(
        attenuation_db=np.array(attenuations)[seen],
        data_aided_db=data_aided,
        noise_floor_db=by_floor,
        level_dbfs=level,
    )


def measured_snr_db(heard: Hearing) -> float:
    """Data-aided Es/N0 over all bursts; NaN if none was received."""
    known = [r.measurement for r in heard.receptions if r.measurement.data_aided]
    return snr.combine(known).snr_db if known else math.nan


def noise_floor_snr_db(
    heard: Hearing, sent: CyclicBurst, silent_power: float, noise: float
) -> float:
    """Es/N0 per used subcarrier from powers; NaN where the signal adds none.

    Args:
        heard: capture with the signal on.
        sent: burst that is transmitted.
        silent_power: received power with the transmitter silent.
        noise: share of that power on one used subcarrier.
    """
    signal = (heard.power - silent_power) / sent.power / ofdm.N_USED
    return float(levels.dbfs(signal / noise)) if signal > 0 and noise > 0 else math.nan


def sweep_records(bench: Bench, plan: Plan, sweep: Sweep) -> list[CalibrationRecord]:
    """Records snr_data_aided, snr_noise_floor, burst_level by attenuation, and snr_disagreement."""
    gap, flags = _disagreement(sweep)
    curves = (
        ("snr_data_aided", "dB", sweep.data_aided_db),
        ("snr_noise_floor", "dB", sweep.noise_floor_db),
        ("burst_level", "dBFS", sweep.level_dbfs),
    )
    at = sweep.attenuation_db.tolist()
    return [
        *(
            bench.record(
                name, unit, values, axis="tx_attenuation_db", at=at, rx_gain_db=plan.rx_gain_db
            )
            for name, unit, values in curves
        ),
        bench.record("snr_disagreement", "dB", gap, rx_gain_db=plan.rx_gain_db, flags=flags),
    ]


def _disagreement(sweep: Sweep) -> tuple[NDArray[np.float64], Sequence[str]]:
    """Largest difference of the data-aided method, for each repeat; and flags."""
    middle = (sweep.data_aided_db.mean(axis=0) + sweep.noise_floor_db.mean(axis=0)) / 2
    inside = np.flatnonzero((middle >= RANGE_DB[0]) & (middle <= RANGE_DB[1]))
    if len(inside) == 0:
        found = f"{middle.min():.1f} to {middle.max():.1f} dB"
        flag = (
            f"no SNR from {RANGE_DB[0]:g} to {RANGE_DB[1]:g} dB to compare the methods at, "
            f"only {found}"
        )
        return np.full(len(sweep.data_aided_db), math.nan), (flag,)
    gaps = sweep.data_aided_db[:, inside] - sweep.noise_floor_db[:, inside]
    worst = int(np.argmax(np.abs(gaps.mean(axis=0))))
    gap_db = float(gaps[:, worst].mean())
    if abs(gap_db) <= AGREEMENT_DB:
        return gaps[:, worst], ()
    cause = (
        "distortion, phase noise or the image"
        if gap_db < 0
        else "an interferer that was there only in the silence"
    )
    return gaps[:, worst], (
        f"the methods differ by {gap_db:+.1f} dB at {middle[inside[worst]]:.1f} dB (limit "
        f"{AGREEMENT_DB:g} dB): "
        f"look for {cause}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Sets an SNR by a sweep: by the attenuator in its steps, by the digital level between them."""

    sweep: Sweep

    @property
    def range_db(self) -> tuple[float, float]:
        """SNRs that can be set."""
        curve = self._curve
        return float(curve[-1]), float(curve[0])

    @property
    def _curve(self) -> NDArray[np.float64]:
        """SNR by attenuation, made to fall."""
        return np.minimum.accumulate(self.sweep.data_aided_db.mean(axis=0))

    def settings(self, snr_db: float) -> tuple[float, float]:
        """(attenuation, digital backoff ≥ 0), both in dB, for an SNR.

        Raises:
            CalibrationError: it lies beyond what the bench reaches.
        """
        low_db, high_db = self.range_db
        # below the sweep the SNR falls by a decibel for each of attenuation
        wanted = float(np.interp(-snr_db, -self._curve, self.sweep.attenuation_db)) + max(
            0.0, low_db - snr_db
        )
        if snr_db > high_db or wanted > MAX_ATTENUATION_DB:
            raise CalibrationError(
                f"SNR of {snr_db:.1f} dB cannot be set: this bench reaches {low_db:.1f} to "
                f"{high_db:.1f} dB"
            )
        least_db = float(self.sweep.attenuation_db[0])
        attenuation_db = max(math.floor(wanted / _DIAL_STEP_DB) * _DIAL_STEP_DB, least_db)
        return attenuation_db, wanted - attenuation_db
