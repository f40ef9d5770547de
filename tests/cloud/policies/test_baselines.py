from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.policies import plan_bits
from cloud.policies.baselines import AsTrained, FixedRank, LargestUniform, RandomFeasible
from hil.contract import (
    KEEP,
    ConfigError,
    Keep,
    ModelError,
    RoundObservation,
)
from tests.cloud.policies.observations import (
    assert_legal,
    in_an_episode,
    observations,
    observe,
    recount,
)

seeded = settings(derandomize=True, deadline=None, max_examples=60)


@seeded
@given(obs=observations())
def test_largest_uniform_is_legal_affordable_and_largest(obs: RoundObservation) -> None:
    plan = LargestUniform().plan(obs)
    assert_legal(plan, obs)
    assert plan_bits(obs, plan) <= obs.budget.bits
    full = {module: min(shape) for module, shape in obs.module_shapes.items()}
    fitting = [
        rank
        for rank in range(1, obs.r_max + 1)
        if recount(obs, {module: min(rank, full[module]) for module in full}) <= obs.budget.bits
    ]
    best = {m: min(fitting[-1], full[m]) for m in full} if fitting else dict.fromkeys(full, KEEP)
    assert plan.ranks == best


@seeded
@given(obs=observations(), rank=st.integers(1, 64))
def test_fixed_rank_ignores_the_budget(obs: RoundObservation, rank: int) -> None:
    if rank > obs.r_max:
        with pytest.raises(ConfigError, match=f"fixed rank {rank} exceeds r_max = {obs.r_max}"):
            FixedRank(rank).plan(obs)
    else:
        plan = FixedRank(rank).plan(obs)
        assert_legal(plan, obs)
        assert plan.ranks == {
            module: min(rank, *shape) for module, shape in obs.module_shapes.items()
        }


# Shares of energy: p 0.64, 0.36; q 0.80, 0.20; r 0.50, 0.50. Order: q, p, r, r, p, q.
KNOWN = {"p": [4.0, 3.0], "q": [0.2, 0.1], "r": [50.0, 50.0]}


@pytest.mark.parametrize(
    ("budget_bits", "rank"), [(279, KEEP), (280, 1), (429, 1), (430, 2), (10**9, 2)]
)
def test_largest_uniform_by_hand(budget_bits: int, rank: int | Keep) -> None:
    assert LargestUniform().plan(observe(KNOWN, budget_bits)).ranks == dict.fromkeys("pqr", rank)


def test_in_an_episode_policies_plan_within_an_even_share_of_what_is_left() -> None:
    alone = observe(KNOWN, 300)
    for policy in (LargestUniform(), RandomFeasible(0), AsTrained("EVA", 2)):
        assert policy.plan(in_an_episode(observe(KNOWN, 900), 3, [])) == policy.plan(alone), (
            policy.name
        )


# ------------------------------------------------------------------------------------- random, as
# trained


def test_random_plans_depend_on_seed_and_round_alone_and_cover_every_rank() -> None:
    obs = observe({f"m{i}": [1.0] * 8 for i in range(200)}, 10**6)
    ranks = list(RandomFeasible(3).plan(obs).ranks.values())
    assert RandomFeasible(3).plan(obs) == RandomFeasible(3).plan(obs)
    assert (
        RandomFeasible(4).plan(obs)
        != RandomFeasible(3).plan(obs)
        != RandomFeasible(3).plan(replace(obs, round_id=2))
    )
    counts = [ranks.count(rank) for rank in range(9)]
    assert counts[0] == 0
    assert min(counts[1:]) >= 10


@seeded
@given(obs=observations(), seed=st.integers(0, 9), rounds=st.integers(1, 3))
def test_random_plans_are_legal_and_affordable(
    obs: RoundObservation, seed: int, rounds: int
) -> None:
    plan = RandomFeasible(seed).plan(in_an_episode(obs, rounds, []))
    assert_legal(plan, obs)
    assert plan_bits(obs, plan) <= obs.budget.bits / rounds


@pytest.mark.parametrize(
    ("budget_bits", "ranks"),
    [(280, [2, 0, 1]), (279, [KEEP] * 3), (10**6, [2, 0, 1]), (0, [KEEP] * 3)],
)
def test_as_trained_sends_every_direction_with_energy_or_nothing(
    budget_bits: int, ranks: list[int | Keep]
) -> None:
    spectra = {"p": [4.0, 3.0, 1e-6], "zero": [0.0, 0.0, 0.0], "r": [50.0, 1e-5, 0.0]}
    obs = observe(spectra, budget_bits - 10, held={"zero": 1, "p": 2}, bits_per_module=10)
    obs = replace(obs, budget=replace(obs.budget, bits=budget_bits - 10))
    assert list(AsTrained("AdaLoRA", 4).plan(obs).ranks.values()) == ranks


def test_as_trained_keeps_everything_when_nothing_was_trained_and_refuses_a_diverged_spectrum() -> (
    None
):
    assert AsTrained("EVA", 4).plan(observe({"p": [0.0]}, 10**6)).sends_nothing
    with pytest.raises(ModelError, match="the spectrum of q is not finite"):
        AsTrained("EVA", 4).plan(observe({"p": [1.0], "q": [float("inf")]}, 10**6))


@pytest.mark.parametrize("rank", [0, -1])
def test_a_fixed_rank_below_1_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"fixed rank {rank} sends nothing"):
        FixedRank(rank)
