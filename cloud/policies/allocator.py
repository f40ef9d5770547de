"""The plan that leaves the least expected loss at a price of a bit, within a budget, for many
rounds at once.

Every module takes one of K options: rank 0..R, and last "keep", the module as the edge holds it. A
price makes the modules independent of each other, so that the best plan at a price is exact
whatever the curves look like; the price at which it just fits the budget is found by moving along
the lower hull of (bits, loss). Plans off the hull are not seen by any price; what the budget has
left over is filled with single improvements.
Source: Everett, "Generalized Lagrange multiplier method for solving problems of optimum allocation
of resources", Operations Research 11 (1963); Shoham and Gersho, "Efficient bit allocation for an
arbitrary set of quantizers", IEEE Transactions on Acoustics, Speech, and Signal Processing 36
(1988).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from cloud.policies.state import Situation
from hil.codec import kept_bits
from hil.contract import KEEP, Bools, Floats, Ints, ModelError, RankPlan, RoundObservation


def cheapest(damage: Floats, bits: Floats | Ints, price: ArrayLike) -> Ints:
    """int[N, M], for every module the option with the least damage + price × bits; ties go to the
    first option.

    Args:
        damage: [N, M, K], nats that are missing with each option; inf = not to be had.
        bits: [M, K] or [N, M, K], payload bits of each option.
        price: [N] or one for all, nats per bit, ≥ 0.
    """
    chosen: Ints = (damage + np.reshape(price, (-1, 1, 1)) * bits).argmin(axis=2)
    return chosen


def allocate(
    damage: Floats,
    bits: Floats | Ints,
    fixed_bits: ArrayLike,
    budget_bits: ArrayLike,
    floor_price: ArrayLike = 0.0,
) -> Ints:
    """int[N, M], the option of every module: the best plan at the floor price, or the best that
    fits the budget.

    Where the plan at the floor price is too large, the price rises until it fits, and single
    improvements that are worth the floor price fill what is left, those with the most nats per bit
    first. A plan that sends nothing (option K - 1 everywhere) costs nothing, so there always is one
    that fits; every other one also pays the fixed bits, and hil.codec.kept_bits. No plan ever costs
    more than the budget.

    Args:
        damage: [N, M, K], nats that are missing with each option, of any shape over K; inf = not to
            be had. Option 0 is rank 0, option K - 1 is "keep", which is inf where the edge holds
            nothing.
        bits: [M, K] or [N, M, K], payload bits of each option, ≥ 0.
        fixed_bits: [N] or one for all, payload bits of any plan that sends something.
        budget_bits: [N] or one for all.
        floor_price: [N] or one for all, nats per bit, ≥ 0: what a bit must bring even if the budget
            has room for it.

    Raises:
        ModelError: a damage that is not a number, or a rank 0 without a finite one.
    """
    fixed, budget, floor = (
        np.broadcast_to(np.asarray(value, np.float64), len(damage))
        for value in (fixed_bits, budget_bits, floor_price)
    )
    case = _Case(*_checked(damage, bits), room=budget - fixed, floor=floor)
    keep = case.damage[..., -1]
    nothing = np.full(keep.shape, case.damage.shape[2] - 1)
    lacking = np.where(np.isfinite(keep), keep, case.damage[..., 0]).sum(axis=1)
    offers = [_Offer(nothing, lacking)]

    keeping, price = nothing.copy(), floor.copy()
    rows = np.flatnonzero(np.isfinite(keep).any(axis=1))
    if rows.size:
        keeping[rows], price[rows] = _within(case.at(rows, int(kept_bits(1))))
        offers.append(_offer(keeping, case, fixed))

    least = np.min([offer.value for offer in offers], axis=0)
    rows = np.flatnonzero(_bound_without_keep(case, fixed, price) <= least)
    if rows.size:
        sending = nothing.copy()
        sending[rows], _ = _within(_without_keep(case.at(rows)))
        offers.append(_offer(sending, case, fixed))
    return _best(offers)


def options(s: Situation) -> tuple[Floats, Ints]:
    """Damage float[N, M, R + 2] and bits int[M, R + 2] of ranks 0..R and "keep", as `allocate`
    takes them."""
    ranks = np.arange(s.r_max + 1)
    beyond = ranks > s.shapes.min(axis=1)[:, np.newaxis]
    kept = np.where(s.holds, s.missing_if_kept, np.inf)
    damage = np.concatenate(
        [np.where(beyond, np.inf, s.missing_if_sent), kept[..., np.newaxis]], axis=2
    )
    return damage, np.concatenate([s.bits, np.zeros((len(s.bits), 1), np.int64)], axis=1)


def allocate_ranks(s: Situation, nats_per_mbit: ArrayLike = 0.0) -> tuple[Ints, Bools]:
    """Ranks int[N, M] and kept modules bool[N, M] (rank 0 there) of the plans at these prices,
    within the budget.

    Args:
        s: N rounds.
        nats_per_mbit: [N] or one for all, what a million payload bits must bring at least.

    Raises:
        ModelError: an expected loss that is not a number.
    """
    choice = allocate(
        *options(s), s.overhead_bits, s.budget_bits, np.asarray(nats_per_mbit, np.float64) * 1e-6
    )
    keep = choice == s.r_max + 1
    return np.where(keep, 0, choice), keep


def rank_plan(obs: RoundObservation, ranks: Ints, keep: Bools) -> RankPlan:
    """The plan of one round from ranks int[M] and kept modules bool[M]."""
    chosen = zip(obs.module_shapes, ranks.tolist(), keep.tolist(), strict=True)
    return RankPlan(ranks={module: KEEP if kept else rank for module, rank, kept in chosen})


# ------------------------------------------------------------------------------------------- the
# pieces


@dataclass(frozen=True, slots=True)
class _Case:
    """Rounds to plan: damage [N, M, K], bits [N, M, K] or [1, M, K] for all, room for bits [N],
    price of a bit [N]."""

    damage: Floats
    bits: Floats
    room: Floats
    floor: Floats

    def at(self, rows: Ints, less: float = 0.0) -> _Case:
        """The case of some of the rounds, with less room."""
        if len(rows) == len(self.room):
            return replace(self, room=self.room - less)
        bits = self.bits if len(self.bits) == 1 else self.bits[rows]
        return _Case(self.damage[rows], bits, self.room[rows] - less, self.floor[rows])


@dataclass(frozen=True, slots=True)
class _Offer:
    """Plans [N, M], and damage + floor × cost of each, inf where it is over the budget, [N]."""

    plan: Ints
    value: Floats


def _checked(damage: Floats, bits: Floats | Ints) -> tuple[Floats, Floats]:
    damage, bits = np.asarray(damage, np.float64), np.asarray(bits, np.float64)
    bad = np.isnan(damage).any(axis=2) | ~np.isfinite(damage[..., 0])
    if bad.any():
        row, module = np.argwhere(bad)[0]
        raise ModelError(
            f"the expected losses of module {module} in round {row} of {len(damage)} are not "
            "finite numbers; "
            "the training or the importance that they come from has diverged"
        )
    return damage, bits if bits.ndim == 3 else bits[np.newaxis]


def _total(values: Floats, choice: Ints) -> Floats:
    """float[N], the values of the chosen options, summed over the modules."""
    rounds, modules = np.arange(len(values)), np.arange(choice.shape[1])
    total: Floats = values[rounds[:, np.newaxis], modules, choice].sum(axis=1)
    return total


def _offer(plan: Ints, case: _Case, fixed: Floats) -> _Offer:
    kept = plan == case.damage.shape[2] - 1
    spent, sends = _total(case.bits, plan), ~kept.all(axis=1)
    cost = np.where(sends, spent + fixed + kept_bits(kept.sum(axis=1)), 0.0)
    value = np.where(
        sends & (cost > case.room + fixed), np.inf, _total(case.damage, plan) + case.floor * cost
    )
    return _Offer(plan, value)


def _best(offers: list[_Offer]) -> Ints:
    """int[N, M], of the plans the one with the least value; the first on a tie."""
    best = np.stack([offer.value for offer in offers]).argmin(axis=0)
    chosen: Ints = np.stack([offer.plan for offer in offers])[best, np.arange(len(best))]
    return chosen


def _without_keep(case: _Case) -> _Case:
    damage = case.damage.copy()
    damage[..., -1] = np.inf
    return replace(case, damage=damage)


def _bound_without_keep(case: _Case, fixed: Floats, price: Floats) -> Floats:
    """float[N], no plan that keeps no module is worth less: by duality, at any price from the floor
    price up."""
    at_price = (
        (case.damage[..., :-1] + price[:, np.newaxis, np.newaxis] * case.bits[..., :-1])
        .min(axis=2)
        .sum(axis=1)
    )
    bound: Floats = at_price - (price - case.floor) * case.room + case.floor * fixed
    return bound


def _within(case: _Case) -> tuple[Ints, Floats]:
    """Plans int[N, M] within the room, and the prices [N] behind them; where even the smallest is
    too large, that."""
    choice, price = cheapest(case.damage, case.bits, case.floor), case.floor.copy()
    rows = np.flatnonzero(_total(case.bits, choice) > case.room)
    if rows.size:
        dear = case.at(rows)
        smaller, price[rows] = _lowest_price(dear, choice[rows])
        choice[rows] = _filled(dear, smaller)
    return choice, price


def _lowest_price(case: _Case, rich: Ints) -> tuple[Ints, Floats]:
    """Plans int[N, M] at the lowest prices [N] at which they fit, given plans `rich` at prices
    where they do not.

    Two neighbours on the hull of (bits, damage) are found, one on either side of the room: the
    price is the slope between a plan that fits and one that does not, and the best plan at that
    price takes the place of one of them until none lies in between. Bits are whole numbers, so it
    ends; about ten steps are usual.
    """
    poor = np.where(case.bits == case.bits.min(axis=2, keepdims=True), case.damage, np.inf).argmin(
        axis=2
    )
    d_poor, b_poor = _total(case.damage, poor), _total(case.bits, poor)
    d_rich, b_rich = _total(case.damage, rich), _total(case.bits, rich)
    price = case.floor.copy()
    rows = np.flatnonzero(b_poor <= case.room)
    while rows.size:
        price[rows] = (d_poor[rows] - d_rich[rows]) / (b_rich[rows] - b_poor[rows])
        part = case.at(rows)
        middle = cheapest(part.damage, part.bits, price[rows])
        d, b = _total(part.damage, middle), _total(part.bits, middle)
        between = (b_poor[rows] < b) & (b < b_rich[rows])
        fits, too_large = between & (b <= part.room), between & (b > part.room)
        at = rows[fits]
        poor[at], d_poor[at], b_poor[at] = middle[fits], d[fits], b[fits]
        at = rows[too_large]
        d_rich[at], b_rich[at] = d[too_large], b[too_large]
        rows = rows[between]
    return poor, price


def _filled(case: _Case, choice: Ints) -> Ints:
    """int[N, M], the plans after the best improvement of a single module, nats per bit, for as long
    as one fits."""
    shape = choice.shape
    slack = case.room - _total(case.bits, choice)
    best, gain, extra = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    stale = np.broadcast_to((slack > 0)[:, np.newaxis], shape)
    while True:
        row, module = np.nonzero(stale)
        found = _improvement(case, choice, slack, row, module)
        best[row, module], gain[row, module], extra[row, module] = found
        pick = gain.argmax(axis=1)
        rows = np.flatnonzero(gain[np.arange(len(gain)), pick] > 0)
        if not rows.size:
            return choice
        pick = pick[rows]
        choice[rows, pick] = best[rows, pick]
        slack[rows] -= extra[rows, pick]
        stale = (gain > 0) & (extra > slack[:, np.newaxis])  # what was found no longer fits
        stale[rows, pick] = True


def _improvement(
    case: _Case, choice: Ints, slack: Floats, row: Ints, module: Ints
) -> tuple[Ints, Floats, Floats]:
    """The option of S modules that gains most per bit above the floor price, that gain (0: none
    fits), its bits."""
    at, now = np.arange(len(row)), choice[row, module]
    damage, bits = case.damage[row, module], case.bits[row if len(case.bits) > 1 else 0, module]
    extra = bits - bits[at, now, np.newaxis]
    fits = (extra > 0) & (extra <= slack[row, np.newaxis])
    per_bit = np.divide(
        damage[at, now, np.newaxis] - damage, extra, out=np.zeros_like(extra), where=fits
    )
    option: Ints = per_bit.argmax(axis=1)
    return option, np.maximum(per_bit[at, option] - case.floor[row], 0.0), extra[at, option]


# ------------------------------------------------------------------------------------------ bench
# check


def random_states_check(n_states: int, seed: int) -> int:
    """How many of so many random states get a plan above their budget, or one that does not exist:
    it must be none.

    Nine in ten states have 28 modules, the others 224. Curves fall, jump, tie or stay flat; budgets
    range from nothing over a few bits around the fixed costs to more than everything costs.
    """
    rng = np.random.default_rng(seed)
    bad = 0
    while n_states > 0:
        modules, r_max = (28, int(rng.choice([2, 8, 16]))) if rng.random() < 0.9 else (224, 8)
        n = min(n_states, 512)
        damage, bits, budget = _random_states(rng, n, modules, r_max)
        floor = rng.choice([0.0, 1e-9, 1e-7, 1e-5], n)
        choice = allocate(damage, bits, _FIXED_BITS, budget, floor)
        sends = (choice <= r_max).any(axis=1)
        option = damage.reshape(-1, r_max + 2)[np.arange(n * modules), choice.reshape(-1)].reshape(
            n, modules
        )
        cost = bits[np.arange(modules), choice].sum(axis=1) + _FIXED_BITS
        cost += kept_bits((choice > r_max).sum(axis=1))
        bad += int(np.count_nonzero(sends & ((cost > budget) | ~np.isfinite(option).all(axis=1))))
        n_states -= n
    return bad


_FIXED_BITS = 600


def _random_states(
    rng: np.random.Generator, n: int, modules: int, r_max: int
) -> tuple[Floats, Ints, Ints]:
    """Damage [n, modules, r_max + 2], bits [modules, r_max + 2] and budgets [n]."""
    scale = 10 ** rng.uniform(-6, 1, (n, modules, 1))
    falling = np.exp(-rng.uniform(0, 1, (n, modules, 1)) * np.arange(r_max + 1))
    jumping = rng.random((n, modules, r_max + 1))
    kind = rng.integers(0, 4, (n, modules, 1))
    sent = scale * np.select(
        [kind == 0, kind == 1, kind == 2], [falling, jumping, np.round(2 * jumping)], 1.0
    )
    kept = np.where(
        rng.random((n, modules)) < rng.choice([0.0, 0.5, 1.0], (n, 1)),
        scale[..., 0] * rng.random(),
        np.inf,
    )
    per_direction = rng.choice([1000, 3000, int(rng.integers(1, 5000))], modules)
    bits = per_direction[:, np.newaxis] * np.arange(r_max + 1)
    bits[:, 1:] += 40
    everything = int(bits[:, -1].sum())
    digest = int(kept_bits(1))
    around_fixed = (
        _FIXED_BITS + rng.integers(-2, 2, n) + rng.choice([0, digest, 1040, 1040 + digest], n)
    )
    shared = (everything * 10 ** rng.uniform(-3, 0.2, n)).astype(np.int64)
    budget = np.select([rng.random(n) < 0.05, rng.random(n) < 0.2], [0, around_fixed], shared)
    damage = np.concatenate([sent, kept[..., np.newaxis]], axis=2)
    return damage, np.concatenate([bits, np.zeros((modules, 1), np.int64)], axis=1), budget
