"""Proximal policy optimisation for continuous actions: Schulman et al. 2017 (arXiv 1707.06347),
advantages by GAE (Schulman et al. 2016, arXiv 1506.02438).

Acting and updating stand apart: `Ppo.act` gives actions in [-1, 1], a `Rollout` takes what they led
to, `Ppo.update` learns from it. `learn` is the loop around a Gymnasium vector environment; others
may write their own. Everything runs on the CPU: networks of this size are faster there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from cloud.policies.rl.actor_critic import ActorCritic, Squash
from cloud.policies.rl.reproducible import (
    Tensors,
    below,
    load_module,
    load_optimiser,
    optimiser_tensors,
    prefixed,
)
from cloud.policies.rl.rollout import Act, RewardScale, Rollout, gae
from hil.contract import Bools, ConfigError, Floats32

__all__ = [
    "Act",
    "ActorCritic",
    "Ppo",
    "PpoLoss",
    "PpoSettings",
    "Rollout",
    "gae",
    "learn",
    "ppo_loss",
    "to_box",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoSettings:
    """Hyperparameters.

    Attributes:
        hidden: widths of the hidden layers, of the actor and of the critic.
        learning_rate: of Adam.
        clip_coef: the probability ratio counts within 1 ± this.
        gamma: discount per step, 0..1.
        gae_lambda: 0 = one-step advantages, 1 = Monte Carlo.
        ent_coef, vf_coef: weights of entropy bonus and value loss.
        max_grad_norm: gradients are scaled down to this norm.
        update_epochs: passes over a rollout.
        minibatches: parts of a rollout, a gradient step each.
        n_steps: length T of a rollout in `learn`.
        norm_reward: divide rewards by the running standard deviation of the discounted return.
        squash: "tanh": tanh of a Gaussian, with its exact density; "none": a Gaussian, clipped
            where it acts.
        log_std: natural logarithm of the Gaussian's first standard deviation.
    """

    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    clip_coef: float = 0.2
    gamma: float = 0.99
    gae_lambda: float = 0.95
    ent_coef: float = 0.003
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    update_epochs: int = 4
    minibatches: int = 4
    n_steps: int = 32
    norm_reward: bool = True
    squash: Squash = "tanh"
    log_std: float = -0.5


class PpoLoss(NamedTuple):
    """Scalars: `total` is what is minimised; policy and value are losses, entropy is in nats."""

    total: torch.Tensor
    policy: torch.Tensor
    value: torch.Tensor
    entropy: torch.Tensor
    approx_kl: torch.Tensor
    clip_fraction: torch.Tensor


def ppo_loss(
    log_prob: torch.Tensor,
    entropy: torch.Tensor,
    value: torch.Tensor,
    *,
    old_log_prob: torch.Tensor,
    advantages: torch.Tensor,
    returns: torch.Tensor,
    settings: PpoSettings,
) -> PpoLoss:
    """The clipped objective (eq. 7 and 9 of PPO) of a minibatch; advantages are brought to mean 0,
    deviation 1 in it.

    Args:
        log_prob, entropy, value: float[B], of the policy as it is now.
        old_log_prob: float[B], when the actions were taken.
        advantages, returns: float[B], of `gae`.
        settings: clip_coef, ent_coef and vf_coef count.
    """
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - settings.clip_coef, 1 + settings.clip_coef)
    policy = -torch.minimum(advantages * ratio, advantages * clipped).mean()
    value_loss = F.mse_loss(value, returns)
    mean_entropy = entropy.mean()
    with torch.no_grad():
        # (r - 1) - log r: unbiased for KL(old | new), never negative.
        approx_kl = (ratio - 1 - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > settings.clip_coef).float().mean()
    total = policy + settings.vf_coef * value_loss - settings.ent_coef * mean_entropy
    return PpoLoss(total, policy, value_loss, mean_entropy, approx_kl, clip_fraction)


class Ppo:
    """The agent: network, optimiser, reward scale and random generator.

    Args:
        observation_size, action_size: entries of an observation and of an action, ≥ 1.
        settings: hyperparameters.
        seed: of weights, exploration and minibatches, ≥ 0.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        settings: PpoSettings | None = None,
        *,
        seed: int,
    ) -> None:
        self.observation_size, self.action_size = observation_size, action_size
        self.settings = PpoSettings() if settings is None else settings
        self.generator = torch.Generator().manual_seed(seed)
        s = self.settings
        self.model = ActorCritic(
            observation_size,
            action_size,
            hidden=s.hidden,
            squash=s.squash,
            log_std=s.log_std,
            generator=self.generator,
        )
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=s.learning_rate, eps=1e-5, fused=True
        )
        self.reward_scale = RewardScale(s.gamma)

    @torch.no_grad()
    def act(self, observation: Floats32, deterministic: bool = False) -> Act:
        """What to do for observations float[N, D].

        Args:
            observation: float[N, D].
            deterministic: take the mean instead of a draw; the generator is not touched.
        """
        seen = torch.as_tensor(observation, dtype=torch.float32)
        mean = self.model.mean(seen)
        latent = mean
        if not deterministic:
            latent = mean + self.model.log_std.exp() * torch.randn(
                mean.shape, generator=self.generator
            )
        found = (
            self.model.action(latent),
            latent,
            self.model.log_prob(mean, latent),
            self.model.value(seen),
        )
        return Act(*(tensor.numpy() for tensor in found))

    @torch.no_grad()
    def value(self, observation: Floats32) -> Floats32:
        """float32[N]: the critic's value of observations float[N, D]."""
        value: Floats32 = self.model.value(
            torch.as_tensor(observation, dtype=torch.float32)
        ).numpy()
        return value

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout.

        Returns:
            Means over all minibatches: policy_loss, value_loss, entropy, approx_kl, clip_fraction;
            and explained_variance of the returns before the update, reward_scale, std after it.
        Raises:
            ValueError: see Rollout.end_value.
        """
        s = self.settings
        batch, explained = self._batch(rollout)
        size = len(batch["returns"])
        stats: list[list[float]] = []
        for _ in range(s.update_epochs):
            order = torch.randperm(size, generator=self.generator)
            for part in order.tensor_split(min(s.minibatches, size)):
                loss = self._step({name: tensor[part] for name, tensor in batch.items()})
                stats.append([tensor.item() for tensor in loss[1:]])
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        return dict(zip(names, np.mean(stats, axis=0).tolist(), strict=True)) | {
            "explained_variance": explained,
            "reward_scale": math.sqrt(self.reward_scale.variance) if s.norm_reward else 1.0,
            "std": self.model.log_std.exp().mean().item(),
        }

    def _batch(self, rollout: Rollout) -> tuple[Tensors, float]:
        """The valid steps as flat tensors, and how much of the returns' variance the critic
        explains."""
        s = self.settings
        rewards, values, dones, valid = (
            rollout.column(n) for n in ("rewards", "values", "dones", "valid")
        )
        if s.norm_reward:
            rewards = self.reward_scale(rewards, dones, valid)
        advantages, returns = gae(
            rewards,
            values,
            dones,
            rollout.end_value(),
            gamma=s.gamma,
            gae_lambda=s.gae_lambda,
            bootstrap=rollout.column("bootstraps"),
        )
        columns = {n: rollout.column(n) for n in ("observations", "latents", "log_probs")}
        columns |= {"advantages": advantages, "returns": returns}
        variance = float(returns[valid].var())
        explained = (
            1 - float((returns - values)[valid].var()) / variance if variance > 0 else math.nan
        )
        return {name: torch.as_tensor(column[valid]) for name, column in columns.items()}, explained

    def _step(self, batch: Tensors) -> PpoLoss:
        """One gradient step."""
        loss = ppo_loss(
            *self.model.evaluate(batch["observations"], batch["latents"]),
            old_log_prob=batch["log_probs"],
            advantages=batch["advantages"],
            returns=batch["returns"],
            settings=self.settings,
        )
        self.optimiser.zero_grad()
        torch.autograd.backward(loss.total)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimiser.step()
        return loss

    def description(self) -> dict[str, Any]:
        """Sizes and settings, ready for JSON: with state_dict() all that `restore` needs."""
        return {
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "settings": asdict(self.settings),
        }

    def state_dict(self) -> Tensors:
        """Everything that acting and learning go on from, as copies: network, optimiser, reward
        scale, generator."""
        return (
            prefixed("model", self.model.state_dict())
            | prefixed("optimiser", optimiser_tensors(self.optimiser))
            | prefixed("reward_scale", self.reward_scale.tensors())
            | {"generator": self.generator.get_state()}
        )

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what state_dict() gave.

        Raises:
            ModelError: the tensors are of a network of other sizes.
        """
        load_module(self.model, below("model", tensors), "PPO's network")
        load_optimiser(self.optimiser, below("optimiser", tensors))
        self.reward_scale.load(below("reward_scale", tensors))
        self.generator.set_state(tensors["generator"])

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> Ppo:
        """A fresh agent of the sizes and settings that description() gave."""
        settings = dict(description["settings"])
        settings["hidden"] = tuple(settings["hidden"])
        return cls(
            description["observation_size"],
            description["action_size"],
            PpoSettings(**settings),
            seed=0,
        )

    @classmethod
    def restore(cls, description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Ppo:
        """The agent that gave description() and state_dict().

        Raises:
            ModelError: the two do not fit each other.
        """
        agent = cls.described(description)
        agent.load_state_dict(tensors)
        return agent


# ----------------------------------------------------------------------------------------------
# loop


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
    on_update: Callable[[dict[str, float]], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train on a vector environment, from fresh episodes on.

    Args:
        agent: learns in place.
        venv: with bounded Box actions and flat or flattened Box observations; resets itself in the
            step after an episode's end (Gymnasium's default) or in the same one.
        total_steps: environment steps of all environments together; the last rollout is finished.
        seed: of the environments; None: as they are.
        on_update: called after each update with its entry of the history.
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
        on_update(history[-1])
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
