"""Coverage of the 95 % intervals on simulated experiments: python -m tests.hil.evaluation.coverage.

Each experiment has K clusters of unequal size, larger where the cluster's own effect is larger: the
mean over all values then differs from the mean over clusters, which is what the intervals are for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hil.evaluation.statistics import (
    Curve,
    Interval,
    bits_at_equal_loss,
    clustered_mean,
    loss_levels,
    paired_difference,
)

CLUSTERS = (3, 5, 10)
SIGMA = 0.5
"""Standard deviation of the logarithm of a lognormal cluster's effect."""
RATIO = 0.8
"""Geometric mean over clusters of the bits at equal loss."""

Experiment = Callable[[int, np.random.Generator], list[tuple[float, Interval | None]]]
"""(number of clusters, generator) → the true figures beside the intervals found."""


def _sizes(effects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of values in the clusters, 1 to 30."""
    score = (effects - effects.mean()) / effects.std() + rng.normal(0, 1, len(effects))
    return 1 + np.rint(29 / (1 + np.exp(-2 * score))).astype(int)


def _values(effects: np.ndarray, noise: float, rng: np.random.Generator) -> tuple:
    clusters = np.repeat(np.arange(len(effects)), _sizes(effects, rng))
    return effects[clusters] + rng.normal(0, noise, len(clusters)), clusters


def normal_clusters(k: int, rng: np.random.Generator) -> list[tuple[float, Interval | None]]:
    """The mean of normal cluster effects, 0.3."""
    return [(0.3, clustered_mean(*_values(rng.normal(0.3, 1, k), 0.5, rng)))]


def lognormal_clusters(k: int, rng: np.random.Generator) -> list[tuple[float, Interval | None]]:
    """The mean of lognormal cluster effects, exp(SIGMA² / 2)."""
    found = clustered_mean(*_values(np.exp(rng.normal(0, SIGMA, k)), 0.1, rng))
    return [(float(np.exp(SIGMA**2 / 2)), found)]


def paired_clusters(k: int, rng: np.random.Generator) -> list[tuple[float, Interval | None]]:
    """The mean difference of pairs, 0.2, under effects that both of a pair share."""
    difference, clusters = _values(rng.normal(0.2, 0.5, k), 0.3, rng)
    shared = rng.normal(0, 5, len(clusters))
    return [(0.2, paired_difference(shared + difference, shared, clusters))]


def curves(k: int, rng: np.random.Generator) -> list[tuple[float, Interval | None]]:
    """The bits at equal loss, RATIO, at the three levels of a comparison.

    Loss falls by a power of the bits, with a slope and a level of each cluster. A cluster has one
    to five rows a curve, a row five points with errors in bits and in loss.
    """
    ratios = np.exp(rng.normal(np.log(RATIO), 0.2, k))
    clusters = np.repeat(np.arange(k), rng.integers(1, 6, k))
    slope, level = rng.uniform(0.4, 0.8, k), 0.3 * np.exp(rng.normal(0, 0.15, k))

    def curve(scale: np.ndarray) -> Curve:
        bits = np.geomspace(3e4, 8e5, 5) * np.exp(rng.normal(0, 0.1, (len(clusters), 5)))
        power = (bits / (2e5 * scale[clusters, None])) ** -slope[clusters, None]
        loss = level[clusters, None] * power * np.exp(rng.normal(0, 0.05, bits.shape))
        return Curve(clusters, bits, loss + rng.normal(0, 0.003, bits.shape))

    a, b = curve(ratios), curve(np.ones(k))
    return [(RATIO, found) for found in bits_at_equal_loss(a, b, loss_levels([a, b]))]


def coverage(experiment: Experiment, k: int, n: int, seed: int) -> tuple[float, float]:
    """Share of intervals that hold the truth, and share of figures for which none is given.

    Args:
        experiment: one of those above.
        k: number of clusters.
        n: number of experiments.
        seed: seed of the first; experiment i has seed + i.
    """
    hits, given, asked = 0, 0, 0
    for i in range(n):
        for truth, found in experiment(k, np.random.default_rng([seed, k, i])):
            asked += 1
            if found is not None and np.isfinite(found.low):
                given += 1
                hits += found.low <= truth <= found.high
    return hits / max(given, 1), 1 - given / max(asked, 1)


def main() -> None:
    """The full table: 2,000 experiments a cell, seed 0."""
    print(f"{'experiment':<22} " + " ".join(f"{f'{k} clusters':>16}" for k in CLUSTERS))
    for experiment in (normal_clusters, paired_clusters, lognormal_clusters, curves):
        cells = [coverage(experiment, k, 2000, seed=0) for k in CLUSTERS]
        shown = " ".join(f"{100 * hit:7.1f} % ({100 * none:.1f} -)" for hit, none in cells)
        print(f"{experiment.__name__:<22} {shown}")


if __name__ == "__main__":
    main()
