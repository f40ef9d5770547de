"""The table of schemes of a bench: block errors against the SNR that its own receiver measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from calibration.bench import Bench, Plan
from calibration.burst import blocks_in_a_cycle, cyclic_burst, hear
from calibration.mcs import BlerPoint, Counter, Waterfall, measure_waterfall
from calibration.record import CalibrationRecord
from calibration.snr_sweep import Dial, measured_snr_db
from hil.contract import CalibrationError
from hil.rounding import ceil_div
from radio.modem import mcs

_CAPTURE_SAMPLES: Final = 2**18
"""Longest capture: more blocks take several."""
_ABOVE_DB: Final = 0.25
"""The search begins so far above where the threshold is expected: passing blocks cost the decoder
least."""

OnScheme = Callable[[str], None]
"""Called with the name of the scheme that comes next."""


def bench_counter(bench: Bench, dial: Dial) -> Counter:
    """Counts blocks of a cyclic burst, at the SNR measured from the very bursts; the one that was
    set, if none came."""

    def count(place: int, snr_db: float, blocks: int, rng: np.random.Generator) -> BlerPoint:
        attenuation_db, backoff_db = dial.settings(snr_db)
        sent = cyclic_burst(place, blocks_in_a_cycle(place), rng, backoff_db=backoff_db)
        wanted = ceil_div(blocks, sent.header.block_count)
        at_once = max(1, _CAPTURE_SAMPLES // len(sent.iq) - 1)
        passed = bursts = 0
        measured: list[tuple[float, int]] = []
        with bench.sending(sent.iq, tx_attenuation_db=attenuation_db):
            while bursts < wanted:
                heard = hear(bench, sent, min(at_once, wanted - bursts))
                bursts += heard.bursts
                passed += sum(reception.n_passed for reception in heard.receptions)
                if heard.receptions:
                    measured.append((measured_snr_db(heard), len(heard.receptions)))
        total = bursts * sent.header.block_count
        values, weights = zip(*measured, strict=True) if measured else ((snr_db,), (1,))
        return BlerPoint(
            snr_db=float(np.average(values, weights=weights)), sent=total, lost=total - passed
        )

    return count


def measure_schemes(
    bench: Bench, plan: Plan, dial: Dial, on_scheme: OnScheme = lambda name: None
) -> list[CalibrationRecord]:
    """Records mcs_threshold and mcs_width by MCS, and bler_<MCS> by measured SNR for every scheme
    that was reached.

    A scheme that the bench cannot reach, or that was not asked for, keeps its place in the table:
    its loopback threshold, moved by as much as the nearest measured one was moved.

    Raises:
        CalibrationError: none was reached.
    """
    bench.set(rx_gain_db=plan.rx_gain_db)
    counter = bench_counter(bench, dial)
    found: dict[int, Waterfall] = {}
    missed: list[str] = []
    moved_db = 0.0
    for place in range(len(mcs.MCS_TABLE)) if plan.places is None else plan.places:
        scheme = mcs.MCS_TABLE[place]
        on_scheme(scheme.name)
        try:
            found[place] = measure_waterfall(
                counter,
                place,
                start_db=scheme.threshold_db + moved_db + _ABOVE_DB,
                blocks=plan.blocks,
                seed=plan.seed,
                least_width_db=scheme.width_db,
            )
        except CalibrationError as error:
            missed.append(f"{scheme.name}: {error}")
            continue
        moved_db = found[place].threshold_db - scheme.threshold_db
    if not found:
        raise CalibrationError(
            f"no scheme's block errors could be measured; the first: {missed[0]}"
        )
    return [*_table_records(bench, plan, found, missed), *_bler_records(bench, plan, found)]


def _table_records(
    bench: Bench, plan: Plan, found: Mapping[int, Waterfall], missed: list[str]
) -> list[CalibrationRecord]:
    thresholds, spreads, widths = [], [], []
    for place, scheme in enumerate(mcs.MCS_TABLE):
        nearest = min(found, key=lambda known: abs(known - place))
        moved_db = found[nearest].threshold_db - mcs.MCS_TABLE[nearest].threshold_db
        thresholds.append(scheme.threshold_db + moved_db)
        spreads.append(found[place].threshold_std_db if place in found else math.nan)
        widths.append(found[place].width_db if place in found else scheme.width_db)
    at = [scheme.index for scheme in mcs.MCS_TABLE]
    n = min(sum(point.sent for point in waterfall.points) for waterfall in found.values())
    estimated = [mcs.MCS_TABLE[k].index for k in range(len(mcs.MCS_TABLE)) if k not in found]
    notes = (
        [f"not measured, moved like their neighbours: MCS {', '.join(map(str, estimated))}"]
        if estimated
        else []
    )
    known: dict[str, Any] = {
        "n": n,
        "axis": "mcs",
        "at": at,
        "rx_gain_db": plan.rx_gain_db,
        "notes": notes,
    }
    return [
        bench.stated("mcs_threshold", "dB", thresholds, spreads, flags=missed, **known),
        bench.stated("mcs_width", "dB", widths, [math.nan] * len(widths), **known),
    ]


def _bler_records(
    bench: Bench, plan: Plan, found: Mapping[int, Waterfall]
) -> list[CalibrationRecord]:
    records = []
    for place, waterfall in found.items():
        points = sorted(waterfall.points, key=lambda point: point.snr_db)
        lost = [point.lost / point.sent for point in points]
        spread = [
            math.sqrt(p * (1 - p) / point.sent) for p, point in zip(lost, points, strict=True)
        ]
        records.append(
            bench.stated(
                f"bler_{mcs.MCS_TABLE[place].index}",
                "",
                lost,
                spread,
                n=points[0].sent,
                axis="snr_db",
                at=[point.snr_db for point in points],
                rx_gain_db=plan.rx_gain_db,
            )
        )
    return records
