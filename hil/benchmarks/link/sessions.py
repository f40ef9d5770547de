"""Studies of the link: payloads delivered, fades, repair blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from hil.benchmarks.link import session_trials
from hil.benchmarks.link.bars import (
    Bar,
    Point,
    mean,
    number,
    point_json,
    rate,
    threshold,
)
from hil.benchmarks.link.study import Results, Summary, Task
from radio.modem import mcs

_MB: Final = 1_000_000

# -------------------------------------------------------------------------------------------------
# delivery

_DELIVERY_PLACE: Final = 5
"""16-QAM, 1.48 bits a symbol: 2 Mbit/s at 2 MS/s."""
_ONE_PER_CENT_DB: Final = 0.09
"""So far above its threshold of 10 % that scheme loses 1 % of its blocks, measured over 2 MB
payloads: the waterfall is steeper at its foot than the table's curve, which is fitted to its upper
part."""
_BLER: Final = 0.01


def delivery_tasks(quick: bool) -> list[Task]:
    """2 MB at a fixed MCS and 1 % of blocks lost; and adapting."""
    snr_db = round(mcs.MCS_TABLE[_DELIVERY_PLACE].threshold_db + _ONE_PER_CENT_DB, 2)
    tasks = []
    for place in (_DELIVERY_PLACE,) if quick else (_DELIVERY_PLACE, None):
        settings = {"snr_db": snr_db, "payload_bytes": 2 * _MB, "place": place}
        tasks += [Task(session_trials.deliver, settings, 60)] * (1 if quick else 6)
    return tasks


def delivery_bars(results: Results) -> Summary:
    """Time that the payload's blocks take, over the time that passed until all were known to be
    there."""
    bars = []
    for fixed in (True, False):
        own = [r for r in results["delivery"] if r["fixed"] == fixed]
        if not own:
            continue
        ideal_s = session_trials.ideal_airtime_s(own[0]["payload_bytes"], _DELIVERY_PLACE)
        shares = [ideal_s / r["elapsed_s"] if r["delivered"] else 0.0 for r in own]
        lost, sent = sum(r["blocks_lost"] for r in own), sum(r["blocks"] for r in own)
        bars.append(
            Bar(
                study="delivery",
                name=f"{own[0]['payload_bytes'] / _MB:g} MB at 2 Mbit/s, 50 ms feedback, "
                + (
                    "1 % of blocks lost: ideal airtime / time"
                    if fixed
                    else "MCS adapting: the same"
                ),
                estimate=mean(shares),
                trials=len(own),
                of="payloads",
                bar=0.90 if fixed else None,
                reach=0.95 if fixed else None,
                note=f"{own[0]['snr_db']:g} dB; {lost} of {sent} blocks lost "
                f"({number(100 * lost / max(sent, 1))} %); "
                "airtime alone: "
                f"{number(float(np.mean([ideal_s / r['airtime_s'] for r in own])))}; "
                f"{_mcs_used(own)}",
            )
        )
    return bars, {"runs": results["delivery"]}


def _mcs_used(runs: Sequence[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for r in runs:
        for name, n in r["by_mcs"].items():
            counts[name] = counts.get(name, 0) + n
    total = sum(counts.values())
    return ", ".join(
        f"{name} {100 * n / total:.0f} %" for name, n in sorted(counts.items(), key=lambda c: -c[1])
    )


# ------------------------------------------------------------------------------------------------
# payloads

_CASES: Final[dict[str, tuple[dict[str, Any], int, int, float | None, float | None]]] = {
    # name → settings, payloads, payloads in the short form, bar, reach for the share delivered
    "2 MB at 12 dB over indoor_nlos": (
        {"snr_db": 12.0, "payload_bytes": 2 * _MB, "preset": "indoor_nlos"},
        8,
        0,
        1,
        None,
    ),
    "the same at 0 dB": (
        {
            "snr_db": 0.0,
            "payload_bytes": 2 * _MB,
            "preset": "indoor_nlos",
            "elapsed_limit_s": 900.0,
        },
        4,
        0,
        1,
        None,
    ),
    "the same at 12 dB, receiver restarted in the middle": (
        {"snr_db": 12.0, "payload_bytes": 2 * _MB, "preset": "indoor_nlos", "restart_after_s": 2.0},
        4,
        0,
        1,
        None,
    ),
    "100 kB at 12 dB over indoor_nlos": (
        {"snr_db": 12.0, "payload_bytes": 100_000, "preset": "indoor_nlos"},
        40,
        2,
        None,
        None,
    ),
    "100 kB at 12 dB over indoor_nlos, receiver restarted": (
        {"snr_db": 12.0, "payload_bytes": 100_000, "preset": "indoor_nlos", "restart_after_s": 0.1},
        40,
        1,
        None,
        None,
    ),
    "10 kB at -5 dB, robust": ({"snr_db": -5.0, "payload_bytes": 10_000}, 100, 2, 0.95, None),
    "10 kB at -8 dB, robust": ({"snr_db": -8.0, "payload_bytes": 10_000}, 100, 2, None, 0.95),
}
_UNUSABLE: Final = "unusable at -10 dB"


def session_tasks(quick: bool) -> list[Task]:
    """Payloads over fading and noisy channels, and one on which nothing gets through."""
    tasks = []
    for name, (settings, n, n_quick, _, _) in _CASES.items():
        weight = (
            settings["payload_bytes"]
            / (2 + settings["snr_db"] if settings["snr_db"] >= 0 else 0.3)
            / 1e3
        )
        tasks += [Task(session_trials.deliver, {**settings, "case": name}, weight)] * (
            n_quick if quick else n
        )
    unusable = {"snr_db": -10.0, "payload_bytes": 10_000, "case": _UNUSABLE}
    return tasks + [Task(session_trials.deliver, unusable, 20)] * (2 if quick else 50)


def session_bars(results: Results) -> Summary:
    """Shares delivered, goodput against capacity, and what the link says where nothing works."""
    bars = []
    for name, (_, _, _, bar, reach) in _CASES.items():
        own = [r for r in results["sessions"] if r["case"] == name]
        if own:
            bars.append(_delivered_bar(name, own, bar, reach))
    dead = [r for r in results["sessions"] if r["case"] == _UNUSABLE]
    told = sum(not r["delivered"] and not r["wrong"] and bool(r["reason"]) for r in dead)
    bars.append(
        Bar(
            study="sessions",
            name="10 kB at -10 dB: the link ends and says why",
            estimate=rate(told, len(dead)),
            trials=len(dead),
            of="payloads",
            bar=1.0,
            note=f"“{dead[0]['reason']}”; at most {number(max(r['elapsed_s'] for r in dead))} s "
            "on the link's clock, "
            f"{number(max(r['wall_s'] for r in dead))} s of computing",
        )
    )
    return bars, {"runs": results["sessions"]}


def _delivered_bar(
    name: str, own: Sequence[dict[str, Any]], bar: float | None, reach: float | None
) -> Bar:
    done = [r for r in own if r["delivered"]]
    capacity = own[0]["capacity_bps"]
    goodput = mean([r["goodput_bps"] for r in own])
    lost, sent = sum(r["blocks_lost"] for r in own), sum(r["blocks"] for r in own)
    note = (
        f"goodput {number(goodput.figure / 1e6)} [{number(goodput.low / 1e6)}, "
        f"{number(goodput.high / 1e6)}] Mbit/s, "
        f"waiting counted; capacity, mean over fades: {number(capacity / 1e6)} Mbit/s, "
        f"share {number(goodput.figure / capacity)}; "
        f"{number(100 * lost / max(sent, 1))} % of blocks lost; "
        f"{_mcs_used(own) if sent else 'nothing sent'}"
    )
    if any(r["restart_wanted"] for r in own):
        note += f"; restarted in {sum(r['restarted'] for r in own)} of {len(own)}"
    if len(done) < len(own):
        note += f"; not delivered: “{next(r['reason'] for r in own if not r['delivered'])}”"
    return Bar(
        study="sessions",
        name=f"{name}: delivered",
        estimate=rate(len(done), len(own)),
        trials=len(own),
        of="payloads",
        bar=bar,
        reach=reach,
        note=note,
    )


def goodput_tasks(quick: bool) -> list[Task]:
    """An adapting link over noise alone, at many SNRs."""
    tasks = []
    for snr_db in (0, 15) if quick else range(-6, 31, 2):
        size = 40_000 if quick or snr_db < 0 else 400_000
        settings = {"snr_db": float(snr_db), "payload_bytes": size}
        task = Task(session_trials.deliver, settings, 30 / (2 + max(snr_db, 0)))
        tasks += [task] * (1 if quick else 2)
    return tasks


def goodput_bars(results: Results) -> Summary:
    """Measured only: the curve is drawn."""
    runs = results["goodput"]
    done = [r for r in runs if r["delivered"]]
    shares = [r["goodput_bps"] / r["capacity_bps"] for r in done if r["snr_db"] >= 0]
    bars = [
        Bar(
            study="goodput",
            name="adapting link, noise alone, 0..30 dB: goodput / capacity, everything counted",
            estimate=mean(shares),
            trials=len(shares),
            of="payloads",
            note=f"{max(r['payload_bytes'] for r in runs) // 1000} kB; sounding, headers, waiting "
            "and repeats counted; "
            f"smallest {number(min(shares, default=math.nan))}, largest "
            f"{number(max(shares, default=math.nan))}",
        )
    ]
    keys = (
        "snr_db",
        "goodput_bps",
        "capacity_bps",
        "delivered",
        "airtime_s",
        "elapsed_s",
        "payload_bytes",
    )
    return bars, {"runs": [{key: r[key] for key in keys} for r in runs]}


# ------------------------------------------------------------------------------------------------
# fades

_FADE_PLACE: Final = 6
"""16-QAM at R = 0.48."""
_FADE_DB: Final = (5, 8, 11, 14, 17, 20, 23, 25, 28)
_FLOOR_DB: Final = 25
_CODE_GAP_DB: Final = 1.1
"""What 16-QAM at R = 0.48 needs without fading, receiver included, above the limit of its
constellation."""


def fade_tasks(quick: bool) -> list[Task]:
    """Bursts over TDL-C, 300 ns, 5 Hz, 4 MS/s, a fade each; and the fades alone."""
    tasks = []
    for snr_db in (11, 25) if quick else _FADE_DB:
        parts = 1 if quick else 8 if snr_db == _FLOOR_DB else 2
        settings = {
            "place": _FADE_PLACE,
            "snr_db": float(snr_db),
            "bursts": 60 if quick else 1000,
            "n_blocks": 2,
        }
        tasks += [Task(session_trials.fade_losses, settings, 30)] * parts
    for backoff_db in (0.0, _CODE_GAP_DB):
        levels = {"snr_db": [float(s) for s in range(31)], "fades": 4_000 if quick else 60_000}
        tasks.append(
            Task(
                session_trials.outage, {"place": _FADE_PLACE, "backoff_db": backoff_db, **levels}, 3
            )
        )
    return tasks


def fade_bars(results: Results) -> Summary:
    """Block errors against SNR, and at 25 dB what they come from."""
    groups: dict[float, list[dict[str, Any]]] = {}
    for r in results["fades"][:-2]:
        groups.setdefault(r["snr_db"], []).append(r)
    limits = results["fades"][-2:]
    points = []
    for snr_db, own in groups.items():
        lost = tuple(itertools.chain.from_iterable(r["lost"] for r in own))
        points.append(Point(snr_db, lost, (own[0]["n_blocks"],) * len(lost)))
    name = mcs.MCS_TABLE[_FADE_PLACE].name
    top = next(p for p in points if p.snr_db == _FLOOR_DB)
    causes = {
        key: sum(r["by_cause"][key] for r in groups[_FLOOR_DB])
        for key in groups[_FLOOR_DB][0]["by_cause"]
    }
    outage = {limit["backoff_db"]: limit["outage"][_FLOOR_DB] for limit in limits}
    bars = [
        Bar(
            study="fades",
            name=f"{name}, TDL-C 300 ns, 5 Hz, 4 MS/s: blocks lost at {_FLOOR_DB} dB",
            estimate=top.estimate,
            trials=len(top.sent),
            of="fades",
            bar=1e-3,
            higher=False,
            note=f"{top.blocks} blocks; bursts hurt by missed preamble {causes['sync']}, header "
            f"{causes['header']}, "
            f"blocks {causes['blocks']}; fades that no receiver survives {number(outage[0.0])}, "
            "with this code's gap "
            f"to capacity {number(outage[_CODE_GAP_DB])}",
        ),
        Bar(
            study="fades",
            name=f"{name}, TDL-C 300 ns, 5 Hz, 4 MS/s: 10 % of blocks lost at",
            estimate=threshold(points),
            unit="dB mean SNR",
            trials=sum(len(p.sent) for p in points),
            of="fades",
        ),
    ]
    return bars, {"name": name, "points": point_json(points), "outage": limits}


# ------------------------------------------------------------------------------------------------
# repair


def repair_tasks(quick: bool) -> list[Task]:
    """50 kB payloads, one window each, with repair blocks and without."""
    size = {"payload_bytes": 50_000, "payloads": 10 if quick else 250}
    tasks = []
    for repair in (False, True):
        settings = {**size, "places": (3, 6, 9, 14), "loss": _BLER, "repair": repair}
        tasks += [Task(session_trials.one_window, settings, 15)] * (1 if quick else 4)
    return tasks


def repair_bars(results: Results) -> Summary:
    """Share of payloads that one window was enough for."""
    bars = []
    for repair, words in ((False, "without repair blocks"), (True, "with repair blocks")):
        own = [r for r in results["repair"] if r["repair"] == repair]
        payloads, complete = sum(r["payloads"] for r in own), sum(r["complete"] for r in own)
        airtime = mean(np.concatenate([r["airtime_s"] for r in own]))
        blocks = mean(np.concatenate([r["blocks"] for r in own]))
        bars.append(
            Bar(
                study="repair",
                name=f"50 kB whole after one window, {words}",
                estimate=rate(complete, payloads),
                trials=payloads,
                of="payloads",
                note=f"where {100 * _BLER:g} % of blocks are expected to be lost, MCS at random; "
                f"{number(blocks.figure)} blocks and {number(airtime.figure)} s of air on average",
            )
        )
    return bars, {}
