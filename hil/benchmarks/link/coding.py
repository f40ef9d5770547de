"""Studies of coding: waterfalls without and with the receiver, impairments, goodput against
capacity, combining."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from hil.benchmarks.link import bounds
from hil.benchmarks.link import curves as error_curves
from hil.benchmarks.link.bars import Bar, Estimate, Point, number, point_json, rate, threshold
from hil.benchmarks.link.study import (
    REFERENCE_DB,
    Results,
    Summary,
    Task,
    base_db,
    difference,
    finite,
    start_db,
    thresholds,
)
from radio.modem import framing, mcs

_GOODPUT_BAR: Final = {2: (0.47, 0.5), 4: (0.50, 0.55)}
"""QPSK and 16-QAM: share of capacity, and reach."""
BURST_BLOCKS: Final = 32
_WALK_BLOCKS: Final = {False: 4000, True: 100}
LIQUID_DB, LIQUID_BITS_PER_S_HZ = 9.25, 0.98
"""16-QAM OFDM frames of liquid-dsp at its best soft setting: SNR needed, bits per second and
hertz."""


def _places(quick: bool) -> Sequence[int]:
    return (3, 6, 10, 16) if quick else range(len(mcs.MCS_TABLE))


def genie_tasks(quick: bool) -> list[Task]:
    """A curve of every MCS without receiver."""
    return [
        Task(
            error_curves.genie_curve,
            {
                "place": k,
                "walk": error_curves.Walk(
                    start_db=start_db(k) - 0.5,
                    step_db=0.2 if quick else 0.1,
                    blocks=_WALK_BLOCKS[quick] * (1 + quick),
                    floor=0.05 if quick else 0.001,
                ),
            },
            weight=20,
        )
        for k in _places(quick)
    ]


def genie_bars(results: Results) -> Summary:
    """10 % points against the table."""
    bars, curves = [], []
    for r in results["genie"]:
        scheme, points = mcs.MCS_TABLE[r["place"]], r["points"]
        wanted = REFERENCE_DB.get(scheme.index)
        bars.append(
            Bar(
                study="genie",
                name=f"{scheme.name}: 10 % of blocks lost at",
                estimate=threshold(points),
                unit="dB",
                trials=sum(p.blocks for p in points),
                of="blocks",
                higher=False,
                bar=None if wanted is None else wanted + 0.3,
                reach=None if wanted is None else wanted - 0.2,
            )
        )
        curves.append(_curve_json(r["place"], points))
    return bars, {"curves": curves}


def _curve_json(place: int, points: Sequence[Point]) -> dict[str, Any]:
    """A curve with its bounds: Shannon, and the normal approximation for the block's length."""
    scheme = mcs.MCS_TABLE[place]
    symbols = framing.LONG.coded_bits(scheme) // scheme.bits_per_symbol
    bits = framing.LONG.code.info_bits / symbols
    bound_db = {
        f"{bler:g}": round(bounds.finite_length_db(bits, symbols, bler, scheme.bits_per_symbol), 3)
        for bler in (0.5, 0.1, 0.01, 0.001)
    }
    estimate = threshold(points)
    return {
        "mcs": scheme.index,
        "name": scheme.name,
        "bits_per_symbol": scheme.bits_per_symbol,
        "efficiency": bits,
        "symbols": symbols,
        "points": point_json(points),
        "threshold_db": finite(estimate.figure),
        "shannon_db": bounds.shannon_limit_db(bits),
        "normal_approximation_db": bound_db,
        "normal_approximation_gaussian_db": bounds.finite_length_db(bits, symbols, 0.1),
        "reference_db": REFERENCE_DB.get(scheme.index),
    }


def chain_trial(rng: np.random.Generator, **settings: Any) -> dict[str, Any]:
    """A curve over the clean channel, then the goodput 1 dB above its own threshold."""
    goodput_bursts = settings.pop("goodput_bursts")
    curve = error_curves.chain_curve(rng, **settings)
    own = threshold(curve["points"])
    if not math.isfinite(own.figure):
        return {**curve, "goodput": None}
    goodput = error_curves.burst_goodput(
        rng,
        place=curve["place"],
        snr_db=own.figure + 1,
        n_blocks=_most_blocks(curve["place"], BURST_BLOCKS),
        bursts=goodput_bursts,
    )
    return {**curve, "goodput": goodput}


def _chain_walk(place: int, quick: bool, offset_db: float, span_db: float) -> error_curves.Walk:
    # a lost burst takes all its blocks with it: many more blocks than errors are needed
    return error_curves.Walk(
        start_db=start_db(place) + offset_db,
        step_db=0.4 if quick else 0.2,
        blocks=64 if quick else 1024,
        floor=0.08 if quick else 0.01,
        errors=100,
        span_db=span_db,
    )


def chain_tasks(quick: bool) -> list[Task]:
    """A curve of every MCS over the whole receiver."""
    return [
        Task(
            chain_trial,
            {
                "place": k,
                "walk": _chain_walk(k, quick, 0.0, 4.0),
                "n_blocks": 16,
                "goodput_bursts": 2 if quick else 32,
            },
            weight=200 / mcs.MCS_TABLE[k].efficiency,
        )
        for k in _places(quick)
    ]


def chain_bars(results: Results) -> Summary:
    """Loss against the genie, goodput against capacity, and the frames of liquid-dsp."""
    genie = thresholds(results, "genie")
    bars, goodput, curves = [], [], []
    for r in results["chain"]:
        place, points = r["place"], r["points"]
        scheme = mcs.MCS_TABLE[place]
        base, source = base_db(genie, place, start_db(place))
        held = (
            (0.8, 0.4) if place in genie else (None, None)
        )  # a genie of other making is no measure
        name = f"{scheme.name}: loss against the genie, AWGN, CFO, delay"
        bars.append(
            _loss_bar(
                "chain", name, points, base, f"genie {number(base.figure)} dB, {source}", *held
            )
        )
        curves.append({**_curve_json(place, points), "bits_per_s_hz": _efficiency(place)})
        if r["goodput"] is not None:
            goodput.append(_goodput_bar(r["goodput"]))
            curves[-1]["goodput_share"] = goodput[-1].estimate.figure
    bars += goodput
    bars += _liquid_bars(thresholds(results, "chain"))
    return bars, {"curves": curves}


def _loss_bar(
    study: str,
    name: str,
    points: Sequence[Point],
    base: Estimate,
    of_what: str,
    bar: float | None,
    reach: float | None,
) -> Bar:
    """How much later than `base` a curve comes to 10 % of blocks lost."""
    own = threshold(points)
    return Bar(
        study=study,
        name=name,
        estimate=difference(own, base),
        unit="dB",
        trials=sum(p.blocks for p in points),
        of="blocks",
        bar=bar,
        reach=reach,
        higher=False,
        note=f"10 % of blocks lost at {number(own.figure)} dB; {of_what}",
    )


def _most_blocks(place: int, wanted: int) -> int:
    """Blocks of the longest burst of an MCS, at most `wanted`."""
    scheme = mcs.MCS_TABLE[place]
    sizes = range(wanted, 1, -1)
    fitting = (n for n in sizes if framing.burst_samples(n, scheme) <= framing.MAX_BURST_SAMPLES)
    return next(fitting, 1)


def _efficiency(place: int) -> float:
    return error_curves.burst_efficiency(place, _most_blocks(place, BURST_BLOCKS))


def _goodput_bar(goodput: Mapping[str, Any]) -> Bar:
    scheme = mcs.MCS_TABLE[goodput["place"]]
    by_index = (
        (0.62, 0.65) if scheme.index >= 15 else (0.58, 0.62) if scheme.index >= 13 else (0.54, 0.58)
    )
    bar, reach = _GOODPUT_BAR.get(scheme.bits_per_symbol, by_index)
    robust = scheme.robust
    passed = rate(goodput["blocks"] - goodput["lost"], goodput["blocks"])
    share = goodput["lossless_share"]
    return Bar(
        study="chain",
        name=f"{scheme.name}: goodput / capacity at own threshold + 1 dB",
        estimate=Estimate(passed.figure * share, passed.low * share, passed.high * share),
        trials=goodput["blocks"],
        of="blocks",
        bar=None if robust else bar,
        reach=None if robust else reach,
        note=f"at {number(goodput['snr_db'])} dB, {goodput['n_blocks']} blocks a burst; preamble, "
        "header, prefix, "
        "pilots, CRC and lost blocks counted, of the capacity of 201/256 of the sample rate",
    )


def _liquid_bars(thresholds: Mapping[int, Estimate]) -> list[Bar]:
    """How much less SNR the slowest MCS needs that is a quarter faster than liquid-dsp's frames."""
    fast = [k for k in sorted(thresholds) if _efficiency(k) >= 1.25 * LIQUID_BITS_PER_S_HZ]
    if not fast:
        return []
    place = fast[0]
    own, efficiency = thresholds[place], _efficiency(place)
    return [
        Bar(
            study="chain",
            name=f"{mcs.MCS_TABLE[place].name}: less SNR than liquid-dsp's 16-QAM OFDM frames",
            estimate=difference(Estimate(LIQUID_DB, LIQUID_DB, LIQUID_DB), own),
            unit="dB",
            trials=1,
            of="curve",
            bar=2.0,
            note=f"at {number(efficiency / LIQUID_BITS_PER_S_HZ)} times its "
            f"{LIQUID_BITS_PER_S_HZ} bit/s/Hz; "
            "ours loses 10 % of the blocks there",
        )
    ]


def harsh_tasks(quick: bool) -> list[Task]:
    """A curve of every MCS with all impairments of the radios."""
    places = (3, 9, 11) if quick else range(len(mcs.MCS_TABLE))
    return [
        Task(
            error_curves.chain_curve,
            {
                "place": k,
                "walk": _chain_walk(k, quick, 0.6, 8.0),
                "n_blocks": 16,
                "preset": "harsh",
            },
            weight=300 / mcs.MCS_TABLE[k].efficiency,
        )
        for k in places
    ]


def harsh_bars(results: Results) -> Summary:
    """Loss against the clean channel."""
    chain = thresholds(results, "chain")
    bars, curves = [], []
    for r in results["harsh"]:
        place, points = r["place"], r["points"]
        scheme = mcs.MCS_TABLE[place]
        base, source = base_db(chain, place, scheme.threshold_db)
        held = (8.0, 1.5) if scheme.bits_per_symbol == 6 else (None, None)
        name = f"{scheme.name}: loss with all impairments"
        bars.append(
            _loss_bar(
                "harsh",
                name,
                points,
                base,
                f"clean channel {number(base.figure)} dB, {source}",
                *held,
            )
        )
        curves.append(_curve_json(place, points))
    return bars, {"curves": curves}


def chase_tasks(quick: bool) -> list[Task]:
    """Curves of one transmission, and of two added up."""
    tasks = []
    for place, copies in itertools.product((6,) if quick else (3, 6, 11), (1, 2)):
        walk = error_curves.Walk(
            start_db=start_db(place) - 0.5 - 3.0 * (copies - 1),
            step_db=0.2,
            blocks=100 if quick else 2000,
            floor=0.05,
        )
        settings = {"place": place, "copies": copies, "walk": walk}
        tasks.append(Task(error_curves.genie_curve, settings, weight=10))
    return tasks


def chase_bars(results: Results) -> Summary:
    """What adding a second copy is worth."""
    found = {(r["place"], r["copies"]): r["points"] for r in results["chase"]}
    bars = []
    for place in sorted({place for place, _ in found}):
        once, twice = found[place, 1], found[place, 2]
        bars.append(
            Bar(
                study="chase",
                name=f"{mcs.MCS_TABLE[place].name}: gain of adding a second copy",
                estimate=difference(threshold(once), threshold(twice)),
                unit="dB",
                trials=sum(p.blocks for p in (*once, *twice)),
                of="blocks",
                note="twice the energy alone is 3.01 dB",
            )
        )
    return bars, {}
