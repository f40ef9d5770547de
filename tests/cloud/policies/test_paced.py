"""The default policy: price of air and share of the budget from PPO, an exact plan within it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud.policies import plan_bits
from cloud.policies.paced import (
    PACE_ACTIONS,
    SHARE_OCTAVES,
    PacedAllocator,
    load_agent,
    paced_plans,
    save_agent,
)
from cloud.policies.rl.ppo import Ppo
from cloud.policies.state import PACE_STATE_SIZE, Situation, situation_of
from hil.contract import Budget, ModelError, Residuals, RoundObservation
from tests.cloud.policies.observations import observe


def round_of(
    rng: np.random.Generator, *, rounds: int = 1, modules: int = 12, r_max: int = 8
) -> RoundObservation:
    """A round with random expected losses, some of it held, and a budget drawn on a log scale."""
    names = [f"m{i}" for i in range(modules)]
    gains = np.sort(rng.exponential(1.0, (modules, r_max)) * rng.lognormal(0, 2, (modules, 1)))[
        :, ::-1
    ]
    sent = np.concatenate(
        [gains[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((modules, 1))], axis=1
    ).astype(np.float32)
    held = dict.fromkeys(names[: modules // 2], 2)
    obs = observe({name: list(row) for name, row in zip(names, gains, strict=True)}, 0, held=held)
    kept = {
        name: float(sent[i, 0] * rng.uniform(0, 1.5))
        for i, name in enumerate(names)
        if name in held
    }
    budget = Budget(
        airtime_s=1.0, bits=int(50 * modules * r_max * 10 ** rng.uniform(-3, 0.3)), rounds=rounds
    )
    return replace(
        obs,
        kfac=Residuals(missing_if_sent=dict(zip(names, sent, strict=True)), missing_if_kept=kept),
        budget=budget,
    )


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 5])
def test_no_plan_is_larger_than_the_budget_whatever_the_network_says(
    tmp_path: Path, rounds: int
) -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        save_agent(tmp_path / "w.safetensors", Ppo(PACE_STATE_SIZE, PACE_ACTIONS, seed=seed))
        policy = PacedAllocator(pace="learnt", weights=str(tmp_path / "w.safetensors"))
        for _ in range(20):
            obs = round_of(rng, rounds=rounds)
            assert plan_bits(obs, policy.plan(obs)) <= obs.budget.bits


def spent_bits(situation: Situation, action: tuple[float, float], nats_per_s: float) -> int:
    ranks, keep = paced_plans(situation, np.array([action]), nats_per_s)
    return int(
        np.take_along_axis(situation.bits, np.where(keep, 0, ranks)[0][:, np.newaxis], axis=1).sum()
    )


def test_of_a_shared_budget_zero_is_an_even_share_and_the_ends_are_octaves_away() -> None:
    obs = round_of(np.random.default_rng(1), rounds=8)
    obs = replace(obs, budget=replace(obs.budget, bits=40_000, pooled=True))
    situation = situation_of(obs)
    whole = int(situation.bits[:, -1].sum())
    for action, share in (
        (-1.0, 2.0**-SHARE_OCTAVES / 8),
        (0.0, 1 / 8),
        (1.0, 2.0**SHARE_OCTAVES / 8),
    ):
        spent = spent_bits(situation, (action, 0.0), 0.0)
        assert spent <= 40_000 * share
        # what is left over is less than one direction with its module and digest, or there was
        # nothing more to send
        assert spent > min(40_000 * share, whole) - 500


def test_a_budget_of_the_round_alone_is_there_to_be_spent() -> None:
    obs = round_of(np.random.default_rng(1))
    situation = situation_of(replace(obs, budget=replace(obs.budget, bits=3_000)))
    assert spent_bits(situation, (-1.0, 0.0), 0.0) == spent_bits(situation, (1.0, 0.0), 0.0) > 2_500


def test_dearer_air_is_used_less_and_the_network_moves_the_price_that_was_set() -> None:
    obs = round_of(np.random.default_rng(2))
    situation = situation_of(replace(obs, budget=replace(obs.budget, bits=10**6)))
    spent = [spent_bits(situation, (0.0, 0.0), price) for price in (0.0, 1e3, 1e4, 1e5, 1e6)]
    assert spent == sorted(spent, reverse=True)
    assert len(set(spent)) == 5
    for price in (1e3, 1e5):
        assert spent_bits(situation, (0.0, 1.0), price) == spent_bits(
            situation, (0.0, 0.0), 4 * price
        )
        assert spent_bits(situation, (0.0, -1.0), price) == spent_bits(
            situation, (0.0, 0.0), price / 4
        )


def test_what_was_learnt_is_for_shared_budgets_and_leaves_others_to_the_price(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(3)
    agent = Ppo(PACE_STATE_SIZE, PACE_ACTIONS, seed=1)
    for parameter in agent.model.parameters():
        parameter.data += 0.3  # a fresh network's mean action is next to zero
    save_agent(tmp_path / "w.safetensors", agent)
    learnt, rule = (
        PacedAllocator(3e3, "learnt", str(tmp_path / "w.safetensors")),
        PacedAllocator(3e3),
    )
    rounds = [round_of(rng) for _ in range(20)]
    assert all(learnt.plan(obs) == rule.plan(obs) for obs in rounds)
    shared = [replace(obs, budget=replace(obs.budget, rounds=4, pooled=True)) for obs in rounds]
    assert any(learnt.plan(obs) != rule.plan(obs) for obs in shared)


def test_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    agent = Ppo(PACE_STATE_SIZE, PACE_ACTIONS, seed=3)
    path = tmp_path / "w.safetensors"
    save_agent(path, agent)
    state = np.random.default_rng(0).normal(size=(50, PACE_STATE_SIZE)).astype(np.float32)
    ours, theirs = (a.act(state, deterministic=True).action for a in (agent, load_agent(path)))
    assert np.abs(ours - theirs).max() < 5e-3  # float16
    assert path.stat().st_size < 1_000_000


def test_weights_of_something_else_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.safetensors: .*hil train ours"):
        load_agent(tmp_path / "none.safetensors")
    save_agent(tmp_path / "w.safetensors", Ppo(PACE_STATE_SIZE + 1, PACE_ACTIONS, seed=0))
    with pytest.raises(ModelError, match=f"{PACE_STATE_SIZE + 1} inputs"):
        load_agent(tmp_path / "w.safetensors")


def test_a_round_without_expected_losses_is_refused() -> None:
    with pytest.raises(ModelError, match="kfac"):
        situation_of(observe({"a": [1.0]}, 100))
