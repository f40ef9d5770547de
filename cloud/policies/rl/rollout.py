"""What PPO learns from: the steps of a rollout, the scale of their rewards, and their
advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cloud.policies.rl.reproducible import Tensors
from hil.contract import Bools, Floats32

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
