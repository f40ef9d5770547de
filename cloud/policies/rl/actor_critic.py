"""The network of PPO: actor and critic over flat observations, with Gaussian or tanh-Gaussian
actions."""

from __future__ import annotations

import itertools
import math
from typing import Final, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cloud.policies.rl.reproducible import seeded_linear

Squash = Literal["tanh", "none"]

QUADRATURE_NODES: Final = 32
"""Of Gauss and Hermite, for the entropy of a tanh-Gaussian: enough for 1e-4 nats up to a standard
deviation of 1.5."""


class ActorCritic(nn.Module):
    """Two separate MLPs (LayerNorm, Mish) and a standard deviation that does not depend on the
    state.

    A *latent* is the Gaussian's draw; the *action*, in [-1, 1], is its tanh, or the latent clipped.

    Args:
        observation_size, action_size: entries of an observation and of an action, ≥ 1.
        hidden: widths of the hidden layers, of actor and critic each.
        squash: "tanh" or "none", see PpoSettings.
        log_std: natural logarithm of the first standard deviation.
        generator: of the first weights.
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

    def mean_action(self, observation: torch.Tensor) -> torch.Tensor:
        """float[N, A]: the action of the mean latent, for acting without exploration."""
        return self.action(self.mean(observation))

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
