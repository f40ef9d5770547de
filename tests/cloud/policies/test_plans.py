"""What plans cost, and how they are brought down to a budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.policies import plan_bits, project, share_of
from cloud.policies.plans import KEPT, bits_of_ranks, project_ranks
from cloud.policies.state import situation_of
from hil.contract import KEEP, Keep, RankPlan, RoundObservation
from tests.cloud.policies.observations import (
    assert_legal,
    in_an_episode,
    observations,
    observe,
    recount,
    with_losses,
)

seeded = settings(derandomize=True, deadline=None, max_examples=60)
KNOWN = {"p": [4.0, 3.0], "q": [0.2, 0.1], "r": [50.0, 50.0]}


@pytest.mark.parametrize(
    ("ranks", "bits"),
    [
        ({"p": KEEP, "q": KEEP, "r": KEEP}, 0),
        ({"p": 0, "q": 0, "r": 0}, 100),
        ({"p": 2, "q": 0, "r": 0}, 100 + 10 + 2 * 50),
        ({"p": 2, "q": KEEP, "r": 1}, 100 + 20 + 150 + 256),
        ({"p": 0, "q": KEEP, "r": 0}, 100 + 256),
    ],
)
def test_plan_bits_by_hand(ranks: dict[str, int | Keep], bits: int) -> None:
    assert plan_bits(observe(KNOWN, 0), RankPlan(ranks=ranks)) == bits


def test_in_an_episode_a_round_gets_an_even_share_of_what_is_left() -> None:
    obs = in_an_episode(observe(KNOWN, 1001), 4, [])
    assert (
        share_of(obs).budget.bits,
        share_of(obs).budget.airtime_s,
        share_of(obs).budget.rounds,
    ) == (250, 0.25, 1)
    assert share_of(obs, 2.0).budget.bits == 500
    assert share_of(obs, 9.0).budget.bits == 1001
    assert share_of(observe(KNOWN, 1001), 0.5).budget.bits == 1001


# ----------------------------------------------------------------------------- down to the budget


def random_plan(obs: RoundObservation, seed: int) -> RankPlan:
    """Ranks from 0 on, and a fifth of what is held kept."""
    rng = np.random.default_rng(seed)
    ranks: dict[str, int | Keep] = {}
    for module in obs.module_shapes:
        keeps = obs.held.get(module, 0) > 0 and rng.random() < 0.2
        ranks[module] = KEEP if keeps else int(rng.integers(0, obs.r_max + 1))
    return RankPlan(ranks=ranks)


def project_by_search(obs: RoundObservation, plan: RankPlan) -> dict[str, int | Keep]:
    """Every factor at which some rank changes, from the largest down, until one fits."""
    ranks = {m: r if r == KEEP else min(r, *obs.module_shapes[m]) for m, r in plan.ranks.items()}
    whole = [r for r in ranks.values() if r != KEEP and r > 0]
    for above, below in sorted(
        {(j, r) for r in {*whole, 1} for j in range(1, r + 1)},
        key=lambda f: f[0] / f[1],
        reverse=True,
    ):
        scaled = {m: r if r == KEEP else r * above // below for m, r in ranks.items()}
        fallen = {m for m, r in scaled.items() if r == 0 and ranks[m] != 0 and obs.held.get(m, 0)}
        scaled |= dict.fromkeys(fallen, KEEP)
        empty = not any(r != KEEP and r > 0 for r in scaled.values())
        if all(r == KEEP for r in scaled.values()) or (empty and above < below):
            break
        if recount(obs, scaled) <= obs.budget.bits:
            return scaled
    return dict.fromkeys(ranks, KEEP)


@seeded
@given(obs=observations(), seed=st.integers(0, 99))
def test_a_projected_plan_is_scaled_by_the_largest_factor_that_fits(
    obs: RoundObservation, seed: int
) -> None:
    plan = random_plan(obs, seed)
    projected = project(obs, plan)
    assert_legal(projected, obs)
    assert plan_bits(obs, projected) <= obs.budget.bits
    if len(obs.module_shapes) * obs.r_max <= 500:
        assert projected.ranks == project_by_search(obs, plan)


@pytest.mark.parametrize(
    ("budget_bits", "ranks"),
    [
        (1000, {"p": 8, "q": 4, "r": 0}),
        (720, {"p": 8, "q": 4, "r": 0}),
        (719, {"p": 7, "q": 3, "r": 0}),
        (420, {"p": 4, "q": 2, "r": 0}),
        (320, {"p": 3, "q": 1, "r": 0}),
        (516, {"p": 5, "q": 2, "r": 0}),
        (219, {"p": 1, "q": 0, "r": 0}),
        (160, {"p": 1, "q": 0, "r": 0}),
        (159, {"p": KEEP, "q": KEEP, "r": KEEP}),
        (0, {"p": KEEP, "q": KEEP, "r": KEEP}),
    ],
)
def test_project_by_hand(budget_bits: int, ranks: dict[str, int | Keep]) -> None:
    obs = observe(dict.fromkeys("pqr", [1.0] * 8), budget_bits)
    assert project(obs, RankPlan(ranks={"p": 8, "q": 4, "r": 0})).ranks == ranks


@pytest.mark.parametrize(
    ("budget_bits", "ranks"),
    [
        (4170, [8, 1]),
        (4169, [7, KEEP]),
        (3866, [7, KEEP]),
        (3865, [6, KEEP]),
        (866, [1, KEEP]),
        (865, [KEEP, KEEP]),
    ],
)
def test_a_rank_that_falls_to_nothing_keeps_what_is_held_and_pays_for_the_digest(
    budget_bits: int, ranks: list[int | Keep]
) -> None:
    # p's directions cost 510, then 500 each; q's 60, or 256 when it is kept.
    prices = {"p": 500, "q": 50}
    obs = observe(dict.fromkeys("pq", [1.0] * 8), budget_bits, prices=prices, held={"q": 1})
    assert list(project(obs, RankPlan(ranks={"p": 8, "q": 1})).ranks.values()) == ranks


def test_a_plan_that_asks_for_nothing_stays_as_it_is_where_it_fits() -> None:
    nothing = RankPlan(ranks={"p": 0, "q": 0, "r": 0})
    assert project(observe(KNOWN, 100), nothing) == nothing
    assert project(observe(KNOWN, 99), nothing).sends_nothing
    kept = RankPlan(ranks={"p": KEEP, "q": KEEP, "r": KEEP})
    assert project(observe(KNOWN, 0), kept) == kept


@pytest.mark.slow
@seeded
@given(obs=observations().map(with_losses), seed=st.integers(0, 99))
def test_projected_arrays_are_the_projected_plan(obs: RoundObservation, seed: int) -> None:
    plans, situation = [random_plan(obs, seed + i) for i in range(3)], situation_of(obs)
    for plan in plans:
        ranks = np.array([[KEPT if rank == KEEP else rank for rank in plan.ranks.values()]])
        brought_down = project_ranks(situation, ranks)
        projected = project(obs, plan)
        assert [KEEP if rank == KEPT else rank for rank in brought_down[0].tolist()] == list(
            projected.ranks.values()
        )
        assert bits_of_ranks(situation, brought_down, brought_down == KEPT) == plan_bits(
            obs, projected
        )


def test_a_batch_is_brought_down_as_its_rounds_are_one_by_one() -> None:
    obs = with_losses(observe(dict.fromkeys("pqr", [1.0] * 8), 700, held={"p": 2, "r": 1}))
    ranks = np.random.default_rng(0).integers(-1, 9, (50, 3))
    budgets = np.arange(50) * 20
    one = situation_of(obs)
    batch = replace(
        one,
        budget_bits=budgets,
        last_ranks=np.repeat(one.last_ranks, 50, axis=0),
        missing_if_sent=np.repeat(one.missing_if_sent, 50, axis=0),
        missing_if_kept=np.repeat(one.missing_if_kept, 50, axis=0),
    )
    rows = [
        project_ranks(one, ranks[i : i + 1], budget_bits=budgets[i : i + 1])[0] for i in range(50)
    ]
    assert (project_ranks(batch, ranks) == rows).all()
