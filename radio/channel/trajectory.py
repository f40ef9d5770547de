"""Values that change from round to round: a channel's SNR, a bandwidth, a share of the airtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.channel.fading import PlaneWaves


def constant(value: float, n: int) -> NDArray[np.float64]:
    """float64[n], always the same value."""
    return np.full(n, value, np.float64)


def steps(values: Sequence[float], dwell: int, n: int) -> NDArray[np.float64]:
    """float64[n]: each of `values` for `dwell` rounds, then from the first again.

    Raises:
        ConfigError: for no values, or a dwell below 1 round.
    """
    if len(values) == 0 or dwell < 1:
        raise ConfigError(
            f"trajectory steps: {len(values)} values, dwell {dwell} rounds; both must be at least 1"
        )
    return np.asarray(values, np.float64)[np.arange(n) // dwell % len(values)]


def independent(values: Sequence[float], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """float64[n]: in every round one of `values`, each as likely as the others, whatever came
    before.

    Raises:
        ConfigError: for no values.
    """
    if len(values) == 0:
        raise ConfigError("trajectory independent: 0 values; give at least 1")
    return rng.choice(np.asarray(values, np.float64), n)


def gauss_markov(
    mean: float,
    std: float,
    correlation: float,
    low: float,
    high: float,
    n: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """float64[n]: a first-order Gauss-Markov walk, x' = mean + ρ(x - mean) + √(1-ρ²)·std·noise,
    held in low..high.

    The walk itself is not limited, only what is read from it, so that it does not stick to a limit.

    Args:
        mean: the unlimited walk's, which starts from its stationary distribution.
        std: standard deviation of the unlimited walk, ≥ 0.
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
            f"trajectory gauss_markov: correlation {correlation} (0..1), std {std} (>= 0), low "
            f"{low} <= high {high}"
        )
    noise = rng.standard_normal(n)
    walk = np.empty(n)
    state = 0.0
    for i in range(n):
        state = noise[i] if i == 0 else correlation * state + (1 - correlation**2) ** 0.5 * noise[i]
        walk[i] = state
    return np.clip(mean + std * walk, low, high)


_WAVES = 64
"""Scattered waves that are summed: the fourth moment of their sum lies 1 / (2 _WAVES) below a
Gaussian's."""


def fading(
    mean: float,
    k_factor_db: float,
    doppler_per_round: float,
    low: float,
    high: float,
    n: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """float64[n]: power in dB of a Rician channel that stands still within a round, held in
    low..high.

    The scattered part (channel.PlaneWaves) comes evenly from all round: its power is exponentially
    distributed, and rounds that lie k apart correlate by J0(2π·doppler·k). The line of sight has no
    Doppler shift.

    Args:
        mean: 10 log10 of the mean power before the limits.
        k_factor_db: power of the line of sight over the scattered power.
        doppler_per_round: Doppler frequency times the time from one round to the next, ≥ 0.
        low: smallest value.
        high: largest value, ≥ low.
        n: rounds.
        rng: source of angles and phases.

    Raises:
        ConfigError: for a negative Doppler frequency, or high < low.
    """
    if not (doppler_per_round >= 0 and low <= high):
        raise ConfigError(
            f"trajectory fading: doppler_per_round {doppler_per_round} (>= 0), low {low} <= high "
            f"{high}"
        )
    scattered = PlaneWaves(1, rng, _WAVES)(doppler_per_round * np.arange(n, dtype=np.float64))[:, 0]
    line_of_sight = np.exp(2j * np.pi * rng.uniform())
    k_factor = 10 ** (k_factor_db / 10)
    gain = (k_factor**0.5 * line_of_sight + scattered) / (k_factor + 1) ** 0.5
    power: NDArray[np.float64] = np.maximum(np.abs(gain) ** 2, 1e-30)
    return np.clip(mean + 10 * np.log10(power), low, high)
