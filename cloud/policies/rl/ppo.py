"""Proximal policy optimisation for continuous actions: Schulman et al. 2017 (arXiv 1707.06347),
advantages by GAE (Schulman et al. 2016, arXiv 1506.02438).

Acting and updating stand apart: `Ppo.act` gives actions in [-1, 1], a `Rollout` takes what they led
to, `Ppo.update` learns from it; cloud.policies.rl.rollout has both, and the loop around a Gymnasium
vector environment. Everything runs on the CPU: networks of this size are faster there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cloud.policies.rl.rollout import Act, RewardScale, Rollout, gae
from cloud.policies.rl.weights import (
    Tensors,
    below,
    load_module,
    load_optimiser,
    optimiser_tensors,
    prefixed,
    seeded_linear,
)
from hil.contract import Floats32

Squash = Literal["tanh", "none"]

QUADRATURE_NODES: Final = 32
"""Nodes of Gauss-Hermite quadrature for the entropy of a tanh-Gaussian: enough for 1e-4 nats up to
a standard deviation of 1.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoSettings:
    """Hyperparameters.

    Attributes:
        hidden: widths of the hidden layers, of the actor and of the critic.
        learning_rate: Adam's.
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


class ActorCritic(nn.Module):
    """Two separate MLPs (LayerNorm, Mish) and a standard deviation that does not depend on the
    state.

    A *latent* is the Gaussian's draw; the *action*, in [-1, 1], is its tanh, or the latent clipped.

    Args:
        observation_size, action_size: entries of an observation and of an action, ≥ 1.
        hidden: widths of the hidden layers, of actor and critic each.
        squash: "tanh" or "none", see PpoSettings.
        log_std: natural logarithm of the first standard deviation.
        generator: gives the first weights.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...],
        squash: Squash,
        log_std: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = (observation_size, *hidden)
        # A first policy near the middle of the box, whatever the observation.
        self.actor = _mlp(sizes, action_size, 0.01, generator)
        self.critic = _mlp(sizes, 1, 1.0, generator)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))
        self.tanh = squash == "tanh"
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        self.register_buffer("_nodes", torch.tensor(nodes, dtype=torch.float32), persistent=False)
        self.register_buffer(
            "_weights", torch.tensor(weights / weights.sum(), dtype=torch.float32), persistent=False
        )
        self._nodes: torch.Tensor
        self._weights: torch.Tensor

    def mean(self, observation: torch.Tensor) -> torch.Tensor:
        """float[N, A]: mean latent for observations float[N, D]."""
        mean: torch.Tensor = self.actor(observation)
        return mean

    def value(self, observation: torch.Tensor) -> torch.Tensor:
        """float[N]: expected (scaled) return from observations float[N, D]."""
        value: torch.Tensor = self.critic(observation)
        return value.squeeze(-1)

    def action(self, latent: torch.Tensor) -> torch.Tensor:
        """The action in [-1, 1] that a latent stands for, of the same shape."""
        return torch.tanh(latent) if self.tanh else latent.clamp(-1.0, 1.0)

    def log_prob(self, mean: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """float[N]: log density, of the action with "tanh", of the latent with "none"; mean and
        latent float[N, A]."""
        z = (latent - mean) / self.log_std.exp()
        density = -0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        if self.tanh:
            density = density - _log_tanh_slope(latent)
        return density.sum(-1)

    def entropy(self, mean: torch.Tensor) -> torch.Tensor:
        """float[N]: differential entropy in nats, of the distribution whose density log_prob
        gives."""
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(mean)
        if self.tanh:
            # h(tanh u) = h(u) + E log tanh'(u), an integral in one dimension per entry.
            at = mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * self._nodes
            entropy = entropy + _log_tanh_slope(at) @ self._weights
        return entropy.sum(-1)

    def evaluate(
        self, observation: torch.Tensor, latent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(log_prob, entropy, value), each float[N], of latents float[N, A] at observations
        float[N, D]."""
        mean = self.mean(observation)
        return self.log_prob(mean, latent), self.entropy(mean), self.value(observation)


def _mlp(
    sizes: tuple[int, ...], outputs: int, gain: float, generator: torch.Generator
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, width in itertools.pairwise(sizes):
        layers += [
            seeded_linear(inputs, width, generator, gain=2**0.5),
            nn.LayerNorm(width),
            nn.Mish(),
        ]
    return nn.Sequential(*layers, seeded_linear(sizes[-1], outputs, generator, gain=gain))


def _log_tanh_slope(x: torch.Tensor) -> torch.Tensor:
    """log(1 - tanh(x)^2), without the loss of digits for large |x|."""
    return 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))


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
        seed: seed of weights, exploration and minibatches, ≥ 0.
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
        """Sizes and settings, ready for JSON: all that `described` needs."""
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
