import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.policies import allocator, plan_bits
from cloud.policies.allocator import (
    allocate,
    allocate_ranks,
    cheapest,
    options,
    random_states_check,
    rank_plan,
)
from cloud.policies.plans import bits_of_ranks
from cloud.policies.state import situation_of
from hil.contract import KEEP, Floats, Ints, ModelError, RoundObservation
from tests.cloud.policies.observations import observations, observe, with_losses

Case = tuple[Floats, Ints, int, int]
DIGEST, EPS = 256, 1e-9

seeded = settings(derandomize=True, deadline=None, max_examples=100)


@st.composite
def cases(draw: st.DrawFn, *, held: bool = True) -> Case:
    """Damage [M, K], bits [M, K], fixed bits and a budget, few enough to try every plan; values
    often tie."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    modules, ranks = draw(st.sampled_from([(1, 5), (2, 7), (3, 5), (4, 4), (5, 3)]))
    falling = np.cumsum(rng.exponential(1.0, (modules, ranks)), axis=1)[:, ::-1]
    damage = {
        0: falling,
        1: rng.random((modules, ranks)),
        2: rng.integers(0, 3, (modules, ranks)).astype(float),
    }
    kept = (
        np.where(rng.random(modules) < 0.6, rng.random(modules) * 3, np.inf)
        if held
        else np.full(modules, np.inf)
    )
    per_direction = rng.choice([50, 100, 137, 400], modules)[:, np.newaxis]
    bits = per_direction * np.arange(ranks) + 10 * (np.arange(ranks) > 0)
    fixed = int(rng.choice([0, 60]))
    most = bits[:, -1].sum() + fixed + DIGEST
    return (
        np.concatenate([damage[draw(st.integers(0, 2))], kept[:, np.newaxis]], axis=1),
        np.concatenate([bits, np.zeros((modules, 1), np.int64)], axis=1),
        fixed,
        int(draw(st.sampled_from([0.0, 0.05, 0.2, 0.4, 0.6, 0.9, 1.2])) * most),
    )


def every_plan(case: Case) -> list[tuple[float, int, bool]]:
    """Damage, cost and whether it keeps anything, of every plan there is; the first sends
    nothing."""
    damage, bits, fixed, _ = case
    keep = damage.shape[1] - 1
    nothing = sum(row[keep] if np.isfinite(row[keep]) else row[0] for row in damage)
    plans = [(float(nothing), 0, True)]
    for plan in itertools.product(range(keep + 1), repeat=len(damage)):
        lost = sum(row[option] for row, option in zip(damage, plan, strict=True))
        if np.isfinite(lost) and any(option != keep for option in plan):
            spent = sum(int(row[option]) for row, option in zip(bits, plan, strict=True))
            plans.append((float(lost), fixed + spent + DIGEST * (keep in plan), keep in plan))
    return plans


def worth(case: Case, choice: Ints) -> tuple[float, int]:
    """Damage and cost of one plan, by the words of the contract."""
    damage, bits, fixed, _ = case
    keep = damage.shape[1] - 1
    if (choice == keep).all():
        return every_plan(case)[0][:2]
    at = np.arange(len(choice))
    return float(damage[at, choice].sum()), int(bits[at, choice].sum()) + fixed + DIGEST * bool(
        (choice == keep).any()
    )


def plan_for(case: Case, floor: float = 0.0) -> Ints:
    damage, bits, fixed, budget = case
    return allocate(damage[np.newaxis], bits, fixed, np.array([budget]), np.array([floor]))[0]


def best_at_some_price(plans: list[tuple[float, int]], room: int) -> float:
    """Least damage within the room among the corners of the lower hull of (cost, damage); inf if
    there is none."""
    hull: list[tuple[float, int]] = []
    for d, b in sorted(plans, key=lambda plan: (plan[1], plan[0])):
        if hull and (b == hull[-1][1] or d >= hull[-1][0]):
            continue
        while len(hull) > 1 and (hull[-2][0] - d) * (hull[-1][1] - hull[-2][1]) >= (
            hull[-2][0] - hull[-1][0]
        ) * (b - hull[-2][1]):
            hull.pop()
        hull.append((d, b))
    return min((d for d, b in hull if b <= room), default=np.inf)


@pytest.mark.slow
@seeded
@given(case=cases(), price=st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.1]))
def test_the_cheapest_plan_at_a_price_is_that_of_a_search_over_every_plan(
    case: Case, price: float
) -> None:
    damage, bits, _, _ = case
    choice = cheapest(damage[np.newaxis], bits, np.array([price]))[0]
    at = np.arange(len(choice))
    found = (damage[at, choice] + price * bits[at, choice]).sum()
    rows = [
        [d + price * b for d, b in zip(*row, strict=True)] for row in zip(damage, bits, strict=True)
    ]
    assert found == pytest.approx(min(sum(plan) for plan in itertools.product(*rows)), abs=EPS)


@pytest.mark.slow
@seeded
@given(case=cases(), floor=st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.1]))
def test_a_plan_with_room_enough_is_the_best_at_the_floor_price(case: Case, floor: float) -> None:
    case = (*case[:3], 10**6)
    damage, cost = worth(case, plan_for(case, floor))
    assert damage + floor * cost == pytest.approx(
        min(d + floor * b for d, b, _ in every_plan(case)), abs=EPS
    )


@pytest.mark.slow
@seeded
@given(case=cases(), floor=st.sampled_from([0.0, 1e-3]))
def test_a_plan_fits_and_loses_no_more_than_any_price_would(case: Case, floor: float) -> None:
    damage, cost = worth(case, plan_for(case, floor))
    plans, budget = every_plan(case), case[3]
    assert cost <= budget
    # As if a price chose among the plans that keep nothing, or among all with the digest always
    # paid; or nothing sent.
    worth_of = [(d + floor * b, b) for d, b, _ in plans[1:]]
    paid = [
        (d + floor * b, b) for d, b in ((d, b + DIGEST * (not keeps)) for d, b, keeps in plans[1:])
    ]
    alone = [plan for plan, (_, _, keeps) in zip(worth_of, plans[1:], strict=True) if not keeps]
    reached = min(best_at_some_price(alone, budget), best_at_some_price(paid, budget), plans[0][0])
    best = min(d + floor * b for d, b, _ in plans if b <= budget)
    assert best - EPS <= damage + floor * cost <= reached + EPS


@pytest.mark.slow
@seeded
@given(case=cases(held=False))
def test_no_single_improvement_that_fits_is_left_out(case: Case) -> None:
    choice = plan_for(case)
    keep = case[0].shape[1] - 1
    damage, _ = worth(case, choice)
    if (choice == keep).all():
        choice = np.zeros_like(choice)  # lacks the same
    for module, option in itertools.product(range(len(choice)), range(keep)):
        other = choice.copy()
        other[module] = option
        d, b = worth(case, other)
        assert b > case[3] or d >= damage - EPS


# One module falls 8, 4, 1; the other 8, 6, 5, 0: its first two ranks lie above its hull.
HAND = np.array([[8.0, 4.0, 1.0, 1.0, np.inf], [8.0, 6.0, 5.0, 0.0, np.inf]])
HAND_BITS = np.tile([0, 100, 200, 300, 0], (2, 1))


@pytest.mark.parametrize(
    ("budget_bits", "choice"),
    [
        (-5, [4, 4]),
        (9, [4, 4]),
        (10, [4, 4]),  # two empty modules cost 10 bits and mend nothing
        (110, [1, 0]),
        (209, [1, 0]),
        (210, [2, 0]),
        (309, [2, 0]),
        (310, [2, 1]),  # 500 would be the next on the hull; the slack takes a rank above the hull
        (410, [2, 2]),
        (509, [2, 2]),
        (510, [2, 3]),
        (10**6, [2, 3]),  # a third rank of the first module mends nothing
    ],
)
def test_by_hand(budget_bits: int, choice: list[int]) -> None:
    assert plan_for((HAND, HAND_BITS, 10, budget_bits)).tolist() == choice


@pytest.mark.parametrize(
    ("budget_bits", "choice"),
    [
        (465, [2, 2]),
        (466, [2, 4]),  # 10 + 200, and 256 for the digest that keeping the second needs
        (509, [2, 4]),
        (510, [2, 3]),  # everything fresh needs no digest
    ],
)
def test_a_kept_module_costs_its_digest_by_hand(budget_bits: int, choice: list[int]) -> None:
    damage = HAND.copy()
    damage[0, :2], damage[:, 4] = 80.0, (60.0, 1.5)
    assert plan_for((damage, HAND_BITS, 10, budget_bits)).tolist() == choice


@pytest.mark.parametrize(
    ("floor", "choice"), [(0.0, [2, 3]), (0.026, [2, 3]), (0.028, [2, 0]), (0.036, [1, 0])]
)
def test_the_floor_price_leaves_room_unused(floor: float, choice: list[int]) -> None:
    # The second module's three ranks mend 8 nats for 300 bits: 0.0267 each. The first one's mend
    # 0.04, then 0.03.
    assert plan_for((HAND, HAND_BITS, 10, 10**6), floor).tolist() == choice


@pytest.mark.parametrize(
    ("budget_bits", "choice"),
    [(466, [2, 4]), (465, [1, 4]), (366, [1, 4]), (365, [4, 4])],
)
def test_the_digest_is_paid_to_the_bit_by_hand(budget_bits: int, choice: list[int]) -> None:
    # Only what is kept helps the second module, whatever is sent of it.
    damage = np.array([[80.0, 60.0, 1.0, 1.0, np.inf], [200.0, 200.0, 200.0, 200.0, 1.5]])
    assert plan_for((damage, HAND_BITS, 10, budget_bits)).tolist() == choice


@pytest.mark.parametrize(("budget_bits", "option"), [(100, 0), (10, 0), (9, 2)])
def test_a_stale_update_worse_than_none_is_taken_back_by_hand(
    budget_bits: int, option: int
) -> None:
    damage = np.array([[1.0, 0.9, 5.0]])
    assert plan_for((damage, np.array([[0, 500, 0]]), 10, budget_bits)).tolist() == [option]


def random_batch(n: int, modules: int, r_max: int, seed: int = 0) -> tuple[Floats, Ints, Ints]:
    """Damage that falls like real adapters', nine in ten modules held, and budgets over two
    decades."""
    rng = np.random.default_rng(seed)
    size, decay = np.exp(rng.normal(0, 2, (n, modules, 1))), rng.uniform(0.05, 0.5, (n, modules, 1))
    steps = size * np.exp(-decay * np.arange(r_max)) * rng.uniform(0.5, 1.5, (n, modules, r_max))
    sent = np.concatenate(
        [np.cumsum(steps[..., ::-1], axis=2)[..., ::-1], np.zeros((n, modules, 1))], axis=2
    )
    kept = np.where(
        rng.random((n, modules)) < 0.9, sent[..., 0] * rng.uniform(0.05, 1.2, (n, modules)), np.inf
    )
    bits = rng.integers(600, 4000, modules)[:, np.newaxis] * np.arange(r_max + 1) + 40 * (
        np.arange(r_max + 1) > 0
    )
    budget = (bits[:, -1].sum() * 10 ** rng.uniform(-2, 0, n)).astype(np.int64)
    return (
        np.concatenate([sent, kept[..., np.newaxis]], axis=2),
        np.concatenate([bits, np.zeros((modules, 1), np.int64)], axis=1),
        budget,
    )


def test_a_batch_is_planned_as_its_rounds_are_one_by_one() -> None:
    damage, bits, budget = random_batch(40, 9, 6)
    damage[::4, :, -1] = np.inf
    floor, fixed = np.tile([0.0, 1e-5], 20), np.arange(40) * 10
    rows = [allocate(damage[i : i + 1], bits, fixed[i], budget[i], floor[i])[0] for i in range(40)]
    assert (allocate(damage, bits, fixed, budget, floor) == rows).all()
    every_bits = np.broadcast_to(bits, damage.shape).copy()
    assert (allocate(damage, every_bits, fixed, budget, floor) == rows).all()
    every_bits[::2] *= 2
    mixed = allocate(damage, every_bits, fixed, budget, floor)
    assert (mixed[1::2] == rows[1::2]).all()
    assert (
        mixed[::2] == allocate(damage[::2], 2 * bits, fixed[::2], budget[::2], floor[::2])
    ).all()


@pytest.mark.slow
def test_random_states_have_no_plan_above_their_budget() -> None:
    assert random_states_check(20_000, seed=1) == 0


def test_the_check_of_random_states_sees_plans_that_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spendthrift(damage: Floats, *_: object) -> Ints:
        return np.full(damage.shape[:2], damage.shape[2] - 2)

    monkeypatch.setattr(allocator, "allocate", spendthrift)
    assert random_states_check(600, seed=1) > 300


@pytest.mark.parametrize(("option", "value"), [(2, np.nan), (4, np.nan), (0, np.nan), (0, np.inf)])
def test_losses_that_are_no_numbers_are_refused(option: int, value: float) -> None:
    damage = np.stack([HAND, HAND])
    damage[1, 0, option] = value
    with pytest.raises(ModelError, match="module 0 in round 1 of 2 are not finite"):
        allocate(damage, HAND_BITS, 10, 100)


@settings(seeded, max_examples=40)
@given(obs=observations().map(with_losses), price=st.sampled_from([0.0, 0.1, 100.0]))
def test_a_plan_of_an_observation_is_legal_and_affordable(
    obs: RoundObservation, price: float
) -> None:
    situation = situation_of(obs)
    ranks, keep = allocate_ranks(situation, price)
    plan = rank_plan(obs, ranks[0], keep[0])
    cost = plan_bits(obs, plan)
    assert cost == bits_of_ranks(situation, ranks, keep)[0] <= obs.budget.bits
    for module, rank in plan.ranks.items():
        if rank == KEEP:
            assert plan.sends_nothing or obs.held.get(module, 0) > 0
        else:
            assert 0 <= rank <= min(obs.r_max, *obs.module_shapes[module])
    assert list(plan.ranks) == list(obs.module_shapes)
    poor = replace(situation, budget_bits=np.zeros(1, np.int64))
    ranks, keep = allocate_ranks(poor, price)
    assert rank_plan(obs, ranks[0], keep[0]).sends_nothing


def test_options_are_the_ranks_that_a_module_has_and_keep_where_something_is_held() -> None:
    obs = with_losses(
        observe({"p": [3.0, 2.0, 1.0], "q": [3.0, 2.0, 1.0]}, 0, shapes={"p": (2, 9), "q": (9, 9)})
    )
    damage, bits = options(situation_of(obs))
    assert np.isfinite(damage[0]).tolist() == [
        [True, True, True, False, False],
        [True, True, True, True, False],
    ]
    assert bits.tolist() == [[0, 60, 110, 160, 0]] * 2
    obs = with_losses(observe({"p": [3.0, 2.0, 1.0]}, 0, held={"p": 1}))
    assert options(situation_of(obs))[0][0, 0, -1] == obs.kfac.missing_if_kept["p"]
