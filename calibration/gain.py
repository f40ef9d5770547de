"""Real steps of receive gain and transmit attenuation.

A receiver sees 60 dB at once at most, the settings span more. So a curve is a chain: two
neighbouring settings are measured under the same setting of the other knob, which is moved between
the pairs to keep the tone within the receiver's range. Nothing is taken from the other knob but
that it stands still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.record import CalibrationRecord
from hil.contract import IQ, CalibrationError
from radio.pluto.settings import MAX_ATTENUATION_DB

TONE: Final = 5 / 64
"""Cycles per sample: off DC, its image and its first harmonics off each other."""
TONE_AMPLITUDE: Final = 0.5
TONE_SAMPLES: Final = 4096
MAX_CFO: Final = 1 / 16
"""Largest offset of the received tone from the sent one, cycles per sample: twice what the modem
takes."""
_TOP_DBFS: Final = -12.0
"""The tone stays below: far from clipping and compression."""
_OVERDRIVEN_DBFS: Final = -4.0
"""A tone at this level or above is not trusted."""
_LOW_DBFS: Final = -32.0
"""A tone below this level is brought up by the other knob."""
_CLEAR_DB: Final = 25.0
"""The tone must stand so far out of the noise in its place: then that moves it by less than 0.1
dB."""
_ATTENUATION_STEP_DB: Final = 0.25

_LEAST_DBFS: Final = -54.0
"""Weakest tone that is used: a weaker one is a few steps of the converter high and changes its
level."""
_MOVES: Final = 4
"""Moves of the other knob between two settings: a tone that overdrives the receiver looks weaker
than it is."""

Measure = Callable[[float, float], levels.Line]
"""(the knob that is measured, the other one) → the tone as received."""


def calibration_tone(amplitude: float = TONE_AMPLITUDE) -> IQ:
    """The tone that levels are measured by, for a cyclic buffer."""
    return levels.tone(TONE, TONE_SAMPLES, amplitude)


def heard_tone(bench: Bench, iq: IQ) -> levels.Line:
    """The calibration tone in samples off the bench. Raises CalibrationError if it is not there."""
    return levels.find_line(iq, TONE + bench.lo_difference_hz / bench.rate_hz, MAX_CFO)


def measure_rx_gain(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Record rx_gain: real gain of each setting; the lowest that can be heard counts as exact."""

    def measure(gain_db: float, attenuation_db: float) -> levels.Line:
        bench.set(rx_gain_db=gain_db, tx_attenuation_db=attenuation_db)
        return heard_tone(bench, bench.capture(plan.samples))

    def quieter(attenuation_db: float, excess_db: float) -> float:
        moved = attenuation_db + np.ceil(excess_db / _ATTENUATION_STEP_DB) * _ATTENUATION_STEP_DB
        return float(np.clip(moved, plan.tx_attenuation_db, MAX_ATTENUATION_DB))

    with bench.sending(calibration_tone(), tx_attenuation_db=plan.tx_attenuation_db):
        chains = [
            _chain(measure, plan.rx_gains_db, plan.tx_attenuation_db, quieter, sign=1)
            for _ in range(plan.repeats)
        ]
    return [_curve(bench, "rx_gain", "rx_gain_db", plan.rx_gains_db, chains)]


def measure_tx_attenuation(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Record tx_attenuation: real attenuation of each setting; the lowest one counts as exact."""
    low_db, high_db = min(plan.rx_gains_db), max(plan.rx_gains_db)

    def measure(attenuation_db: float, gain_db: float) -> levels.Line:
        bench.set(rx_gain_db=gain_db, tx_attenuation_db=attenuation_db)
        return heard_tone(bench, bench.capture(plan.samples))

    def quieter(gain_db: float, excess_db: float) -> float:
        return float(np.clip(gain_db - np.ceil(excess_db), low_db, high_db))

    start_db = min(max(plan.rx_gain_db, low_db), high_db)
    with bench.sending(calibration_tone(), tx_attenuation_db=plan.tx_attenuation_db):
        chains = [
            _chain(measure, plan.attenuations_db, start_db, quieter, sign=-1)
            for _ in range(plan.repeats)
        ]
    return [_curve(bench, "tx_attenuation", "tx_attenuation_db", plan.attenuations_db, chains)]


def _chain(
    measure: Measure,
    knob: Sequence[float],
    other: float,
    quieter: Callable[[float, float], float],
    *,
    sign: int,
) -> list[float]:
    """Real value of every setting, dB; the first that can be heard counts as exact, others are NaN.

    Args:
        measure: sets both knobs.
        knob: settings, rising.
        other: first setting of the other knob.
        quieter: (other, dB) → the other knob moved to lower the level by so much, within its range.
        sign: +1 if the level rises with the knob, else -1.
    """
    real = [math.nan] * len(knob)
    line: levels.Line | None = None
    for k in range(len(knob) - 1):
        rise_db = sign * (knob[k + 1] - knob[k])
        line = line or _heard(measure, knob[k], other)
        for _ in range(_MOVES):
            peak_db = (_level_dbfs(line) if line else _LEAST_DBFS) + max(rise_db, 0.0)
            moved = (
                other if _LOW_DBFS <= peak_db <= _TOP_DBFS else quieter(other, peak_db - _TOP_DBFS)
            )
            if moved == other:
                break
            other, line = moved, _heard(measure, knob[k], moved)
        following = _heard(measure, knob[k + 1], other)
        if line and following and max(_level_dbfs(line), _level_dbfs(following)) < _OVERDRIVEN_DBFS:
            real[k] = knob[k] if math.isnan(real[k]) else real[k]
            real[k + 1] = real[k] + sign * (_level_dbfs(following) - _level_dbfs(line))
        elif not np.isnan(real).all():
            break  # the chain is cut: what lies beyond has no link to its beginning
        line = following
    return real


def _heard(measure: Measure, knob: float, other: float) -> levels.Line | None:
    """The tone, or None where it cannot be measured well: too weak for the converter, or in the
    noise."""
    try:
        line = measure(knob, other)
    except CalibrationError:
        return None
    clear = line.power > 10 ** (_CLEAR_DB / 10) * line.noise and _level_dbfs(line) > _LEAST_DBFS
    return line if clear else None


def _level_dbfs(line: levels.Line) -> float:
    return float(levels.dbfs(line.power))


def _curve(
    bench: Bench, quantity: str, axis: str, knob: Sequence[float], chains: Sequence[Sequence[float]]
) -> CalibrationRecord:
    """The chains as one record over the settings that all of them reach.

    Raises:
        CalibrationError: fewer than two.
    """
    table = np.array(chains)
    reached = np.isfinite(table).all(axis=0)
    at = [setting for setting, there in zip(knob, reached, strict=True) if there]
    if len(at) < 2:
        raise CalibrationError(
            f"{quantity}: the tone is not clear between {_LEAST_DBFS:g} and {_TOP_DBFS:g} dBFS at "
            "two neighbouring "
            f"settings of {axis}; lower tx_attenuation_db or the loss of the path"
        )
    notes = (
        [f"reached from {at[0]:g} to {at[-1]:g} dB of {knob[0]:g} to {knob[-1]:g}"]
        if len(at) < len(knob)
        else []
    )
    worst = int(np.argmax(np.abs(table[:, reached].mean(axis=0) - at)))
    notes.append(
        f"furthest from its setting: {table[:, reached].mean(axis=0)[worst] - at[worst]:+.2f} dB "
        f"at {at[worst]:g}"
    )
    return bench.record(quantity, "dB", table[:, reached], axis=axis, at=at, notes=notes)
