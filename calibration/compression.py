"""Usable window of received levels: compression at the top, noise at the bottom."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.burst import cyclic_burst
from calibration.gain import calibration_tone, heard_tone
from calibration.record import CalibrationRecord
from hil.contract import IQ, CalibrationError
from radio.modem import mcs
from radio.pluto.settings import MAX_ATTENUATION_DB

_DEPARTURE_DB: Final = 1.0
"""Off the straight line: the usual mark of compression."""
_NOISE_UNDER_DB: Final = 10 * math.log10(10 ** (_DEPARTURE_DB / 10) - 1)
"""Noise relative to a signal to which it adds 1 dB."""
_CLIPPED_SHARE: Final = 1e-4
"""More clipped samples than this are outside the usable window."""
_TOP_DBFS: Final = 6.0
"""Level of the strongest tone if nothing gave way: beyond what a converter can show."""
_ABOVE_LEAST_DB: Final = (24.0, 22.0, 20.0, 18.0, 16.0, 14.0, *np.arange(12.0, -0.5, -1.0).tolist())
"""Attenuations of a sweep, over the least allowed one."""
_LINEAR_DBFS: Final = -10.0
"""Levels below make the straight line."""
_SURELY_LINEAR_DBFS: Final = -20.0

Read = Callable[[], tuple[float, float]]
"""→ level in dBFS, share of clipped samples."""


def measure_compression(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Records compression_level, usable_high and usable_low, dBFS.

    The first is the received tone that has fallen 1 dB short of a straight line. The others are rms
    levels of the modem's bursts: above, they fall 1 dB short or one sample in 10,000 is clipped;
    below, noise adds 1 dB. The gain is raised until the strongest tone allowed would overdrive the
    converter, so that what bends is the receiver.
    """
    tone, sent = (
        calibration_tone(),
        cyclic_burst(mcs.slowest(robust=False).place, 1, np.random.default_rng([plan.seed, 1])).iq,
    )
    with bench.sending(tone, tx_attenuation_db=plan.tx_attenuation_db):
        gain_db = _overdriving_gain_db(bench, plan)
    bench.set(rx_gain_db=gain_db)
    noise = [levels.power(bench.capture(plan.samples)) for _ in range(plan.repeats)]

    def read_tone() -> tuple[float, float]:
        return float(levels.dbfs(heard_tone(bench, bench.capture(plan.samples)).power)), 0.0

    def read_burst() -> tuple[float, float]:
        iq = bench.capture(2 * len(sent))
        return float(levels.dbfs(levels.power(iq) - np.mean(noise))), levels.clipped_share(iq)

    tones, bursts = (
        _ends(bench, plan, iq, read) for iq, read in ((tone, read_tone), (sent, read_burst))
    )
    low = levels.dbfs(noise) - _NOISE_UNDER_DB
    return [
        bench.record(name, "dBFS", values, rx_gain_db=gain_db, flags=flags)
        for name, values, flags in (
            ("compression_level", tones[:, 0], _unreached(tones)),
            ("usable_high", bursts[:, 1], _unreached(bursts)),
            ("usable_low", low, ()),
        )
    ]


def _unreached(ends: NDArray[np.float64]) -> tuple[str, ...]:
    if ends[:, 2].all():
        return ()
    return (
        "not reached: the value is the strongest level seen; a path with less loss would show "
        "where it ends",
    )


def _overdriving_gain_db(bench: Bench, plan: Plan) -> float:
    """The gain at which the tone that goes out would stand at _TOP_DBFS, or the end of the range
    next to it."""
    level_dbfs, more_db = math.inf, 0.0
    while (
        level_dbfs > _SURELY_LINEAR_DBFS and plan.tx_attenuation_db + more_db <= MAX_ATTENUATION_DB
    ):
        bench.set(rx_gain_db=plan.rx_gain_db, tx_attenuation_db=plan.tx_attenuation_db + more_db)
        level_dbfs = float(levels.dbfs(heard_tone(bench, bench.capture(plan.samples)).power))
        more_db += 15.0
    wanted_db = plan.rx_gain_db + math.floor(_TOP_DBFS - (level_dbfs + more_db - 15.0))
    return float(np.clip(wanted_db, min(plan.rx_gains_db), max(plan.rx_gains_db)))


def _ends(bench: Bench, plan: Plan, iq: IQ, read: Read) -> NDArray[np.float64]:
    """Results of _end for every repeat of a sweep from weak to strong, [repeats, 3]."""
    attenuations = plan.tx_attenuation_db + np.array(_ABOVE_LEAST_DB)
    attenuations = attenuations[attenuations <= MAX_ATTENUATION_DB]
    ends = []
    with bench.sending(iq, tx_attenuation_db=float(attenuations[0])):
        for _ in range(plan.repeats):
            seen = []
            for attenuation_db in attenuations:
                bench.set(tx_attenuation_db=float(attenuation_db))
                seen.append(read())
            ends.append(_end(attenuations, *np.array(seen).T))
    return np.array(ends)


def _end(
    attenuation_db: NDArray[np.float64],
    level_dbfs: NDArray[np.float64],
    clipped: NDArray[np.float64],
) -> tuple[float, float, bool]:
    """The level 1 dB short of the straight line, the last one that is usable, and whether the sweep
    shows both.

    Where it does not, both are the strongest level seen.

    Raises:
        CalibrationError: no straight line.
    """
    linear = level_dbfs < _LINEAR_DBFS
    if linear.sum() < 3:
        raise CalibrationError(
            f"compression: {int(linear.sum())} levels below {_LINEAR_DBFS:g} dBFS, 3 are needed "
            "for a straight line; "
            "raise tx_attenuation_db"
        )
    short_db = np.mean((level_dbfs + attenuation_db)[linear]) - attenuation_db - level_dbfs
    bent = np.flatnonzero(short_db >= _DEPARTURE_DB)
    unusable = np.flatnonzero((short_db >= _DEPARTURE_DB) | (clipped > _CLIPPED_SHARE))
    strongest = float(level_dbfs.max())
    usable = float(level_dbfs[max(unusable[0] - 1, 0)]) if len(unusable) else strongest
    if len(bent) == 0 or bent[0] == 0:
        return strongest, usable, len(unusable) > 0
    k = int(bent[0])
    share = (_DEPARTURE_DB - short_db[k - 1]) / (short_db[k] - short_db[k - 1])
    return float(level_dbfs[k - 1] + share * (level_dbfs[k] - level_dbfs[k - 1])), usable, True
