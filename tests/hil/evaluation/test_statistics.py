"""Intervals on simulated data whose truth is known, and curves whose ratio is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hil.evaluation.statistics import (
    Curve,
    History,
    area_under,
    bits_at_equal_loss,
    clustered_mean,
    loss_levels,
    paired_difference,
    steps_to_target,
)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Strong effects of 10 clusters: intervals that took the 80 values for independent would cover
    about 60 %."""
    rng = np.random.default_rng(0)
    clusters, hits, n = np.repeat(np.arange(10), 8), 0, 400
    for _ in range(n):
        values = 0.3 + rng.normal(0, 1, 10)[clusters] + rng.normal(0, 0.5, 80)
        found = clustered_mean(values, clusters, rng, n_boot=400)
        hits += found.low <= 0.3 <= found.high
    assert 0.92 <= hits / n <= 0.98


def test_it_agrees_with_students_t_on_cluster_means() -> None:
    rng = np.random.default_rng(1)
    clusters, effects = np.repeat(np.arange(12), 5), rng.normal(2, 1, 12)
    found = clustered_mean(effects[clusters], clusters, rng, n_boot=20_000)
    low, high = stats.t.interval(
        0.95, 11, loc=effects.mean(), scale=effects.std(ddof=1) / np.sqrt(12)
    )
    assert found.mean == pytest.approx(effects.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08)


def test_what_cannot_be_told_is_nan() -> None:
    rng = np.random.default_rng(2)
    one = clustered_mean([1.0, 3.0], ["a", "a"], rng)
    assert one.mean == 2.0
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(clustered_mean([np.nan], [0], rng).mean)
    left_out = clustered_mean([1.0, np.nan, 3.0], [0, 1, 2], rng)
    assert left_out.mean == 2.0


def test_a_pair_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(8), 10)
    shared = rng.normal(0, 5, 80)
    a, b = shared + 0.2 + rng.normal(0, 0.01, 80), shared
    found = paired_difference(a, b, clusters, rng)
    assert found.low < 0.2 < found.high
    assert found.high - found.low < 0.02
    assert clustered_mean(a, clusters, rng).high - clustered_mean(a, clusters, rng).low > 1


def _curve(bits: np.ndarray, shift: float, rng: np.random.Generator, noise: float = 0.05) -> Curve:
    """Loss = -log10(bits / shift) + a cluster's own offset."""
    clusters = np.repeat(np.arange(9), 2)
    rows = np.broadcast_to(bits, (18, len(bits))).astype(float)
    offset = np.random.default_rng(7).normal(0, 0.1, 9)[clusters, np.newaxis]
    loss = 7 - np.log10(rows / shift) + offset + rng.normal(0, noise, rows.shape)
    return Curve(clusters, rows, loss)


def test_the_ratio_of_two_shifted_curves_is_the_shift() -> None:
    rng = np.random.default_rng(4)
    a = _curve(np.geomspace(1e4, 1e6, 5), 0.7, rng)
    b = _curve(np.geomspace(1.5e4, 1.2e6, 4), 1.0, rng)
    found = bits_at_equal_loss(a, b, [1.5, 2.0, 2.5], rng, n_boot=400)
    for ratio in found:
        assert ratio is not None
        assert ratio.mean == pytest.approx(0.7, rel=0.08)
        assert ratio.low <= 0.7 <= ratio.high
        assert ratio.high - ratio.low < 0.2


def test_without_noise_the_ratio_is_exact_and_the_other_way_round_its_inverse() -> None:
    rng = np.random.default_rng(5)
    a, b = (_curve(np.geomspace(1e4, 1e6, 5) * s, s, rng, noise=0) for s in (0.25, 1.0))
    (forth,), (back,) = (
        bits_at_equal_loss(a, b, [2.2], rng, 50),
        bits_at_equal_loss(b, a, [2.2], rng, 50),
    )
    assert forth is not None
    assert back is not None
    assert forth.mean == pytest.approx(0.25)
    assert (forth.low, forth.high) == pytest.approx((0.25, 0.25))
    assert back.mean == pytest.approx(4)


def test_a_level_out_of_reach_has_no_ratio() -> None:
    rng = np.random.default_rng(6)
    a = _curve(np.geomspace(1e4, 1e6, 5), 1.0, rng)
    b = _curve(np.geomspace(1e4, 1e5, 5), 1.0, rng)
    found = bits_at_equal_loss(a, b, [0.5, 1.5, 2.5, 4.0], rng, n_boot=100)
    assert [ratio is None for ratio in found] == [True, True, False, True]


def test_nothing_sent_is_no_point_and_a_bump_is_pooled() -> None:
    bits = np.array([[0.0, 10.0, 100.0, 1000.0]])
    curve = Curve(
        np.array([0]), bits, np.array([[9.0, 3.0, 4.0, 1.0]])
    )  # 3 and 4 pool: 3.5 at 10^1.5
    line = Curve(
        np.array([0]), np.array([[1.0, 1e4]]), np.array([[16.0, 1.0]])
    )  # log10 bits = 4 - log2 loss
    level = 3.5**0.5  # half-way from 3.5 to 1, as logarithms
    (ratio,) = bits_at_equal_loss(curve, line, [level], np.random.default_rng(0), n_boot=10)
    assert ratio is not None
    assert ratio.mean == pytest.approx(10 ** ((1.5 + 3) / 2 - (4 - np.log2(level))))
    assert loss_levels(curve, (0.0, 0.5, 1.0)) == pytest.approx([1.0, level, 3.5])


def test_curves_over_other_streams_cannot_be_compared() -> None:
    a = Curve(np.array([0, 1]), np.ones((2, 2)), np.ones((2, 2)))
    b = Curve(np.array([0, 2]), np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="same clusters"):
        bits_at_equal_loss(a, b, [1.0], np.random.default_rng(0))


def test_steps_to_a_target_and_area() -> None:
    history = History("ppo", 0, (0, 100, 200, 300), (-1.0, -0.5, -0.6, 0.0))
    assert steps_to_target(history, -0.75) == pytest.approx(50)
    assert steps_to_target(history, -0.5) == pytest.approx(100)
    assert steps_to_target(history, -0.3) == pytest.approx(250)
    assert steps_to_target(history, -2.0) == 0
    assert steps_to_target(history, 0.1) is None
    assert area_under(history) == pytest.approx((-0.75 - 0.55 - 0.3) / 3)
    assert area_under(History("one", 0, (5,), (2.0,))) == 2.0
