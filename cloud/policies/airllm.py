"""AirLLM's training, and the policies that plan with learnt rank vectors: AirLLM itself, and PPO
alone.

Agent and formulas are in cloud/policies/rl/airllm_agent.py. Source: arXiv 2507.11515;
docs/airllm.md names every difference.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from cloud.policies.plans import project, share_of
from cloud.policies.rl.airllm_agent import AirLlmAgent, AirLlmSettings, decode_ranks, encode_ranks
from cloud.policies.rl.ppo import Ppo
from cloud.policies.rl.rollout import Rollout
from cloud.policies.rl.weights import half_precision, load_module, read_weights, write_weights
from cloud.policies.state import paper_state, situation_of
from hil.contract import (
    Bools,
    ConfigError,
    Floats32,
    ModelError,
    RankPlan,
    Residuals,
    RoundObservation,
)

__all__ = [
    "AirLlmAgent",
    "AirLlmPolicy",
    "AirLlmSettings",
    "PpoRankPolicy",
    "decode_ranks",
    "encode_ranks",
    "load_ppo",
    "save_ppo",
    "state_of",
    "train_airllm",
]

SHIPPED: Final = Path(__file__).parent / "weights"


# ----------------------------------------------------------------------------------------------
# training


def train_airllm(
    agent: AirLlmAgent,
    venv: VectorEnv[Any, Any, Any],
    total_steps: int,
    *,
    seed: int,
) -> list[dict[str, float]]:
    """Play one episode in every environment, learn from them, and again.

    The episodes of a batch follow from `seed` and the steps already made, so that an agent that was
    saved between two updates goes on exactly as if it had not been.

    Args:
        agent: learns in place; its `steps` count on.
        venv: action Box(-1, 1, (M,)), a rank vector; observation cloud.policies.state.paper_state.
            The end of an episode counts as terminal.
        total_steps: the agent's, all environments together; the last batch of episodes is
            finished.
        seed: seed of the environments, ≥ 0.
    Returns:
        One entry per update: step (of the agent so far), episodes, reward (mean of a step),
        episode_return (mean) and what AirLlmAgent.update gives.
    Raises:
        ConfigError: the environment's observations or actions are not of the agent's sizes.
    """
    _check_spaces(agent, venv)
    history: list[dict[str, float]] = []
    while agent.steps < total_steps:
        batch_seed = np.random.SeedSequence([seed, agent.steps]).generate_state(1)[0]
        rollout, vectors = _play(agent, venv, int(batch_seed) >> 1)
        learnt = agent.update(rollout, vectors)
        history.append({"step": float(agent.steps)} | _episode_stats(rollout) | learnt)
    return history


def _play(
    agent: AirLlmAgent, venv: VectorEnv[Any, Any, Any], seed: int
) -> tuple[Rollout, Floats32]:
    """One episode in each environment, and the rank vectors float[T, N, M] that were carried
    out."""
    observation: Floats32 = np.asarray(venv.reset(seed=seed)[0], np.float32)
    playing: Bools = np.ones(venv.num_envs, bool)
    rollout, vectors = Rollout(), []
    for _ in range(agent.settings.ppo.n_steps):
        act, x = agent.explore(observation)
        following, reward, terminated, truncated, _ = venv.step(x)
        # an environment whose episode is over idles until the others are done
        rollout.add(observation, act, reward, terminated | truncated, valid=playing)
        vectors.append(x)
        observation = np.asarray(following, np.float32)
        playing = playing & ~(terminated | truncated)
        if not playing.any():
            break
    rollout.last_value = agent.ppo.value(observation)
    return rollout, np.stack(vectors)


def _episode_stats(rollout: Rollout) -> dict[str, float]:
    valid, rewards = rollout.column("valid"), rollout.column("rewards")
    n_envs = valid.shape[1]
    return {
        "episodes": float(n_envs),
        "reward": float(rewards[valid].mean()),
        "episode_return": float(rewards[valid].sum() / n_envs),
    }


def _check_spaces(agent: AirLlmAgent, venv: VectorEnv[Any, Any, Any]) -> None:
    m = agent.n_modules
    seen, action = venv.single_observation_space, venv.single_action_space
    bounded = (
        isinstance(action, Box)
        and action.low.min() == action.low.max() == -1
        and action.high.max() == 1
    )
    if seen.shape != (4 + m,) or action.shape != (m,) or not bounded:
        raise ConfigError(
            f"AirLLM for {m} modules needs observations of {4 + m} entries and actions Box(-1, 1, "
            f"({m},)), "
            f"the environment has {seen.shape} and {action}"
        )


# ----------------------------------------------------------------------------------------------
# policies


def state_of(obs: RoundObservation) -> Floats32:
    """float32[1, 4 + M]: cloud.policies.state.paper_state of an observation, also of one without
    expected losses."""
    if not obs.kfac.missing_if_sent:
        nothing = np.zeros(obs.r_max + 1, np.float32)
        obs = replace(
            obs, kfac=Residuals(missing_if_sent=dict.fromkeys(obs.module_shapes, nothing))
        )
    return paper_state(situation_of(obs))


def _plan(obs: RoundObservation, vector: Floats32, *, within_budget: bool) -> RankPlan:
    """The plan that a rank vector float[M] stands for; a vector's entries are shares of whatever
    r_max is."""
    ranks = decode_ranks(vector, obs.r_max).tolist()
    shapes = obs.module_shapes.items()
    plan = RankPlan(
        ranks={
            module: min(rank, *shape) for rank, (module, shape) in zip(ranks, shapes, strict=True)
        }
    )
    return project(share_of(obs), plan) if within_budget else plan


def _check_modules(obs: RoundObservation, n_modules: int, path: Path, kind: str) -> None:
    if len(obs.module_shapes) != n_modules:
        raise ModelError(
            f"policy weights {path}: for {n_modules} modules, the model has "
            f"{len(obs.module_shapes)}; "
            f"make others with `hil train {kind}`"
        )


class AirLlmPolicy:
    """AirLLM: PPO's mean coarse action, refined from a noise that the round's number fixes.

    Args:
        weights: a file of `hil train airllm` or `airllm-published`; "" = the one that ships for
            this way of planning.
        project: bring a plan that is too large down to the budget; False: it stays as it is and
            will not be sent.
    Raises:
        ModelError: no such file, or no AirLLM in it.
    """

    def __init__(self, weights: str = "", project: bool = True) -> None:
        self.name = "AirLLM projected" if project else "AirLLM"
        self._path = (
            Path(weights)
            if weights
            else SHIPPED / f"airllm{'' if project else '-published'}.safetensors"
        )
        self._agent, self._project = AirLlmAgent.load(self._path), project

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError for a model of another number of adapted modules than the weights are
        for."""
        _check_modules(obs, self._agent.n_modules, self._path, "airllm")
        noise = torch.Generator().manual_seed(obs.round_id)
        return _plan(obs, self._agent.act(state_of(obs), noise)[0], within_budget=self._project)


class PpoRankPolicy:
    """PPO alone: its mean action is the rank vector itself, projected onto the budget.

    Args:
        weights: a file of `hil train ppo`; "" = the one that ships.
    Raises:
        ModelError: no such file, or no such policy in it.
    """

    def __init__(self, weights: str = "") -> None:
        self.name = "PPO alone"
        self._path = Path(weights) if weights else SHIPPED / "ppo.safetensors"
        self._agent = load_ppo(self._path)

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError for a model of another number of adapted modules than the weights are
        for."""
        _check_modules(obs, self._agent.action_size, self._path, "ppo")
        action = self._agent.act(state_of(obs), deterministic=True).action[0]
        return _plan(obs, action, within_budget=True)


def save_ppo(path: Path, agent: Ppo, r_max: int) -> None:
    """Write what PpoRankPolicy needs of an agent that cloud.policies.rl.ppo.learn trained on rank
    vectors: float16 networks.

    Args:
        path: a .safetensors file.
        agent: its observation is cloud.policies.state.paper_state, its action a rank vector.
        r_max: largest rank that it was trained with.
    """
    write_weights(
        path, "ppo", agent.description() | {"r_max": r_max}, half_precision({"ppo": agent.model})
    )


def load_ppo(path: Path) -> Ppo:
    """The agent of a file of save_ppo, ready to act.

    Raises:
        ModelError: no such file, or no PPO over rank vectors in it.
    """
    described, tensors = read_weights(path, "ppo")
    agent = Ppo.described(described)
    load_module(
        agent.model,
        {name.removeprefix("ppo."): t for name, t in tensors.items()},
        f"policy weights {path}",
    )
    return agent
