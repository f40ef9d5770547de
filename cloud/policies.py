"""Rank policies that need no learning, one class each, and what a plan costs.

A module that gets no direction is kept if the edge holds a stale update of it, else it is sent without any (rank 0);
a plan that can afford nothing keeps everything, so that nothing is transmitted.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hil.codec import KEPT_FROM_BITS
from hil.contract import KEEP, ConfigError, Keep, ModelError, RankPlan, RankPolicy, RoundObservation


def plan_bits(obs: RoundObservation, plan: RankPlan) -> int:
    """Payload bits that a plan costs by the observation's own prices; 0 for a plan that sends nothing."""
    if plan.sends_nothing:
        return 0
    bits = obs.overhead_bits
    for module, rank in plan.ranks.items():
        if rank != KEEP and rank > 0:
            bits += obs.bits_per_module + rank * obs.bits_per_direction[module]
    return bits + (KEPT_FROM_BITS if KEEP in plan.ranks.values() else 0)


def keep_all(obs: RoundObservation) -> RankPlan:
    """The plan that sends nothing."""
    return RankPlan(ranks=dict.fromkeys(obs.module_shapes, KEEP))


def uniform(obs: RoundObservation, rank: int) -> RankPlan:
    """Every module at `rank`, or at its full rank min(d_out, d_in) where that is smaller."""
    return RankPlan(ranks={module: min(rank, *shape) for module, shape in obs.module_shapes.items()})


class FixedRank:
    """The same rank in every module and every round, whether or not the budget has room for it."""

    def __init__(self, rank: int) -> None:
        if rank < 1:
            raise ConfigError(f"fixed rank {rank} sends nothing; ask for at least 1")
        self.name = f"fixed rank {rank}"
        self._rank = rank

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ConfigError when the rank exceeds obs.r_max, the rank that was trained."""
        if self._rank > obs.r_max:
            raise ConfigError(f"fixed rank {self._rank} exceeds r_max = {obs.r_max}; lower the one or raise the other")
        return uniform(obs, self._rank)


class LargestUniform:
    """The largest rank that fits the budget when every module gets the same."""

    def __init__(self) -> None:
        self.name = "largest uniform"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Rank 1..r_max, or everything kept when not even rank 1 fits."""
        ranks = range(1, obs.r_max + 1)
        n_fitting = bisect_right(ranks, obs.budget.bits, key=lambda rank: plan_bits(obs, uniform(obs, rank)))
        return uniform(obs, ranks[n_fitting - 1]) if n_fitting else keep_all(obs)


class SpectralGreedy:
    """Direction by direction to the module that gains the largest share of its own energy.

    The priority of a module's next direction i is s_i² / Σ_j s_j², whatever it costs: every direction has the same
    price in the comparison, and its real bits only in the budget. Ties go to the lower direction, then to the earlier
    module. A direction is taken if the plan with it, kept modules' digest included, still fits the budget; the first
    that does not closes its module, while the others go on. Directions without energy are never taken. It ends when
    every module is closed or at its full rank.
    """

    def __init__(self) -> None:
        self.name = "spectral greedy"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError when a singular value is not finite."""
        modules = list(obs.module_shapes)
        held = [obs.held.get(module, 0) > 0 for module in modules]
        prices = [obs.bits_per_direction[module] for module in modules]
        ranks, closed = [0] * len(modules), [False] * len(modules)
        bits, n_kept = obs.overhead_bits, sum(held)
        for module in _by_relative_energy(obs):
            if closed[module]:
                continue
            first = ranks[module] == 0
            bits_then = bits + prices[module] + (obs.bits_per_module if first else 0)
            n_kept_then = n_kept - (first and held[module])
            if bits_then + (KEPT_FROM_BITS if n_kept_then else 0) > obs.budget.bits:
                closed[module] = True
                continue
            ranks[module] += 1
            bits, n_kept = bits_then, n_kept_then
        if not any(ranks):
            return keep_all(obs)
        unsent: list[int | Keep] = [KEEP if stale else 0 for stale in held]
        return RankPlan(
            ranks={name: rank or unsent[i] for i, (name, rank) in enumerate(zip(modules, ranks, strict=True))}
        )


def _by_relative_energy(obs: RoundObservation) -> list[int]:
    """Module index of every direction with energy, those with the largest share of their module's energy first."""
    energy = np.zeros((len(obs.module_shapes), obs.r_max))
    for row, (module, shape) in zip(energy, obs.module_shapes.items(), strict=True):
        spectrum = obs.spectra[module][: min(obs.r_max, *shape)]
        row[: len(spectrum)] = np.square(spectrum, dtype=np.float64)
    if not np.isfinite(energy).all():
        worst = list(obs.module_shapes)[int(np.argmin(np.isfinite(energy).all(axis=1)))]
        raise ModelError(f"the spectrum of {worst} is not finite; the training that made it has diverged")
    total = energy.sum(axis=1, keepdims=True)
    share = np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)
    # Column by column, so that a stable sort leaves ties to the lower direction, then to the earlier module.
    by_direction: NDArray[np.float64] = share.T.reshape(-1)
    order = np.argsort(-by_direction, kind="stable")[: int(np.count_nonzero(by_direction))]
    modules: list[int] = (order % len(obs.module_shapes)).tolist() if obs.module_shapes else []
    return modules


_KINDS: dict[str, Callable[..., RankPolicy]] = {
    "fixed": FixedRank,
    "largest": LargestUniform,
    "greedy": SpectralGreedy,
}


def make_policy(kind: str, **settings: int) -> RankPolicy:
    """The policy of that kind: "fixed" (rank), "largest" or "greedy".

    Raises:
        ConfigError: an unknown kind, or settings that this kind does not take.
    """
    if kind not in _KINDS:
        raise ConfigError(f"policy kind {kind!r} is unknown; choose one of {', '.join(_KINDS)}")
    wanted = set(inspect.signature(_KINDS[kind]).parameters)
    if set(settings) != wanted:
        raise ConfigError(
            f"policy kind {kind!r} takes {', '.join(sorted(wanted)) or 'no settings'}, "
            f"got {', '.join(sorted(settings)) or 'none'}"
        )
    return _KINDS[kind](**settings)
