"""Analytic rules for where the bits of a round go: greedy, water-filling, and the exact plan at a
price."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np

from cloud.policies.allocator import allocate_ranks, rank_plan
from cloud.policies.plans import keep_all, share_of
from cloud.policies.state import checked_spectrum, situation_of
from hil.codec import kept_bits
from hil.contract import (
    KEEP,
    Bools,
    ConfigError,
    Floats,
    Ints,
    Keep,
    ModelError,
    RankPlan,
    RoundObservation,
)


class SpectralGreedy:
    """Direction by direction to the module that gains most by its next one.

    What a direction i of a module with singular values s is taken to be worth:
        "rank": s_i² / Σ_j s_j², its share of the module's energy, whatever it costs;
        "parameter": that for each of its d_out + d_in parameters;
        "kfac": the expected loss that it saves (obs.kfac.missing_if_sent), for each payload bit,
            but no more than the module's directions before it, which have to go first.
    Ties go to the lower direction, then to the earlier module. A direction is taken if the plan
    with it, kept modules' digest included, still fits this round's share of the budget; the first
    that does not closes its module, while the others go on. Directions that are worth nothing are
    never taken. It ends when every module is closed or at its full rank.
    """

    def __init__(self, per: Literal["rank", "parameter", "kfac"]) -> None:
        names = {
            "rank": "spectral greedy",
            "parameter": "greedy per parameter",
            "kfac": "greedy by K-FAC",
        }
        if per not in names:
            raise ConfigError(f"greedy per {per!r} is unknown; choose one of {', '.join(names)}")
        self.name = names[per]
        self._per = per

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError when a singular value or an expected loss is not finite, or is needed
        and missing."""
        obs = share_of(obs)
        order, _ = _falling(self._worth(obs))
        n_fitting = _leading(_prefix_bits(obs, order) <= obs.budget.bits)
        ranks = np.bincount(order[:n_fitting], minlength=len(obs.module_shapes)).tolist()
        return _plan_of(obs, _with_the_rest(obs, ranks, order[n_fitting:].tolist()))

    def _worth(self, obs: RoundObservation) -> Floats:
        if self._per == "kfac":
            return _kfac_per_bit(obs)
        energy = _energy(obs)
        total = energy.sum(axis=1, keepdims=True)
        share = np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)
        worth: Floats = share / _parameters(obs) if self._per == "parameter" else share
        return worth


class Waterfill:
    """Every direction above one level of energy per parameter for the whole model, the lowest that
    fits the budget.

    Reverse water-filling for a set of independent Gaussian sources: what lies below the common
    level is not worth describing. A direction's energy s_i² is that of its d_out + d_in parameters.
    In an episode the budget is this round's share.
    Source: Cover and Thomas, "Elements of Information Theory", 2nd edition, section 10.3.3.
    """

    def __init__(self) -> None:
        self.name = "waterfill"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError when a singular value is not finite."""
        obs = share_of(obs)
        order, worth = _falling(_energy(obs) / _parameters(obs))
        ends = np.append(worth[1:] < worth[:-1], True)[
            : len(order)
        ]  # equal directions lie on the same side
        fits = np.flatnonzero(ends & (_prefix_bits(obs, order) <= obs.budget.bits))
        n_sent = int(fits[-1]) + 1 if fits.size else 0
        return _plan_of(obs, np.bincount(order[:n_sent], minlength=len(obs.module_shapes)).tolist())


BURST: Final = 2.0
"""Even shares of what is left of an episode's budget that one round may take under feedback."""


class ConstantPrice:
    """The plan with the least expected loss (obs.kfac) at one price of a bit, within this round's
    budget.

    Without feedback an episode's budget is split evenly, and the price alone decides what a round
    leaves over. With it a round may take up to BURST even shares, and the price is multiplied by e
    for every even share that the episode is ahead of its rounds, divided by e for every one that it
    is behind. That is dual mirror descent with the entropy as mirror map and step 1, the standard
    way to pace a budget: each round's step price · exp(spent / even share - 1) adds up to a
    function of the airtime spent so far. The last round, and a round with a budget of its own, has
    the price as it is.
    Source: Balseiro, Lu and Mirrokni, "The best of many worlds: dual mirror descent for online
    allocation problems", Operations Research 71 (2023).
    """

    def __init__(self, nats_per_mbit: float, feedback: bool) -> None:
        if not 0 <= nats_per_mbit < math.inf:
            raise ConfigError(f"price {nats_per_mbit} nats/Mbit; it must be finite and at least 0")
        if feedback and nats_per_mbit == 0:
            raise ConfigError("price 0 nats/Mbit stays 0 whatever feedback does; give one above 0")
        self.name = f"price {nats_per_mbit:g} nats/Mbit" + (" with feedback" if feedback else "")
        self._price = nats_per_mbit
        self._feedback = feedback

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError when the expected losses are missing or not finite."""
        price = paced_price(obs, self._price) if self._feedback else self._price
        situation = situation_of(share_of(obs, BURST if self._feedback else 1.0))
        ranks, keep = allocate_ranks(situation, price)
        return rank_plan(obs, ranks[0], keep[0])


def paced_price(obs: RoundObservation, price: float) -> float:
    """The price after feedback on how fast an episode's airtime goes; obs.history must be that
    episode's."""
    past, left_s = len(obs.history), obs.budget.airtime_s
    spent_s = sum(summary.airtime_s for summary in obs.history)
    if obs.budget.rounds == 1 or spent_s + left_s <= 0:
        return price
    even_s = (spent_s + left_s) / (past + obs.budget.rounds)
    return price * math.exp(min(max(spent_s / even_s - past, -_MOST_SHARES), _MOST_SHARES))


_MOST_SHARES: Final = 20.0  # a factor of 5e8 either way: everything, or nothing


# ------------------------------------------------------------------------------------------- the
# pieces


def _energy(obs: RoundObservation) -> Floats:
    """float[M, r_max], squared singular values; 0 beyond a module's full rank."""
    energy = np.zeros((len(obs.module_shapes), obs.r_max))
    for row, module in zip(energy, obs.module_shapes, strict=True):
        spectrum = checked_spectrum(obs, module)
        row[: len(spectrum)] = np.square(spectrum, dtype=np.float64)
    return energy


def _parameters(obs: RoundObservation) -> Floats:
    """float[M, 1], parameters of one direction."""
    return np.array([[sum(shape)] for shape in obs.module_shapes.values()], np.float64)


def _kfac_per_bit(obs: RoundObservation) -> Floats:
    """float[M, r_max], expected loss that a direction saves per bit, no more than any before it in
    its module."""
    if not obs.kfac.missing_if_sent:
        raise ModelError(
            "the observation carries no expected losses (kfac); greedy by K-FAC needs them measured"
        )
    sent = np.array([obs.kfac.missing_if_sent[module] for module in obs.module_shapes], np.float64)
    if not np.isfinite(sent).all():
        worst = list(obs.module_shapes)[int(np.argmin(np.isfinite(sent).all(axis=1)))]
        raise ModelError(
            f"the expected losses of {worst} are not finite; the importance that they come from "
            "is not"
        )
    bits = np.repeat(
        [[obs.bits_per_direction[module]] for module in obs.module_shapes], obs.r_max, axis=1
    )
    bits[:, 0] += obs.bits_per_module
    full = np.array([min(shape) for shape in obs.module_shapes.values()])
    saved = np.where(np.arange(obs.r_max) < full[:, np.newaxis], -np.diff(sent, axis=1), 0.0)
    least: Floats = np.minimum.accumulate(np.maximum(saved, 0.0) / bits, axis=1)
    return least


def _falling(worth: Floats) -> tuple[Ints, Floats]:
    """Module index of every direction that is worth something, most first, and what it is worth."""
    # Column by column, so that a stable sort leaves ties to the lower direction, then to the
    # earlier module.
    by_direction = worth.T.reshape(-1)
    order = np.argsort(-by_direction, kind="stable")[: int(np.count_nonzero(by_direction))]
    return order % len(worth), by_direction[order]


def _prefix_bits(obs: RoundObservation, order: Ints) -> Ints:
    """int[len(order)], payload bits of the plans that send the first 1, 2, ... directions and keep
    what is held."""
    bits_each = np.array([obs.bits_per_direction[m] for m in obs.module_shapes], np.int64)
    held = np.array([obs.held.get(module, 0) > 0 for module in obs.module_shapes])
    first = np.zeros(len(order), np.bool_)
    first[np.unique(order, return_index=True)[1]] = True
    n_kept = held.sum() - np.cumsum(first & held[order])
    bits: Ints = obs.overhead_bits + np.cumsum(bits_each[order] + first * obs.bits_per_module)
    return bits + kept_bits(n_kept)


def _leading(flags: Bools) -> int:
    """How many are true before the first that is not."""
    return len(flags) if flags.all() else int(flags.argmin())


def _with_the_rest(obs: RoundObservation, ranks: list[int], rest: list[int]) -> list[int]:
    """The ranks after the directions of `rest`, in turn, of which the first that does not fit
    closes its module."""
    held = [obs.held.get(module, 0) > 0 for module in obs.module_shapes]
    bits_each = [obs.bits_per_direction[module] for module in obs.module_shapes]
    bits = obs.overhead_bits + sum(
        obs.bits_per_module + rank * each
        for rank, each in zip(ranks, bits_each, strict=True)
        if rank
    )
    n_kept = sum(stale and not rank for rank, stale in zip(ranks, held, strict=True))
    closed = [False] * len(ranks)
    for module in rest:
        if closed[module]:
            continue
        first = ranks[module] == 0
        bits_then = bits + bits_each[module] + (obs.bits_per_module if first else 0)
        n_kept_then = n_kept - (first and held[module])
        if bits_then + kept_bits(n_kept_then) > obs.budget.bits:
            closed[module] = True
            continue
        ranks[module] += 1
        bits, n_kept = bits_then, n_kept_then
    return ranks


def _plan_of(obs: RoundObservation, ranks: list[int]) -> RankPlan:
    """The plan that sends these ranks; a module without any is kept if the edge holds something of
    it."""
    if not any(ranks):
        return keep_all(obs)
    plan: dict[str, int | Keep] = {
        module: rank or (KEEP if obs.held.get(module, 0) else 0)
        for module, rank in zip(obs.module_shapes, ranks, strict=True)
    }
    return RankPlan(ranks=plan)
