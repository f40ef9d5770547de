"""The claims of arXiv 2507.11515 put to an evaluation.

    python -m hil.evaluation.claims runs/eval --training runs/train/training.jsonl --beside
    runs/other

Loss, score and bits by channel; score at equal bits on the air, bits and parameters at equal loss,
environment steps to a common target; each for every policy, against several others, with intervals
over the streams; and what another evaluation of the same rounds, with other settings, has come to.
The answers are Markdown tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from hil.contract import Floats
from hil.evaluation.report import read_histories
from hil.evaluation.statistics import (
    Curve,
    History,
    Interval,
    area_under,
    bits_at_equal_loss,
    clustered_mean,
    falling_curve,
    loss_levels,
    mean_of_clusters,
    paired_difference,
    ratio_of_clusters,
    steps_to_target,
)
from hil.evaluation.summary import Rows, chosen, names, read_rows

BEST_CHANNEL: Final = "15 dB"
"""Where every trained rank fits the budget: what AdaLoRA and EVA come to by themselves."""
REFERENCES: Final = ("largest", "greedy by K-FAC")
"""Rules that bits at equal loss are given against."""


def curve(rows: Rows, x: str, y: str, values: Sequence[str], column: str = "channel") -> Curve:
    """A point for each value of a column, by default each channel: means over a stream's rounds in
    which both are finite; a row a stream."""
    streams = sorted(names(rows, "stream"))
    points = np.full((2, len(streams), len(values)), np.nan)
    for i, stream in enumerate(streams):
        for j, value in enumerate(values):
            part = chosen(rows, stream=stream, **{column: value})
            finite = np.isfinite(part[y].astype(np.float64))
            if finite.any():
                points[:, i, j] = [part[key][finite].astype(np.float64).mean() for key in (x, y)]
    whole = np.isfinite(points).all(axis=(0, 2))
    return Curve(np.array(streams)[whole], points[0][whole], points[1][whole])


def gap_at_equal_bits(a: Curve, b: Curve) -> Interval | None:
    """How much y of curve `a` lies above that of `b` where both spend the same bits.

    In each stream that both have, at the bits of b's only point; then the mean over streams.

    Args:
        a: at least two points, y interpolated linearly in log bits.
        b: one point.
    Returns:
        None where more than one stream in ten spends bits outside the range of curve `a`.
    """

    def gap(bits: Floats, y: Floats, at_bits: float, at_y: float) -> float:
        order = np.argsort(bits)
        at = np.interp(np.log(at_bits), np.log(bits[order]), y[order], left=np.nan, right=np.nan)
        return float(at) - at_y

    return mean_of_clusters(_by_stream(gap, a, b))


def bits_at_equal_y(a: Curve, b: Curve) -> Interval | None:
    """Bits at which curve `a` comes to the y of b's only point, over that point's bits.

    In each stream that both have; then the geometric mean over streams.

    Args:
        a: at least two points; pooled until y falls, log bits interpolated linearly against y.
        b: one point.
    Returns:
        None where more than one stream in ten has a point of b that curve `a` does not reach.
    """

    def log_ratio(bits: Floats, y: Floats, at_bits: float, at_y: float) -> float:
        log_bits, falling = falling_curve(bits, y)
        at = np.interp(at_y, falling[::-1], log_bits[::-1], left=np.nan, right=np.nan)
        return float(at) - float(np.log(at_bits))

    return ratio_of_clusters(_by_stream(log_ratio, a, b))


def _by_stream(
    figure: Callable[[Floats, Floats, float, float], float], a: Curve, b: Curve
) -> Floats:
    """figure(a's bits, a's y, b's bits, b's y) of each stream that both have, NaN without bits."""
    both = np.intersect1d(a.clusters, b.clusters)
    found = []
    for stream in both:
        [i], [j] = np.flatnonzero(a.clusters == stream), np.flatnonzero(b.clusters == stream)
        sends = a.bits[i] > 0
        point = float(b.bits[j, 0]), float(b.loss[j, 0])
        known = sends.any() and point[0] > 0
        found.append(figure(a.bits[i][sends], a.loss[i][sends], *point) if known else np.nan)
    return np.array(found)


def by_channel(rows: Rows, metric: str, form: str, scale: float = 1.0) -> Iterable[str]:
    """Lines: mean of a column over rounds for each policy and channel, with its interval over the
    streams."""
    channels = names(rows, "channel")
    yield "| policy | " + " | ".join(channels) + " |"
    yield "|---" * (len(channels) + 1) + "|"
    for policy in names(rows, "policy"):
        parts = [chosen(rows, policy=policy, channel=channel) for channel in channels]
        found = [clustered_mean(part[metric], part["stream"]) for part in parts]
        yield (
            f"| {policy} | " + " | ".join(show(interval, form, scale) for interval in found) + " |"
        )


def against_trained(rows: Rows, policies: Sequence[str], trained: Sequence[str]) -> Iterable[str]:
    """Lines: each policy, its bits set by the channel, against AdaLoRA or EVA where their bits
    always fit."""
    channels = [c for c in names(rows, "channel") if c.endswith(" dB")]
    yield (
        "| policy | against | its kbit | score at equal bits, points | loss there, nats | bits "
        "at equal loss |"
    )
    yield "|---" * 6 + "|"
    for rival in trained:
        theirs = chosen(rows, policy=rival, channel=BEST_CHANNEL)
        for policy in policies:
            own = chosen(rows, policy=policy)
            figures = _against(
                (own, channels, "channel"), (theirs, [rival], "policy"), "payload_bits"
            )
            yield f"| {policy} | {rival} | {figures} |"


def against_trained_moving(rows: Rows, name: str, trained: Sequence[str]) -> Iterable[str]:
    """Lines: a policy, its bits set by its price ("NAME at ..." are its other prices), against
    AdaLoRA or EVA where the SNR moves and both meet the same rounds: at equal bits, and at equal
    airtime."""
    family = [
        policy
        for policy in names(rows, "policy")
        if policy == name or policy.startswith(f"{name} at ")
    ]
    yield (
        "| channel | policy | against | its kbit, ms | score at as much, points | loss there, "
        "nats | at equal loss |"
    )
    yield "|---" * 7 + "|"
    for channel in (c for c in names(rows, "channel") if not c.endswith(" dB")):
        there = chosen(rows, channel=channel)
        for rival in trained:
            for x, unit in (("payload_bits", "kbit"), ("airtime_s", "ms")):
                figures = _against((there, family, "policy"), (there, [rival], "policy"), x)
                spent, _, rest = figures.partition(" | ")
                yield f"| {channel} | {name} | {rival} | {spent} {unit} | {rest} |"


_Points = tuple[Rows, Sequence[str], str]
"""Rows, and the values of a column that each give a point of a curve."""


def _against(own: _Points, theirs: _Points, x: str) -> str:
    """The last four columns of those tables.

    Args:
        own, theirs: a curve, and a point.
        x: what is spent, a column: "payload_bits" or "airtime_s".
    """
    (own_score, score), (own_loss, loss) = (
        [curve(rows, x, y, values, column) for rows, values, column in (own, theirs)]
        for y in ("score", "excess_nats")
    )
    gaps = gap_at_equal_bits(own_score, score), gap_at_equal_bits(own_loss, loss)
    spent = loss.bits.mean() * (1e-3 if x == "payload_bits" else 1e3)
    return (
        f"{spent:.0f} | {show(gaps[0], '+.2f', 100)} | {show(gaps[1], '+.4f')} "
        f"| {show(bits_at_equal_y(own_loss, loss), '.3f')}"
    )


def at_equal_loss(rows: Rows, policies: Sequence[str], references: Sequence[str]) -> Iterable[str]:
    """Lines: bits and parameters over the reference's, at three losses that both reach."""
    channels = [c for c in names(rows, "channel") if c.endswith(" dB")]
    yield "| policy | against | excess loss, nats | bits, ratio | parameters, ratio |"
    yield "|---|---|---|---|---|"
    for reference in references:
        theirs = chosen(rows, policy=reference)
        for policy in policies:
            if policy == reference:
                continue
            mine = chosen(rows, policy=policy)
            levels = loss_levels(
                [curve(r, "payload_bits", "excess_nats", channels) for r in (mine, theirs)]
            )
            bits_ratios, parameter_ratios = (
                bits_at_equal_loss(
                    curve(mine, x, "excess_nats", channels),
                    curve(theirs, x, "excess_nats", channels),
                    levels,
                )
                for x in ("payload_bits", "parameters")
            )
            for level, bits, parameters in zip(levels, bits_ratios, parameter_ratios, strict=True):
                yield (
                    f"| {policy} | {reference} | {level:.3f} | {show(bits, '.3f')} | "
                    f"{show(parameters, '.3f')} |"
                )


def beside(rows: Rows, others: Rows) -> Iterable[str]:
    """Lines: policies of both evaluations: bits at equal loss, over the other's, and the mean
    difference by channel."""
    channels = [c for c in names(rows, "channel") if c in names(others, "channel")]
    constant = [c for c in channels if c.endswith(" dB")]
    pairs = {
        policy: (chosen(rows, policy=policy), chosen(others, policy=policy))
        for policy in names(rows, "policy")
        if policy in names(others, "policy")
    }
    yield "| policy | excess loss, nats | bits, ratio |"
    yield "|---|---|---|"
    for policy, pair in pairs.items():
        own, theirs = (curve(one, "payload_bits", "excess_nats", constant) for one in pair)
        levels = loss_levels([own, theirs])
        for level, ratio in zip(levels, bits_at_equal_loss(own, theirs, levels), strict=True):
            yield f"| {policy} | {level:.3f} | {show(ratio, '.3f')} |"
    yield ""
    yield "| policy | channel | loss, nats | score, points |"
    yield "|---|---|---|---|"
    for policy, pair in pairs.items():
        for channel in channels:
            loss, score = (_paired(*pair, channel, metric) for metric in ("excess_nats", "score"))
            yield f"| {policy} | {channel} | {show(loss, '+.4f')} | {show(score, '+.2f', 100)} |"


def _paired(rows: Rows, others: Rows, channel: str, metric: str) -> Interval | None:
    """Mean difference over the rounds that both have, where both are finite; None if there is no
    such round."""
    keys = ("stream", "train_seed", "scope", "policy_seed", "round")
    found = []
    for one in (chosen(rows, channel=channel), chosen(others, channel=channel)):
        places = zip(*(one[key].tolist() for key in keys), strict=True)
        found.append(dict(zip(places, one[metric].astype(np.float64).tolist(), strict=True)))
    a, b = found
    both = [place for place in a if np.isfinite(a[place]) and np.isfinite(b.get(place, np.nan))]
    if not both:
        return None
    streams = np.array([place[0] for place in both])
    return paired_difference([a[place] for place in both], [b[place] for place in both], streams)


def steps(histories: Sequence[History]) -> Iterable[str]:
    """Lines: environment steps to random + 95 % of (PPO alone's final - random), learner by
    learner."""
    random = next(h.reward[0] for h in histories if h.name == "random feasible")
    final = float(np.mean([h.reward[-1] for h in histories if h.name == "ppo"]))
    target = random + 0.95 * (final - random)
    yield (
        f"Minus nats of excess loss: random feasible {random:.4f}, PPO alone {final:.4f}, "
        f"target {target:.4f}."
    )
    yield ""
    yield (
        "| learner | at step 0 | best | at the end | area under the curve | steps to the "
        "target, seed by seed |"
    )
    yield "|---|---|---|---|---|---|"
    for name in dict.fromkeys(h.name for h in histories if h.name != "random feasible"):
        own = [h for h in histories if h.name == name]
        reached = [steps_to_target(h, target) for h in own]
        means = [
            np.mean(x)
            for x in zip(
                *((h.reward[0], max(h.reward), h.reward[-1], area_under(h)) for h in own),
                strict=True,
            )
        ]
        told = ", ".join("never" if r is None else f"{r:.0f}" for r in reached)
        yield f"| {name} | " + " | ".join(f"{m:.4f}" for m in means) + f" | {told} |"


def show(interval: Interval | None, form: str, scale: float = 1.0) -> str:
    """Mean [low, high], or a dash where the level is out of reach."""
    if interval is None or not np.isfinite(interval.mean):
        return "–"
    mean, low, high = (
        format(scale * value, form) for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} [{low}, {high}]" if np.isfinite(interval.low) else f"{mean} (no interval)"


def main(folder: Path, training: Path | None, other: Path | None) -> None:
    """Print all tables of an evaluation."""
    rows = read_rows(folder / "results.parquet")
    every = names(rows, "policy")
    trained = [name for name in every if name.startswith(("adalora", "eva"))]
    cut = [
        name
        for name in (*REFERENCES[::-1], "ours", "airllm", "airllm as published")
        if name in every
    ]
    tables = [
        by_channel(rows, "excess_nats", ".3f"),
        by_channel(rows, "score", ".1f", 100),
        by_channel(rows, "payload_bits", ".0f", 1e-3),
        by_channel(rows, "feasible", ".2f"),
    ]
    if trained:
        tables += [
            against_trained(rows, cut, trained),
            against_trained_moving(rows, "ours", trained),
        ]
    references = [name for name in REFERENCES if name in every]
    tables.append(at_equal_loss(rows, [name for name in every if name not in trained], references))
    if training:
        tables.append(steps(read_histories(training)))
    if other:
        tables.append(beside(rows, read_rows(other / "results.parquet")))
    for table in tables:
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m hil.evaluation.claims", description="Tables of an evaluation."
    )
    parser.add_argument("folder", type=Path, help="that hil eval wrote")
    parser.add_argument(
        "--training", type=Path, help="a training.jsonl of hil train, for the steps to a target"
    )
    parser.add_argument("--beside", type=Path, help="another evaluation of the same rounds")
    given = parser.parse_args()
    main(given.folder, given.training, given.beside)
