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
    mean_of_clusters,
    paired_difference,
    ratio_of_clusters,
    steps_to_target,
)
from tests.hil.evaluation import coverage


@pytest.mark.slow
@pytest.mark.parametrize("k", coverage.CLUSTERS)
@pytest.mark.parametrize(
    ("experiment", "least", "most"),
    [
        (coverage.normal_clusters, 0.93, 0.97),
        (coverage.paired_clusters, 0.93, 0.97),
        (coverage.lognormal_clusters, 0.90, 1.0),
        (coverage.curves, 0.90, 1.0),
    ],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(
    experiment: coverage.Experiment, k: int, least: float, most: float
) -> None:
    """The short form of coverage.py: three standard errors of the share wider than its bars."""
    n = 150
    found, without = coverage.coverage(experiment, k, n, seed=7)
    slack = 3 * np.sqrt(0.95 * 0.05 / n)
    assert least - slack <= found <= most + slack
    assert without < 0.02


def test_equal_clusters_agree_with_students_t() -> None:
    values = np.random.default_rng(1).normal(2, 1, (12, 5))
    found = clustered_mean(values.ravel(), np.repeat(np.arange(12), 5))
    means = values.mean(axis=1)
    low, high = stats.t.interval(0.95, 11, loc=means.mean(), scale=stats.sem(means))
    assert (found.mean, found.low, found.high) == pytest.approx((means.mean(), low, high))


def test_a_cluster_counts_once_however_many_values_it_has() -> None:
    found = clustered_mean([1.0, 1.0, 1.0, 1.0, 4.0, 7.0], [0, 0, 0, 0, 1, 2])
    assert found.mean == 4.0
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, 4.0, np.sqrt(3)))


@pytest.mark.parametrize("clusters", [[0, 0], [0, 1], [0, 1, 1]])
def test_fewer_than_three_clusters_give_no_interval(clusters: list[int]) -> None:
    found = clustered_mean(np.arange(len(clusters)), clusters)
    assert np.isfinite(found.mean)
    assert np.isnan([found.low, found.high]).all()


def test_what_is_not_finite_is_left_out() -> None:
    assert np.isnan(clustered_mean([np.nan], [0]).mean)
    left_out = clustered_mean([1.0, np.nan, 3.0], [0, 1, 2])
    assert left_out.mean == 2.0
    assert np.isnan(left_out.low)


def test_a_pair_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(8), 10)
    shared = rng.normal(0, 5, 80)
    a, b = shared + 0.2 + rng.normal(0, 0.01, 80), shared
    found = paired_difference(a, b, clusters)
    assert found.low < 0.2 < found.high
    assert found.high - found.low < 0.02
    assert clustered_mean(a, clusters).high - clustered_mean(a, clusters).low > 1


def test_one_figure_in_ten_may_be_missing() -> None:
    figures = np.arange(10.0)
    figures[3] = np.nan
    found = mean_of_clusters(figures)
    assert found is not None
    assert found.mean == pytest.approx((45 - 3) / 9)
    figures[4] = np.nan
    assert mean_of_clusters(figures) is None
    assert mean_of_clusters(np.empty(0)) is None


def test_a_ratio_is_a_geometric_mean() -> None:
    ratios = np.array([0.25, 0.5, 1.0])
    found = ratio_of_clusters(np.log(ratios))
    assert found is not None
    bounds = np.exp(stats.t.interval(0.95, 2, np.log(0.5), stats.sem(np.log(ratios))))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, *bounds))


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
    found = bits_at_equal_loss(a, b, [1.5, 2.0, 2.5])
    for ratio in found:
        assert ratio is not None
        assert ratio.mean == pytest.approx(0.7, rel=0.08)
        assert ratio.low <= 0.7 <= ratio.high
        assert ratio.high - ratio.low < 0.2


def test_without_noise_the_ratio_is_exact_and_the_other_way_round_its_inverse() -> None:
    rng = np.random.default_rng(5)
    a, b = (_curve(np.geomspace(1e4, 1e6, 5) * s, s, rng, noise=0) for s in (0.25, 1.0))
    (forth,), (back,) = (
        bits_at_equal_loss(a, b, [2.2]),
        bits_at_equal_loss(b, a, [2.2]),
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
    found = bits_at_equal_loss(a, b, [0.5, 1.5, 2.5, 4.0])
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
    (ratio,) = bits_at_equal_loss(curve, line, [level])
    assert ratio is not None
    assert ratio.mean == pytest.approx(10 ** ((1.5 + 3) / 2 - (4 - np.log2(level))))
    assert loss_levels([curve], (0.0, 0.5, 1.0)) == pytest.approx([1.0, level, 3.5])


def test_levels_lie_within_all_curves_of_nine_clusters_in_ten() -> None:
    bits = np.array([1e5, 2e5, 4e5, 8e5])
    a, b = (
        Curve(np.arange(2), np.tile(bits, (2, 1)), np.tile(loss, (2, 1)))
        for loss in ([8.0, 4.0, 2.0, 1.0], [4.0, 2.0, 1.0, 0.5])
    )
    assert loss_levels([a, b]) == pytest.approx([4**0.25, 4**0.5, 4**0.75])
    one_is_worse = Curve(a.clusters, a.bits, a.loss * [[1], [2]])
    assert loss_levels([one_is_worse], (0, 1)) == pytest.approx([2, 8])
    many = Curve(np.arange(11), np.tile(bits, (11, 1)), np.tile(a.loss[:1], (11, 1)))
    many.loss[5] *= 2
    assert loss_levels([many], (0, 1)) == pytest.approx([1, 8])
    at_nothing = Curve(a.clusters, a.bits, a.loss - 7.84)  # 0.16 down to below the whole update's
    assert loss_levels([at_nothing] * 2) == pytest.approx([0.02, 0.04, 0.08])
    assert loss_levels([a, Curve(b.clusters, b.bits, b.loss / 100)]) == []
    assert loss_levels([a, Curve(b.clusters, 0 * b.bits, b.loss)]) == []


def test_curves_over_other_streams_cannot_be_compared() -> None:
    a = Curve(np.array([0, 1]), np.ones((2, 2)), np.ones((2, 2)))
    b = Curve(np.array([0, 2]), np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="same clusters"):
        bits_at_equal_loss(a, b, [1.0])


def test_steps_to_a_target_and_area() -> None:
    history = History("ppo", 0, (0, 100, 200, 300), (-1.0, -0.5, -0.6, 0.0))
    assert steps_to_target(history, -0.75) == pytest.approx(50)
    assert steps_to_target(history, -0.5) == pytest.approx(100)
    assert steps_to_target(history, -0.3) == pytest.approx(250)
    assert steps_to_target(history, -2.0) == 0
    assert steps_to_target(history, 0.1) is None
    assert area_under(history) == pytest.approx((-0.75 - 0.55 - 0.3) / 3)
    assert area_under(History("one", 0, (5,), (2.0,))) == 2.0
