import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.policies.baselines import (
    KEPT,
    AsTrained,
    FixedRank,
    LargestUniform,
    RandomFeasible,
    load_policy_file,
    make_policy,
    plan_bits,
    project,
    project_ranks,
    share_of,
)
from cloud.policies.state import plan_bits as plan_bits_of_arrays
from cloud.policies.state import situation_of
from hil.contract import (
    KEEP,
    ConfigError,
    HilError,
    Keep,
    ModelError,
    RankPlan,
    RankPolicy,
    RoundObservation,
)
from hil.settings import Settings
from tests.cloud.policies.observations import (
    SHAPE,
    assert_legal,
    in_an_episode,
    observations,
    observe,
    recount,
    with_losses,
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
    alone = observe(KNOWN, 300)
    for policy in (LargestUniform(), RandomFeasible(0), AsTrained("EVA", 2)):
        assert policy.plan(in_an_episode(observe(KNOWN, 900), 3, [])) == policy.plan(alone), (
            policy.name
        )


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
        assert plan_bits_of_arrays(situation, brought_down, brought_down == KEPT) == plan_bits(
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
        sent=np.repeat(one.sent, 50, axis=0),
        kept=np.repeat(one.kept, 50, axis=0),
    )
    rows = [
        project_ranks(one, ranks[i : i + 1], budget_bits=budgets[i : i + 1])[0] for i in range(50)
    ]
    assert (project_ranks(batch, ranks) == rows).all()


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


@pytest.mark.parametrize(
    "policy",
    [FixedRank(64), LargestUniform(), RandomFeasible(0), AsTrained("EVA", 4)],
    ids=lambda policy: policy.name,
)
def test_a_plan_for_224_modules_of_64_directions_takes_5_ms_of_cpu_at_most(
    policy: RankPolicy,
) -> None:
    rng = np.random.default_rng(1)
    spectra = {f"m{i}": sorted(rng.exponential(size=64).tolist(), reverse=True) for i in range(224)}
    obs = observe(spectra, 100 + 224 * 10 + 224 * 12 * 50, shapes=dict.fromkeys(spectra, SHAPE))
    times_s = []
    for _ in range(7):
        start_s = time.process_time()
        policy.plan(obs)
        times_s.append(time.process_time() - start_s)
    assert min(times_s) <= 5e-3


# ---------------------------------------------------------------------------------------- from a
# name


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"kind": "fixed", "rank": 4}, "fixed rank 4"),
        ({"kind": "largest"}, "largest uniform"),
        ({"kind": "random", "seed": 3}, "random feasible"),
        ({"kind": "greedy"}, "spectral greedy"),
        ({"kind": "greedy", "per": "parameter"}, "greedy per parameter"),
        ({"kind": "greedy", "per": "kfac"}, "greedy by K-FAC"),
        ({"kind": "waterfill"}, "waterfill"),
        ({"kind": "price", "nats_per_mbit": 0.02}, "price 0.02 nats/Mbit"),
        ({"kind": "price", "feedback": True}, "price 0.01 nats/Mbit with feedback"),
        ({"kind": "adalora", "rank": 2}, "AdaLoRA rank 2"),
        ({"kind": "eva"}, "EVA rank 4"),
    ],
)
def test_make_policy_takes_every_analytic_table(table: dict[str, Any], name: str) -> None:
    policy = Settings.model_validate({"policy": table}).policy
    assert make_policy(policy.kind, **policy.model_dump(exclude={"kind"})).name == name


@pytest.mark.parametrize(
    ("kind", "given_settings", "message"),
    [
        (
            "gredy",
            {},
            "policy kind 'gredy' is unknown; choose one of fixed, largest, random, greedy",
        ),
        ("fixed", {}, "policy kind 'fixed' takes rank, got none"),
        ("largest", {"rank": 4}, "policy kind 'largest' takes no settings, got rank"),
        (
            "price",
            {"feedback": True},
            "policy kind 'price' takes feedback, nats_per_mbit, got feedback",
        ),
        ("eva", {"rank": 4, "seed": 1}, "policy kind 'eva' takes rank, got rank, seed"),
        ("fixed", {"rank": 0}, "fixed rank 0 sends nothing"),
        (
            "greedy",
            {"per": "bit"},
            "greedy per 'bit' is unknown; choose one of rank, parameter, kfac",
        ),
    ],
)
def test_make_policy_refuses_what_it_does_not_know(
    kind: str, given_settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HilError, match=message):
        make_policy(kind, **given_settings)


def test_make_policy_takes_other_kinds_by_name_or_constructor_and_their_optional_settings() -> None:
    class Own:
        def __init__(self, weights: str = "shipped") -> None:
            self.name = weights

        def plan(self, obs: RoundObservation) -> RankPlan:
            raise NotImplementedError

    kinds: Mapping[str, Any] = {"own": Own, "named": "cloud.policies.baselines:FixedRank"}
    assert make_policy("own", kinds).name == "shipped"
    assert make_policy("own", kinds, weights="w").name == "w"
    assert make_policy("named", kinds, rank=2).name == "fixed rank 2"


OWN_POLICY = """
from __future__ import annotations
from dataclasses import dataclass
from hil.contract import RankPlan, RoundObservation

@dataclass
class Halves:
    name: str = "halves"
    def plan(self, obs: RoundObservation) -> RankPlan:
        return RankPlan(ranks=dict.fromkeys(obs.module_shapes, obs.r_max // 2))

class Nameless:
    def plan(self, obs):
        return None

class Planless:
    name = "planless"

class Demanding:
    name = "demanding"
    def __init__(self, rank): ...
    def plan(self, obs): ...
"""


def test_a_policy_of_ones_own_is_loaded_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_POLICY)
    policy = make_policy("file", path=f"{tmp_path}/mine.py:Halves")
    assert policy.name == "halves"
    assert policy.plan(observe({"p": [1.0] * 6}, 0)).ranks == {"p": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent.py:Halves",
            r"policy file .*absent.py' is missing; write path/to/file.py:ClassName",
        ),
        ("mine.py", "is missing; write path/to/file.py:ClassName"),
        ("mine.txt:Halves", r"policy file .*mine.txt is not Python; its name must end in .py"),
        ("mine.py:Thirds", "mine.py:Thirds does not load: AttributeError: .*Thirds"),
        ("broken.py:Halves", "broken.py:Halves does not load: SyntaxError"),
        (
            "mine.py:Nameless",
            r"mine.py:Nameless needs an attribute name \(a string\) and a method plan\(obs\)",
        ),
        ("mine.py:Planless", "mine.py:Planless needs an attribute name"),
        ("mine.py:Demanding", "mine.py:Demanding does not load: TypeError.*rank"),
    ],
)
def test_a_file_that_holds_no_policy_is_refused_in_one_line(
    tmp_path: Path, name: str, message: str
) -> None:
    for file, text in {
        "mine.py": OWN_POLICY,
        "mine.txt": OWN_POLICY,
        "broken.py": "class Halves(:",
    }.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_policy_file(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)
