"""What repeated measurements allow to be said: clustered intervals, paired differences, bits at
equal loss.

Rounds of one stream share its texts, its order of domains and its training; they are no independent
repetitions. One independent measurement is therefore a cluster: a stream with all its rounds and
seeds. Each cluster gives one number, its mean, and every interval is Student's over these numbers.

The estimand is the mean over clusters, each counted once however many values it has: what to expect
on a stream yet to come. With clusters of unequal size that is not the mean over all values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from hil.contract import Floats
from hil.reporting.intervals import half_width

LEAST_LEVEL_NATS: Final = 0.01
"""Lowest excess loss that bits are compared at where both curves come to nothing missing: the whole
update's own loss is uncertain by half of it."""
_LEAST_LOSS: Final = 1e-4
"""Losses below count as this much: an excess loss may come out at 0 or less."""
_MAX_MISSING: Final = 0.1
"""Share of the clusters that may have no figure before none is given for all of them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval; NaN where there is nothing to estimate from, and NaN
    bounds where there are fewer than three clusters."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What a policy spends and reaches at P budgets, measured C times.

    Attributes:
        clusters: [C], the cluster (stream) of each row.
        bits: float[C, P], payload bits, ≥ 0.
        loss: float[C, P], loss reached with them, less is better.
    """

    clusters: NDArray[Any]
    bits: Floats
    loss: Floats

    def averaged(self) -> Curve:
        """The same curve with one row a cluster, in rising order: averages point by point."""
        names, index = np.unique(self.clusters, return_inverse=True)
        rows = [index == i for i in range(len(names))]
        shape = len(names), self.bits.shape[1]
        bits, loss = (
            np.array([values[row].mean(axis=0) for row in rows]).reshape(shape)
            for values in (self.bits, self.loss)
        )
        return Curve(names, bits, loss)


@dataclass(frozen=True, slots=True)
class History:
    """How a learner came along.

    Attributes:
        name: the learner.
        seed: the seed that it learnt from.
        steps: environment steps so far, rising.
        reward: mean reward per step or episode at that time.
    """

    name: str
    seed: int
    steps: tuple[float, ...]
    reward: tuple[float, ...]


# ------------------------------------------------------------------------------------------ means


def clustered_mean(values: ArrayLike, clusters: ArrayLike) -> Interval:
    """Mean of the clusters' means, with Student's interval over clusters.

    Args:
        values: [n]; those that are not finite are left out.
        clusters: [n], the cluster of each value.
    """
    value, cluster = np.asarray(values, np.float64), np.asarray(clusters)
    finite = np.isfinite(value)
    _, index = np.unique(cluster[finite], return_inverse=True)
    return _student(np.bincount(index, value[finite]) / np.bincount(index))


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: ArrayLike) -> Interval:
    """Mean of a - b over pairs of measurements of the same thing, clustered as in
    `clustered_mean`."""
    return clustered_mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), clusters)


def mean_of_clusters(figures: Floats) -> Interval | None:
    """Mean and interval of one figure a cluster; None where more than one in ten is missing (NaN).

    Those that are missing are left out otherwise.
    """
    known = figures[np.isfinite(figures)]
    if not len(known) or 1 - len(known) / len(figures) > _MAX_MISSING:
        return None
    return _student(known)


def ratio_of_clusters(log_ratios: Floats) -> Interval | None:
    """Geometric mean and interval of one ratio a cluster, given as natural logarithms; None as in
    `mean_of_clusters`."""
    found = mean_of_clusters(log_ratios)
    if found is None:
        return None
    return Interval(*(float(np.exp(x)) for x in (found.mean, found.low, found.high)))


def _student(measured: Floats) -> Interval:
    """Mean and interval of independent measurements."""
    n = len(measured)
    mean = float(measured.mean()) if n else np.nan
    std_error = measured.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    half = float(half_width(std_error, n))
    return Interval(mean, mean - half, mean + half)


# ----------------------------------------------------------------------------- bits at equal loss


def bits_at_equal_loss(a: Curve, b: Curve, levels: Sequence[float]) -> list[Interval | None]:
    """Bits that curve `a` needs for each loss level, over the bits that `b` needs; below 1, a is
    the cheaper one.

    Each cluster gives one ratio. Its rows are averaged point by point, points without any bits are
    left out, the others are sorted by bits and made falling in loss by pooling neighbours that rise
    (isotonic regression; a pooled point has the mean loss and the mean log bits of its members).
    Log bits are interpolated linearly against log loss, about straight where loss falls by a factor
    with every bit. The estimate is the geometric mean over clusters, with Student's interval of the
    log ratios.

    Args:
        a: a curve, in any order of points.
        b: a curve over the same clusters.
        levels: losses, in the unit of the curves.
    Returns:
        For each level the ratio, or None where more than one cluster in ten does not reach the
        level with both curves; clusters that do not reach it are left out otherwise.
    Raises:
        ValueError: the curves are not over the same clusters.
    """
    (names_a, of_a), (names_b, of_b) = _falling_curves(a), _falling_curves(b)
    if not np.array_equal(names_a, names_b):
        raise ValueError(f"bits at equal loss need the same clusters, got {names_a} and {names_b}")
    wanted = np.asarray(levels, np.float64)
    log_ratios = [
        _log_bits(*one, wanted) - _log_bits(*other, wanted)
        for one, other in zip(of_a, of_b, strict=True)
    ]
    return [ratio_of_clusters(of_level) for of_level in np.array(log_ratios).T]


def loss_levels(
    curves: Sequence[Curve], shares: Sequence[float] = (0.25, 0.5, 0.75)
) -> list[float]:
    """Losses at these shares of the way, on a log scale, from the best to the worst loss that the
    curves share, best first; [] where they share none.

    Nine in ten clusters reach the two ends with every curve. Where the best end is not above 0,
    which is what the whole update reaches, the way begins at LEAST_LEVEL_NATS.
    """
    bests, worsts = [], []
    for curve in curves:
        ends = np.array([loss[[-1, 0]] for _, loss in _falling_curves(curve)[1] if len(loss)])
        if not len(ends):
            return []
        bests.append(float(np.quantile(ends[:, 0], 1 - _MAX_MISSING, method="higher")))
        worsts.append(float(np.quantile(ends[:, 1], _MAX_MISSING, method="lower")))
    best, worst = max(bests), min(worsts)
    best = best if best > 0 else LEAST_LEVEL_NATS
    return [best * (worst / best) ** share for share in shares] if best < worst else []


def _log_bits(log_bits: Floats, loss: Floats, levels: Floats) -> Floats:
    """Natural log of the bits at each level of a falling curve; NaN out of reach."""
    if not len(loss):
        return np.full(len(levels), np.nan)
    wanted, known = (np.log(np.maximum(x, _LEAST_LOSS)) for x in (levels, loss[::-1]))
    return np.interp(wanted, known, log_bits[::-1], left=np.nan, right=np.nan)


def _falling_curves(curve: Curve) -> tuple[NDArray[Any], list[tuple[Floats, Floats]]]:
    """The clusters in rising order, and the falling curve of each."""
    mean = curve.averaged()
    curves = [falling_curve(bits, loss) for bits, loss in zip(mean.bits, mean.loss, strict=True)]
    return mean.clusters, curves


def falling_curve(bits: Floats, loss: Floats) -> tuple[Floats, Floats]:
    """A curve's log bits, rising, and loss, falling: neighbours that rise are pooled, points
    without bits left out.

    Args:
        bits: float[P], in any order.
        loss: float[P].
    Returns:
        Two arrays of the same length, at most P.
    """
    order = np.argsort(bits, kind="stable")
    order = order[bits[order] > 0]
    if not len(order):
        return np.empty(0), np.empty(0)
    fit = isotonic_regression(loss[order], increasing=False)
    starts, sizes = fit.blocks[:-1], np.diff(fit.blocks)
    return np.add.reduceat(np.log(bits[order]), starts) / sizes, fit.x[starts]


# ----------------------------------------------------------------------------------------- learning


def steps_to_target(history: History, target: float) -> float | None:
    """Environment steps after which the reward first reached the target; None when it never did.

    Between two entries the reward is taken to change linearly. A learner that starts there needs
    its first entry's steps, so state the reward at the start beside this.
    """
    steps, reward = np.asarray(history.steps, np.float64), np.asarray(history.reward, np.float64)
    reached = np.flatnonzero(reward >= target)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(steps[0])
    share = (target - reward[i - 1]) / (reward[i] - reward[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def area_under(history: History) -> float:
    """Mean reward over the steps from the first entry to the last (trapezoids), in the reward's
    unit."""
    steps, reward = np.asarray(history.steps, np.float64), np.asarray(history.reward, np.float64)
    if len(steps) < 2:
        return float(reward.mean()) if len(reward) else float("nan")
    return float(np.trapezoid(reward, steps) / (steps[-1] - steps[0]))
