"""What a plan costs, and how a plan is brought down to a budget.

A module that gets no direction is kept if the edge holds a stale update of it, else it is sent
without any (rank 0); a plan that can afford nothing keeps everything, so that nothing is
transmitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from cloud.policies.state import Situation
from hil.codec import kept_bits
from hil.contract import KEEP, Bools, Ints, RankPlan, RoundObservation

KEPT: Final = -1
"""KEEP where ranks stand in an array."""


def plan_bits(obs: RoundObservation, plan: RankPlan) -> int:
    """Payload bits that a plan costs by the observation's own prices; 0 for a plan that sends
    nothing."""
    if plan.sends_nothing:
        return 0
    bits, n_kept = obs.overhead_bits, 0
    for module, rank in plan.ranks.items():
        if rank == KEEP:
            n_kept += 1
        elif rank > 0:
            bits += obs.bits_per_module + rank * obs.bits_per_direction[module]
    return bits + int(kept_bits(n_kept))


def bits_of_ranks(s: Situation, ranks: Ints, keep: Bools) -> Ints:
    """int[N]: `plan_bits` for N plans as arrays.

    Args:
        s: N rounds.
        ranks: int[N, M], 0..R; not read where `keep` is true.
        keep: bool[N, M], modules that stay as the edge holds them.
    """
    chosen = np.where(keep, 0, ranks)
    bits = s.bits[np.arange(len(s.bits)), chosen].sum(axis=1)
    total = s.overhead_bits + bits + kept_bits(keep.sum(axis=1))
    return np.where(keep.all(axis=1), 0, total)


def keep_all(obs: RoundObservation) -> RankPlan:
    """The plan that sends nothing."""
    return RankPlan(ranks=dict.fromkeys(obs.module_shapes, KEEP))


def uniform(obs: RoundObservation, rank: int) -> RankPlan:
    """Every module at `rank`, or at its full rank min(d_out, d_in) where that is smaller."""
    return RankPlan(
        ranks={module: min(rank, *shape) for module, shape in obs.module_shapes.items()}
    )


def share_of(obs: RoundObservation, even_shares: float = 1.0) -> RoundObservation:
    """The observation with the budget that this round gets when all that is left is split evenly
    among the rounds.

    A policy that knows nothing of later rounds would spend an episode's budget in the first; what a
    round leaves over is the later ones'. Where every round has a budget of its own the observation
    stays as it is.

    Args:
        obs: a round; obs.budget.rounds is the number of rounds that the budget must last.
        even_shares: parts of such an even split that this round may take, > 0, and never more than
            is left.
    """
    if obs.budget.rounds == 1:
        return obs
    part = min(1.0, even_shares / obs.budget.rounds)
    budget = replace(
        obs.budget, airtime_s=obs.budget.airtime_s * part, bits=int(obs.budget.bits * part)
    )
    return replace(obs, budget=replace(budget, rounds=1))


# ----------------------------------------------------------------------------- down to the budget


def project(obs: RoundObservation, plan: RankPlan) -> RankPlan:
    """The plan with every rank scaled down by one common factor, the largest with which it fits
    obs.budget.bits.

    Ranks are rounded down, at most the module's full rank. A rank that falls to 0 keeps what the
    edge holds of the module; one that the plan has at 0 stays there. When no direction is left
    over, everything is kept.
    """
    modules = list(obs.module_shapes)
    ranks = np.array(
        [[KEPT if plan.ranks[m] == KEEP else plan.ranks[m] for m in modules]], np.int64
    )
    per_direction = np.array([obs.bits_per_direction[m] for m in modules], np.int64)
    brought_down = _scaled(
        np.minimum(ranks, [min(obs.r_max, *shape) for shape in obs.module_shapes.values()]),
        np.array([[obs.held.get(m, 0) > 0 for m in modules]]),
        lambda r: np.where(r > 0, obs.bits_per_module + per_direction * r, 0),
        obs.budget.bits - obs.overhead_bits,
        obs.r_max,
    )[0]
    return RankPlan(
        ranks={
            m: KEEP if r == KEPT else r for m, r in zip(modules, brought_down.tolist(), strict=True)
        }
    )


def project_ranks(s: Situation, ranks: Ints, *, budget_bits: Ints | None = None) -> Ints:
    """int[N, M], the same as `project` for N plans as arrays; KEPT (-1) stands for a module that is
    kept.

    Args:
        s: N rounds.
        ranks: int[N, M], 0..R or KEPT.
        budget_bits: [N], in place of s.budget_bits.
    """
    budget = s.budget_bits if budget_bits is None else budget_bits
    modules = np.arange(len(s.bits))
    return _scaled(
        np.minimum(ranks, np.minimum(s.shapes.min(axis=1), s.r_max)),
        s.holds,
        lambda r: s.bits[modules, np.maximum(r, 0)],
        budget - s.overhead_bits,
        s.r_max,
    )


def _scaled(
    ranks: Ints,
    holds: Bools,
    bits: Callable[[Ints], Ints],
    room: Ints | int,
    r_max: int,
) -> Ints:
    """int[N, M]: all ranks of a plan scaled down by one factor, the largest with which the plan
    fits; KEPT everywhere where none does.

    Args:
        ranks: int[N, M], 0..R or KEPT.
        holds: bool[N, M] or [1, M], the edge holds something of the module.
        bits: gives int[N, M], payload bits of every module at ranks int[N, M].
        room: [N] or one for all, payload bits for modules and digest.
        r_max: R.
    """
    above, below = _factors(r_max)

    def at(step: Ints) -> Ints:
        scaled = np.where(
            ranks > 0, ranks * above[step, np.newaxis] // below[step, np.newaxis], ranks
        )
        return np.where((ranks > 0) & (scaled == 0) & holds, KEPT, scaled)

    def digest(scaled: Ints) -> Ints:
        return kept_bits((scaled == KEPT).sum(axis=1))

    def largest(room: Ints | int) -> Ints:
        low, high = np.zeros(len(ranks), np.int64), np.full(len(ranks), len(above) - 1)
        while (low < high).any():
            middle = (low + high + 1) // 2
            fits = bits(at(middle)).sum(axis=1) <= room
            low, high = (
                np.where(fits, middle, low),
                np.where(fits, high, np.maximum(middle - 1, low)),
            )
        return low

    # What a factor costs rises with it, but for the digest of kept modules; a smaller factor keeps
    # no fewer.
    step = largest(room)
    step = np.where(digest(at(step)) > 0, largest(room - digest(at(step))), step)
    scaled = at(step)
    affordable = bits(scaled).sum(axis=1) + digest(scaled) <= room
    empty = ~(scaled > 0).any(axis=1) & (step < len(above) - 1)
    return np.where((empty | ~affordable)[:, np.newaxis], KEPT, scaled)


@cache
def _factors(r_max: int) -> tuple[Ints, Ints]:
    """Numerators and denominators of every fraction within 0..1 with denominators up to r_max,
    rising: the factors at which some rank, rounded down, changes."""
    fractions: dict[float, tuple[int, int]] = {}
    for q in range(r_max, 0, -1):
        for j in range(q + 1):
            fractions[j / q] = (j, q)
    above, below = np.array([fractions[value] for value in sorted(fractions)], np.int64).T
    return above, below
