"""What PPO learns from: the steps of a rollout, the scale of their rewards, their advantages, and
the loop that plays them in a Gymnasium vector environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from cloud.policies.rl.weights import Tensors
from hil.contract import Bools, ConfigError, Floats32

if TYPE_CHECKING:
    from cloud.policies.rl.ppo import Ppo

REWARD_LIMIT: Final = 10.0
"""Scaled rewards are clipped to this."""


class Act(NamedTuple):
    """What the agent does in N environments.

    Attributes:
        action: float32[N, A] in [-1, 1].
        latent: float32[N, A], the Gaussian's draw behind it.
        log_prob, value: float32[N].
    """

    action: Floats32
    latent: Floats32
    log_prob: Floats32
    value: Floats32


@dataclass(slots=True)
class Rollout:
    """T steps of N environments in the order they were made.

    Attributes:
        last_value: float[N]: value of the observation after the last step; needed unless every
            episode ends with it.
    """

    last_value: Floats32 | None = None
    _columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(
        self,
        observation: Floats32,
        act: Act,
        reward: NDArray[np.floating[Any]],
        done: Bools,
        *,
        bootstrap: Floats32 | None = None,
        valid: Bools | None = None,
    ) -> None:
        """Append one step.

        Args:
            observation: float[N, D], what the agent saw.
            act: what it did.
            reward: float[N], unscaled.
            done: bool[N]: the episode ended with this step.
            bootstrap: float[N]: value of the final observation where the episode was truncated,
                else 0; None: 0.
            valid: bool[N]: False for a step that only resets; it is not learnt from. None: all
                True.
        """
        row = {
            "observations": observation,
            "latents": act.latent,
            "log_probs": act.log_prob,
            "values": act.value,
            "rewards": reward,
            "dones": done,
            "bootstraps": np.zeros(len(done)) if bootstrap is None else bootstrap,
            "valid": np.ones(len(done), bool) if valid is None else valid,
        }
        for name, values in row.items():
            flag = name in ("dones", "valid")
            self._columns.setdefault(name, []).append(
                np.array(values, dtype=bool if flag else np.float32)
            )

    def __len__(self) -> int:
        """Number of steps T."""
        return len(self._columns.get("dones", ()))

    def column(self, name: str) -> NDArray[Any]:
        """[T, N, ...]: "observations", "latents", "log_probs", "values", "rewards", "bootstraps",
        "dones", "valid"."""
        return np.stack(self._columns[name])

    def end_value(self) -> Floats32:
        """float[N]: last_value, or zeros when every episode ends with the last step.

        Raises:
            ValueError: an episode goes on and last_value is missing.
        """
        if self.last_value is None:
            if not self._columns["dones"][-1].all():
                raise ValueError(
                    "Rollout.last_value is None but an episode goes on; set it to "
                    "Ppo.value(observation)"
                )
            return np.zeros(len(self._columns["dones"][-1]), np.float32)
        return self.last_value


class RewardScale:
    """Divides rewards by the running standard deviation of the discounted return, over all steps
    seen so far."""

    def __init__(self, gamma: float) -> None:
        self._gamma = gamma
        self.count, self.mean, self.variance = 0.0, 0.0, 0.0
        self.returns: NDArray[np.float64] = np.zeros(0)

    def __call__(self, rewards: Floats32, dones: Bools, valid: Bools) -> Floats32:
        """float32[T, N]: the rewards scaled, by one factor for the whole rollout, which is counted
        first."""
        if self.returns.shape != rewards.shape[1:]:
            self.returns = np.zeros(rewards.shape[1:])
        seen = np.zeros(rewards.shape)
        for t in range(len(rewards)):
            seen[t] = self.returns * self._gamma + rewards[t]
            self.returns = np.where(dones[t], 0.0, seen[t])
        self._count(seen[valid])
        scaled = np.clip(rewards / np.sqrt(self.variance + 1e-8), -REWARD_LIMIT, REWARD_LIMIT)
        return np.asarray(scaled, dtype=np.float32)

    def _count(self, values: NDArray[np.float64]) -> None:
        """Merge a batch into mean and variance (Chan, Golub and LeVeque 1979)."""
        total = self.count + values.size
        shift = float(values.mean()) - self.mean
        squares = self.variance * self.count + float(values.var()) * values.size
        self.variance = (squares + shift**2 * self.count * values.size / total) / total
        self.mean += shift * values.size / total
        self.count = total

    def tensors(self) -> Tensors:
        """Everything that scaling goes on from."""
        moments = torch.tensor([self.count, self.mean, self.variance], dtype=torch.float64)
        return {"moments": moments, "returns": torch.tensor(self.returns)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what tensors() gave."""
        self.count, self.mean, self.variance = tensors["moments"].tolist()
        self.returns = tensors["returns"].numpy().copy()


def gae(
    rewards: Floats32,
    values: Floats32,
    dones: Bools,
    last_value: Floats32,
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap: Floats32 | None = None,
) -> tuple[Floats32, Floats32]:
    """(advantages, returns), float32[T, N], by generalised advantage estimation.

    Args:
        rewards, values: float[T, N]: reward of step t, and value of the observation before it.
        dones: bool[T, N]: the episode ended with step t, in whichever way; what follows is another
            one.
        last_value: float[N]: value of the observation after the last step; not read where the last
            step is done.
        gamma, gae_lambda: see PpoSettings.
        bootstrap: float[T, N], read where `dones`: the value of an episode's final observation
            where it was truncated, 0 where it terminated. None: every end is a termination.
    """
    advantages = np.zeros_like(values, dtype=np.float32)
    following, advantage = last_value, np.zeros_like(last_value, dtype=np.float32)
    ends = np.zeros_like(values) if bootstrap is None else bootstrap
    for t in reversed(range(len(rewards))):
        expected = np.where(dones[t], ends[t], following)
        error = rewards[t] + gamma * expected - values[t]
        advantage = error + gamma * gae_lambda * np.where(dones[t], 0.0, advantage)
        advantages[t], following = advantage, values[t]
    return advantages, (advantages + values).astype(np.float32)


# ----------------------------------------------------------------------------------------- the loop


def to_box(action: Floats32, box: Box) -> NDArray[Any]:
    """Actions float[..., A] in [-1, 1] as the points of a bounded box, in its shape and type."""
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    unit = (action.astype(np.float64).reshape(-1, *box.shape) + 1) / 2
    scaled: NDArray[Any] = np.clip(low + unit * (high - low), low, high).astype(box.dtype)
    return scaled


def learn(
    agent: Ppo,
    venv: VectorEnv[Any, Any, Any],
    total_steps: int,
    *,
    seed: int | None = None,
) -> list[dict[str, float]]:
    """Train on a vector environment, from fresh episodes on.

    Args:
        agent: learns in place.
        venv: environments with bounded Box actions and flat or flattened Box observations, which
            reset themselves in the step after an episode's end (Gymnasium's default) or in the same
            one.
        total_steps: environment steps of all environments together; the last rollout is finished.
        seed: seed of the environments; None: they stay as they are.
    Returns:
        One entry per update: step (environment steps so far), episodes, episode_return and
        episode_length (means of the episodes that ended in this rollout, NaN if none did) and what
        Ppo.update gives.
    Raises:
        ConfigError: the environment's actions are no bounded Box, or it does not reset itself.
    """
    loop = _Loop(agent, venv, seed)
    history: list[dict[str, float]] = []
    while loop.step < total_steps:
        rollout = loop.collect()
        history.append(loop.episode_stats() | agent.update(rollout))
    return history


class _Loop:
    """A vector environment between two rollouts."""

    def __init__(self, agent: Ppo, venv: VectorEnv[Any, Any, Any], seed: int | None) -> None:
        self._agent, self._venv = agent, venv
        self._box = _bounded(venv.single_action_space)
        mode = AutoresetMode(venv.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if mode == AutoresetMode.DISABLED:
            raise ConfigError(
                "the environment's autoreset mode is DISABLED; PPO needs NEXT_STEP or SAME_STEP"
            )
        self._same_step = mode == AutoresetMode.SAME_STEP
        n = venv.num_envs
        self._observation = _flat(venv.reset(seed=seed)[0], n)
        self._resets: Bools = np.zeros(n, bool)
        self._returns, self._lengths = np.zeros(n), np.zeros(n, np.int64)
        self._ended: list[tuple[float, int]] = []
        self.step = 0

    def collect(self) -> Rollout:
        """The next n_steps steps."""
        rollout, agent = Rollout(), self._agent
        for _ in range(agent.settings.n_steps):
            act = agent.act(self._observation)
            actions = to_box(act.action, self._box)
            seen, reward, terminated, truncated, info = self._venv.step(actions)
            following, done, valid = _flat(seen, len(reward)), terminated | truncated, ~self._resets
            bootstrap = np.zeros(len(reward), np.float32)
            cut = truncated & ~terminated
            if cut.any():
                bootstrap[cut] = agent.value(self._final(following, cut, info))
            rollout.add(self._observation, act, reward, done, bootstrap=bootstrap, valid=valid)
            self._book(reward, done, valid)
            self._observation = following
            # The step after an episode's end ignores its action and only resets.
            self._resets = np.zeros_like(done) if self._same_step else done
        rollout.last_value = agent.value(self._observation)
        return rollout

    def _final(self, following: Floats32, cut: Bools, info: Mapping[str, Any]) -> Floats32:
        """float32[k, D]: the final observations of the episodes that were cut."""
        if not self._same_step:
            return following[cut]
        return np.stack([np.asarray(o, np.float32).reshape(-1) for o in info["final_obs"][cut]])

    def _book(self, reward: NDArray[Any], done: Bools, valid: Bools) -> None:
        self._returns += np.where(valid, reward, 0.0)
        self._lengths += valid
        self.step += int(valid.sum())
        self._ended += zip(self._returns[done].tolist(), self._lengths[done].tolist(), strict=True)
        self._returns[done], self._lengths[done] = 0.0, 0

    def episode_stats(self) -> dict[str, float]:
        """The episodes that have ended since the last call."""
        mean = np.mean(self._ended, axis=0) if self._ended else np.full(2, math.nan)
        stats = {"step": float(self.step), "episodes": float(len(self._ended))}
        self._ended = []
        return stats | {"episode_return": float(mean[0]), "episode_length": float(mean[1])}


def _bounded(space: object) -> Box:
    if isinstance(space, Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return space
    raise ConfigError(
        f"action space {space}: PPO needs a Box with finite bounds; bound it or wrap the "
        "environment"
    )


def _flat(observation: NDArray[Any], n: int) -> Floats32:
    """float32[N, D]."""
    return np.asarray(observation, dtype=np.float32).reshape(n, -1)
