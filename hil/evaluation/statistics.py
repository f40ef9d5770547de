"""What repeated measurements allow to be said: clustered intervals, paired differences, bits at
equal loss.

Rounds of one stream share its texts, its order of domains and its training; they are no independent
repetitions. The unit that is drawn again is therefore always the cluster, which here is a stream
with all its rounds and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import isotonic_regression

from hil.contract import Floats

N_BOOT: Final = 2000
"""Bootstrap samples unless told otherwise."""

_LEAST_LOSS: Final = 1e-4
"""Losses below count as this much: an excess loss may come out at 0 or less."""
_CONFIDENCE: Final = 0.95
_MAX_OUT_OF_REACH: Final = 0.05
"""Share of bootstrap samples that may miss a level before no interval is given for it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval; NaN where there is nothing, or one cluster only, to tell
    from."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What a policy spends and reaches at P budgets, measured C times.

    Attributes:
        clusters: [C], what each row belongs to (its stream).
        bits: float[C, P], payload bits, ≥ 0.
        loss: float[C, P], loss reached with them, less is better.
    """

    clusters: NDArray[Any]
    bits: Floats
    loss: Floats


@dataclass(frozen=True, slots=True)
class History:
    """How a learner came along.

    Attributes:
        name, seed: which learner, and which of its seeds.
        steps: environment steps so far, rising.
        reward: mean reward per step or episode at that time.
    """

    name: str
    seed: int
    steps: tuple[float, ...]
    reward: tuple[float, ...]


# ------------------------------------------------------------------------------------------------
# means


def clustered_mean(
    values: ArrayLike, clusters: ArrayLike, rng: np.random.Generator, n_boot: int = N_BOOT
) -> Interval:
    """The mean of all values, with a bootstrap interval over clusters.

    Whole clusters are drawn with replacement, and the mean is that of all values drawn. The
    interval is the expanded percentile interval: its tails are widened so that for few clusters of
    equal size it is as wide as Student's t, where the plain percentiles would cover too little.
    Values that are not finite are left out.

    Args:
        values: [n].
        clusters: [n], the cluster of each value.
    Source: Hesterberg, What teachers should know about the bootstrap, Am. Stat. 69 (2015), section
    4.2.
    """
    value, cluster = np.asarray(values, np.float64), np.asarray(clusters)
    finite = np.isfinite(value)
    if not finite.any():
        return Interval(np.nan, np.nan, np.nan)
    _, index = np.unique(cluster[finite], return_inverse=True)
    sums, counts = np.bincount(index, value[finite]), np.bincount(index)
    drawn = _draws(len(sums), rng, n_boot)
    means = (drawn @ sums) / (drawn @ counts)
    return _interval(float(value[finite].mean()), means, len(sums))


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, rng: np.random.Generator, n_boot: int = N_BOOT
) -> Interval:
    """The mean of a - b over pairs of measurements of the same thing, clustered as in
    `clustered_mean`."""
    return clustered_mean(
        np.asarray(a, np.float64) - np.asarray(b, np.float64), clusters, rng, n_boot
    )


def _draws(n_clusters: int, rng: np.random.Generator, n_boot: int) -> Floats:
    """float[n_boot, n_clusters]: how often each cluster is in each bootstrap sample."""
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_boot).astype(
        np.float64
    )


def _interval(estimate: float, resampled: Floats, n_clusters: int) -> Interval:
    """Expanded percentile interval; none for a single cluster."""
    if n_clusters < 2:
        return Interval(estimate, np.nan, np.nan)
    quantile = stats.t.ppf((1 - _CONFIDENCE) / 2, n_clusters - 1) * np.sqrt(
        n_clusters / (n_clusters - 1)
    )
    tail = float(stats.norm.cdf(quantile))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))


# ------------------------------------------------------------------------------------- bits at
# equal loss


def bits_at_equal_loss(
    a: Curve, b: Curve, levels: Sequence[float], rng: np.random.Generator, n_boot: int = N_BOOT
) -> list[Interval | None]:
    """How many times b's bits a needs to come to each loss level; below 1, a is the cheaper one.

    For each level: the curves of all rows are averaged point by point (bits and loss over the
    rows), points without any bits are left out, the others are sorted by bits and made falling in
    loss by pooling neighbours that rise (isotonic regression; a pooled point has the mean loss and
    the mean log bits of its members), and log bits are interpolated linearly against log loss,
    about straight where loss falls by a factor with every bit. The bootstrap draws whole clusters,
    the same for both curves, and does all of this anew with the rows it drew; the interval is that
    of `clustered_mean`.

    Args:
        a, b: over the same clusters.
        levels: losses, in the unit of the curves.
    Returns:
        For each level the ratio, or None where either curve does not reach that far: in the
        measurements themselves, or in more than one in twenty bootstrap samples (those that miss it
        are left out of the interval otherwise).
    Raises:
        ValueError: the curves are not over the same clusters.
    """
    names = np.unique(a.clusters)
    if not np.array_equal(names, np.unique(b.clusters)):
        raise ValueError(
            f"bits at equal loss need the same clusters, got {names} and {np.unique(b.clusters)}"
        )
    wanted = np.asarray(levels, np.float64)
    everything = np.ones(len(names))
    estimate = _log_bits(a, names, everything, wanted) - _log_bits(b, names, everything, wanted)
    drawn = _draws(len(names), rng, n_boot)
    resampled = np.array(
        [_log_bits(a, names, w, wanted) - _log_bits(b, names, w, wanted) for w in drawn]
    )
    found: list[Interval | None] = []
    for level, of_level in zip(estimate, resampled.T, strict=True):
        reached = of_level[np.isfinite(of_level)]
        if not np.isfinite(level) or 1 - len(reached) / n_boot > _MAX_OUT_OF_REACH:
            found.append(None)
        else:
            found.append(_interval(float(np.exp(level)), np.exp(reached), len(names)))
    return found


def loss_levels(curve: Curve, shares: Sequence[float] = (0.25, 0.5, 0.75)) -> list[float]:
    """Losses at these shares of the way from the curve's best average loss to its worst on a log
    scale, best first."""
    _, loss = _falling(curve.bits.mean(axis=0), curve.loss.mean(axis=0))
    loss = np.maximum(loss, _LEAST_LOSS)
    return (
        [float(loss[-1] * (loss[0] / loss[-1]) ** share) for share in shares]
        if len(loss) > 1
        else []
    )


def _log_bits(curve: Curve, names: NDArray[Any], drawn: Floats, levels: Floats) -> Floats:
    """Natural log of the bits at each level on the average of the drawn clusters' curves; NaN out
    of reach."""
    weight = drawn[np.searchsorted(names, curve.clusters)]
    weight = weight / weight.sum()
    log_bits, loss = _falling(weight @ curve.bits, weight @ curve.loss)
    if not len(loss):
        return np.full(len(levels), np.nan)
    wanted, known = (np.log(np.maximum(x, _LEAST_LOSS)) for x in (levels, loss[::-1]))
    return np.interp(wanted, known, log_bits[::-1], left=np.nan, right=np.nan)


def _falling(bits: Floats, loss: Floats) -> tuple[Floats, Floats]:
    """Log bits, rising, and loss, falling: neighbours that rise are pooled, points without bits
    left out."""
    order = np.argsort(bits, kind="stable")
    order = order[bits[order] > 0]
    if not len(order):
        return np.empty(0), np.empty(0)
    fit = isotonic_regression(loss[order], increasing=False)
    starts, sizes = fit.blocks[:-1], np.diff(fit.blocks)
    return np.add.reduceat(np.log(bits[order]), starts) / sizes, fit.x[starts]


# ----------------------------------------------------------------------------------------------
# learning


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
