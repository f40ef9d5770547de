"""The noise floor of a receiver and its DC offset, gain by gain, with the transmitter silent."""

from __future__ import annotations

import numpy as np

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.record import CalibrationRecord


def measure_noise(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Records noise_floor (whole sampled band), noise_per_subcarrier (what an SNR rests on) and
    dc_offset by gain."""
    bench.silence()
    floors, densities, constants = (
        np.empty((plan.repeats, len(plan.rx_gains_db))) for _ in range(3)
    )
    for repeat in range(plan.repeats):
        for k, gain_db in enumerate(plan.rx_gains_db):
            bench.set(rx_gain_db=gain_db)
            iq = bench.capture(plan.samples)
            noise = levels.power(iq)
            floors[repeat, k] = noise
            densities[repeat, k] = levels.subcarrier_noise(iq)
            # the mean of noise alone has that noise's power over the number of samples
            constants[repeat, k] = abs(iq.mean(dtype=np.complex128)) ** 2 - noise / len(iq)
    chance = floors.mean(axis=0) / plan.samples
    hidden = [
        g
        for g, level, c in zip(plan.rx_gains_db, constants.mean(axis=0), chance, strict=True)
        if level < 4 * c
    ]
    notes = (
        (f"at gains {', '.join(f'{g:g}' for g in hidden)} dB it does not stand out of the noise",)
        if hidden
        else ()
    )
    constants = np.maximum(constants, chance)
    return [
        bench.record(
            name, "dBFS", levels.dbfs(values), axis="rx_gain_db", at=plan.rx_gains_db, notes=said
        )
        for name, values, said in (
            ("noise_floor", floors, ()),
            ("noise_per_subcarrier", densities, ()),
            ("dc_offset", constants, notes),
        )
    ]
