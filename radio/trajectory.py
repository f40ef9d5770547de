"""Values that change from round to round: a channel's SNR, a bandwidth, a share of the airtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError


def constant(value: float, n: int) -> NDArray[np.float64]:
    """float64[n], always the same value."""
    return np.full(n, value, np.float64)


def steps(values: Sequence[float], dwell: int, n: int) -> NDArray[np.float64]:
    """float64[n]: each of `values` for `dwell` rounds, then from the first again.

    Raises:
        ConfigError: for no values, or a dwell below 1 round.
    """
    if len(values) == 0 or dwell < 1:
        raise ConfigError(f"trajectory steps: {len(values)} values, dwell {dwell} rounds; both must be at least 1")
    return np.asarray(values, np.float64)[np.arange(n) // dwell % len(values)]


def gauss_markov(
    mean: float, std: float, correlation: float, low: float, high: float, n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """float64[n]: a first-order Gauss-Markov walk, x' = mean + ρ(x - mean) + √(1-ρ²)·std·noise, held in low..high.

    The walk itself is not limited, only what is read from it, so that it does not stick to a limit.

    Args:
        mean: of the unlimited walk, which starts from its stationary distribution.
        std: of the unlimited walk, ≥ 0.
        correlation: ρ of one round and the next, 0..1.
        low: smallest value.
        high: largest value, ≥ low.
        n: rounds.
        rng: source of the noise; n values are drawn.

    Raises:
        ConfigError: for a correlation outside 0..1, a negative std, or high < low.
    """
    if not (0 <= correlation <= 1 and std >= 0 and low <= high):
        raise ConfigError(
            f"trajectory gauss_markov: correlation {correlation} (0..1), std {std} (>= 0), low {low} <= high {high}"
        )
    noise = rng.standard_normal(n)
    walk = np.empty(n)
    state = 0.0
    for i in range(n):
        state = noise[i] if i == 0 else correlation * state + (1 - correlation**2) ** 0.5 * noise[i]
        walk[i] = state
    return np.clip(mean + std * walk, low, high)
