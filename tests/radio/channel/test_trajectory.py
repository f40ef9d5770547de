from functools import cache

import numpy as np
import pytest
from scipy.special import j0
from scipy.stats import kstest, ncx2

from hil.contract import ConfigError
from radio.channel import trajectory


def test_constant_and_steps():
    assert trajectory.constant(17.0, 3).tolist() == [17.0, 17.0, 17.0]
    assert trajectory.steps([13, 25], 2, 7).tolist() == [13, 13, 25, 25, 13, 13, 25]
    assert trajectory.steps([1.0], 1, 0).tolist() == []


def test_gauss_markov_has_the_asked_statistics():
    x = trajectory.gauss_markov(19.0, 3.0, 0.8, -1e9, 1e9, 40_000, np.random.default_rng(61))
    assert x.dtype == np.float64
    assert x.mean() == pytest.approx(19.0, abs=0.2)
    assert x.std() == pytest.approx(3.0, rel=0.05)
    assert np.corrcoef(x[:-1], x[1:])[0, 1] == pytest.approx(0.8, abs=0.02)


def test_gauss_markov_stays_within_its_limits_and_repeats_with_its_seed():
    one, two = (
        trajectory.gauss_markov(19.0, 6.0, 0.5, 13.0, 25.0, 500, np.random.default_rng(62))
        for _ in range(2)
    )
    assert one.min() == 13.0
    assert one.max() == 25.0
    np.testing.assert_array_equal(one, two)


def test_impossible_arguments_are_refused():
    rng = np.random.default_rng(63)
    for bad in ({"correlation": 1.5}, {"std": -1.0}, {"low": 5.0, "high": 4.0}):
        arguments = {"mean": 0.0, "std": 1.0, "correlation": 0.5, "low": 0.0, "high": 1.0, **bad}
        with pytest.raises(ConfigError):
            trajectory.gauss_markov(**arguments, n=3, rng=rng)
    with pytest.raises(ConfigError):
        trajectory.steps([], 1, 3)
    with pytest.raises(ConfigError):
        trajectory.steps([1.0], 0, 3)


def test_independent_values_are_equally_likely_and_know_nothing_of_the_round_before():
    x = trajectory.independent([-5.0, 0.0, 5.0, 15.0], 40_000, np.random.default_rng(64))
    values, counts = np.unique(x, return_counts=True)
    assert values.tolist() == [-5.0, 0.0, 5.0, 15.0]
    np.testing.assert_allclose(counts, 10_000, rtol=0.04)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.02
    with pytest.raises(ConfigError, match="0 values"):
        trajectory.independent([], 3, np.random.default_rng(64))


DOPPLER = 0.07


@cache
def powers(k_factor_db):
    """float[4000, 9], linear powers of mean 1: a fading of nine rounds a row."""
    rows = [
        trajectory.fading(0, k_factor_db, DOPPLER, -300, 100, 9, np.random.default_rng(seed))
        for seed in range(4000)
    ]
    return 10 ** (np.stack(rows) / 10)


@pytest.mark.slow
@pytest.mark.parametrize("k_factor_db", [-40.0, 3.0])
def test_fading_power_is_distributed_as_rayleigh_and_rice_have_it(k_factor_db):
    power = powers(k_factor_db)[:, 0]
    k = 10 ** (k_factor_db / 10)
    # |line of sight + scatter|² is a non-central chi-square of two degrees; without line of sight
    # exponential
    assert kstest(2 * (k + 1) * power, ncx2(df=2, nc=2 * k).cdf).pvalue > 0.01
    assert power.mean() == pytest.approx(1.0, abs=0.05)
    if k_factor_db == -40:
        assert kstest(power, "expon").pvalue > 0.01


@pytest.mark.parametrize("k_factor_db", [-40.0, 3.0])
def test_fading_correlates_as_jakes_has_it(k_factor_db):
    k, power = 10 ** (k_factor_db / 10), powers(k_factor_db)
    j = j0(2 * np.pi * DOPPLER * np.arange(9))
    found = [np.corrcoef(power[:, 0], power[:, lag])[0, 1] for lag in range(9)]
    # of powers: the square of the amplitudes' correlation, and twice it against the steady line of
    # sight
    np.testing.assert_allclose(found, (j**2 + 2 * k * j) / (1 + 2 * k), atol=0.05)


def test_fading_stays_within_its_limits_around_its_mean_and_repeats_with_its_seed():
    one, two = (
        trajectory.fading(10.0, -40.0, 0.2, -5.0, 14.0, 2000, np.random.default_rng(65))
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one.min(), one.max()) == (-5.0, 14.0)
    steady = trajectory.fading(10.0, 40.0, 0.2, -5.0, 25.0, 200, np.random.default_rng(66))
    np.testing.assert_allclose(steady, 10.0, atol=0.4)
    with pytest.raises(ConfigError, match="low 3"):
        trajectory.fading(0.0, 0.0, 0.1, 3.0, 2.0, 5, np.random.default_rng(67))
