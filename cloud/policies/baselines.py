"""Rank policies that weigh nothing: one rank for all, chance, and all that the training left."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from cloud.policies.plans import keep_all, plan_bits, project, share_of, uniform
from cloud.policies.state import checked_spectrum
from hil.contract import ConfigError, RankPlan, RoundObservation


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
            raise ConfigError(
                f"fixed rank {self._rank} exceeds r_max = {obs.r_max}; lower the one or raise the "
                "other"
            )
        return uniform(obs, self._rank)


class LargestUniform:
    """The largest rank that fits this round's share of the budget when every module gets the
    same."""

    def __init__(self) -> None:
        self.name = "largest uniform"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Rank 1..r_max, or everything kept when not even rank 1 fits."""
        obs = share_of(obs)
        ranks = range(1, obs.r_max + 1)
        n_fitting = bisect_right(
            ranks, obs.budget.bits, key=lambda rank: plan_bits(obs, uniform(obs, rank))
        )
        return uniform(obs, ranks[n_fitting - 1]) if n_fitting else keep_all(obs)


class RandomFeasible:
    """Ranks drawn uniformly from 1..r_max, brought down to this round's share of the budget; the
    same for a seed."""

    def __init__(self, seed: int) -> None:
        self.name = "random feasible"
        self._seed = seed

    def plan(self, obs: RoundObservation) -> RankPlan:
        """A plan that depends on the seed, the round's number and the budget alone."""
        rng = np.random.default_rng([self._seed, obs.round_id])
        ranks = rng.integers(1, obs.r_max + 1, len(obs.module_shapes)).tolist()
        return project(
            share_of(obs), RankPlan(ranks=dict(zip(obs.module_shapes, ranks, strict=True)))
        )


class AsTrained:
    """All that the training left: it has chosen the ranks already, by adaptation (AdaLoRA) or at
    the start (EVA).

    A direction counts if its singular value stands above the rounding of the largest, s_0 ·
    max(d_out, d_in) · ε. What does not fit this round's share of the budget is not cut down, since
    that would be another method: everything is kept.
    """

    def __init__(self, method: str, rank: int) -> None:
        self.name = f"{method} rank {rank}"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError when a singular value is not finite."""
        ranks = {}
        for module, shape in obs.module_shapes.items():
            spectrum = checked_spectrum(obs, module)
            ranks[module] = int(
                np.count_nonzero(spectrum > spectrum[0] * max(shape) * np.finfo(np.float32).eps)
            )
        plan = RankPlan(ranks=ranks)
        fits = plan_bits(obs, plan) <= share_of(obs).budget.bits
        return plan if fits and any(ranks.values()) else keep_all(obs)
