import numpy as np
import pytest

from hil.contract import ConfigError
from radio import trajectory


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
    one, two = (trajectory.gauss_markov(19.0, 6.0, 0.5, 13.0, 25.0, 500, np.random.default_rng(62)) for _ in range(2))
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
