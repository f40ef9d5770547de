"""Carrier offset and sample clock offset, from two tones.

A tone sent at f is received at Δ + (1 + c) f: the carriers differ by Δ, the sample clocks by the
share c. Two tones give both. The oscillators' phase noise moves both tones alike, so that it
does not touch c.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.gain import MAX_CFO
from calibration.record import CalibrationRecord

_TONES: Final = (5 / 16, -3 / 8)
"""Cycles per sample: far apart, and neither on the other's image."""
_AMPLITUDE: Final = 0.35
_PERIOD_SAMPLES: Final = 4096
_CAPTURES: Final = 2
"""Times the plan's samples: the longer, the finer."""


def measure_offsets(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Records cfo (ppm of the carrier), cfo_hz, and clock_offset (ppm): the transmitter over the
    receiver."""
    iq = levels.tone(_TONES[0], _PERIOD_SAMPLES, _AMPLITUDE) + levels.tone(
        _TONES[1], _PERIOD_SAMPLES, _AMPLITUDE
    )
    bench.set(rx_gain_db=plan.rx_gain_db)
    known = bench.lo_difference_hz / bench.rate_hz
    found = []
    with bench.sending(iq, tx_attenuation_db=plan.tx_attenuation_db):
        for _ in range(plan.repeats):
            heard = bench.capture(_CAPTURES * plan.samples)
            high, low = (
                levels.find_line(heard, tone + known, MAX_CFO).frequency for tone in _TONES
            )
            stretch = (high - low) / (_TONES[0] - _TONES[1])
            offset = (high + low - stretch * sum(_TONES)) / 2 - known
            found.append((offset * bench.rate_hz, stretch - 1))
    cfo_hz, stretch_ppm = np.array(found).T * [[1.0], [1e6]]
    notes = (
        ("transmitter and receiver share one oscillator: zero by construction",)
        if bench.one_oscillator
        else ()
    )
    return [
        bench.record(
            name,
            unit,
            values,
            rx_gain_db=plan.rx_gain_db,
            tx_attenuation_db=plan.tx_attenuation_db,
            notes=notes,
        )
        for name, unit, values in (
            ("cfo", "ppm", cfo_hz / bench.lo_hz * 1e6),
            ("cfo_hz", "Hz", cfo_hz),
            ("clock_offset", "ppm", stretch_ppm),
        )
    ]
