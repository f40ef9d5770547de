"""A conditional diffusion model over vectors in [-1, 1]^M.

Trained to name the noise in a vector (Ho et al. 2020, arXiv 2006.11239), sampled by DDIM (Song et
al. 2021, arXiv 2010.02502), drawn to its condition by classifier-free guidance (Ho and Salimans
2022, arXiv 2207.12598).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import nn

from cloud.policies.rl.weights import (
    Tensors,
    below,
    load_module,
    load_optimiser,
    optimiser_tensors,
    prefixed,
    seeded_linear,
)

Null = Literal["zero", "learnt"]

SLOWEST_PERIOD: Final = 10_000.0
"""Longest wavelength of the time embedding, in training steps over 2 pi (Vaswani et al. 2017)."""


# ------------------------------------------------------------------------------------------
# schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How noise grows over training steps 0..train_steps - 1, and which of them sampling visits.

    Attributes:
        beta_start, beta_end: variance added at the first and the last step; between them its square
            root is linear, the "scaled linear" schedule of latent diffusion (Rombach et al. 2022).
        train_steps: number of noise levels.
        sample_steps: how many of them sampling visits, from the noisiest on.
        spacing: "leading": multiples of train_steps // sample_steps, the first a little below
            train_steps, so that it is not quite the pure noise that it is taken for; "linspace":
            evenly from train_steps - 1 to 0.
        eta: 0 = deterministic DDIM, 1 = as much fresh noise as DDPM.
        clip_x0: limit each step's prediction of the clean vector to [-1, 1].
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    train_steps: int = 1000
    sample_steps: int = 50
    spacing: Literal["leading", "linspace"] = "leading"
    eta: float = 0.0
    clip_x0: bool = True

    def alphas_cumprod(self) -> torch.Tensor:
        """float32[train_steps]: share of a clean vector's power that is left at each step."""
        roots = torch.linspace(
            self.beta_start**0.5, self.beta_end**0.5, self.train_steps, dtype=torch.float64
        )
        return torch.cumprod(1.0 - roots.square(), dim=0).float()

    def timesteps(self, n_steps: int | None = None) -> list[int]:
        """The steps that sampling visits, falling to 0.

        Args:
            n_steps: how many, 1..train_steps; None: sample_steps.
        Raises:
            ValueError: n_steps is out of range.
        """
        n = self.sample_steps if n_steps is None else n_steps
        if not 1 <= n <= self.train_steps:
            raise ValueError(f"n_steps is {n}; it must be 1..{self.train_steps}")
        if self.spacing == "leading":
            return [i * (self.train_steps // n) for i in reversed(range(n))]
        return [(n - 1 - i) * (self.train_steps - 1) // max(1, n - 1) for i in range(n)]

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Clean vectors float[B, M] with the noise of steps int[B] (eq. 4 of Ho et al.)."""
        left = self.alphas_cumprod()[t].unsqueeze(-1)
        return left.sqrt() * x + (1.0 - left).sqrt() * noise


PredictNoise = Callable[[torch.Tensor, int], torch.Tensor]
"""(x float[B, M], index into Schedule.timesteps) → the noise in x, float[B, M]."""


def sample_ddim(
    predict: PredictNoise,
    x: torch.Tensor,
    schedule: Schedule,
    *,
    n_steps: int | None = None,
    generator: torch.Generator | None = None,
    step_noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """Clean vectors float[B, M] by eq. 12 and 16 of Song et al.

    Args:
        predict: the noise in x at the i-th visited step.
        x: float[B, M], noise of variance 1.
        schedule: noise levels and eta.
        n_steps: see Schedule.timesteps.
        generator: gives the fresh noise; eta > 0 needs it or step_noise.
        step_noise: float[n_steps, B, M], fresh noise given.
    Raises:
        ValueError: eta > 0 without a source of noise.
    """
    if schedule.eta > 0 and generator is None and step_noise is None:
        raise ValueError(f"eta is {schedule.eta}: sampling needs a generator or step_noise")
    steps = schedule.timesteps(n_steps)
    levels = schedule.alphas_cumprod().tolist()
    for i, t in enumerate(steps):
        now, following = levels[t], levels[steps[i + 1]] if i + 1 < len(steps) else 1.0
        noise = predict(x, i)
        clean = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
        if schedule.clip_x0:
            clean = clean.clamp(-1.0, 1.0)
        sigma = schedule.eta * math.sqrt((1 - following) / (1 - now) * (1 - now / following))
        x = math.sqrt(following) * clean + math.sqrt(1 - following - sigma**2) * noise
        if sigma > 0:
            x = x + sigma * (
                torch.randn(x.shape, generator=generator) if step_noise is None else step_noise[i]
            )
    return x


# -------------------------------------------------------------------------------------------
# network


class Denoiser(nn.Module):
    """Names the noise in a vector: an MLP with residual blocks h + W mish(norm(h)).

    Vector, step and condition enter once, as a sum of their projections.

    Args:
        size: entries M of a vector.
        condition_size: entries C of a condition.
        hidden: width.
        blocks: residual blocks.
        time_embedding: entries of the sinusoidal embedding of the step, even.
        null: the absent condition: "zero": the vector of zeros, which is a legal condition too;
            "learnt": a parameter.
        generator: gives the first weights.
    """

    def __init__(
        self,
        size: int,
        condition_size: int,
        *,
        hidden: int,
        blocks: int,
        time_embedding: int,
        null: Null,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._time_embedding = time_embedding
        self.time = nn.Sequential(seeded_linear(time_embedding, hidden, generator), nn.Mish())
        self.condition = seeded_linear(condition_size, hidden, generator)
        self.inlet = seeded_linear(size, hidden, generator)
        self.blocks = nn.ModuleList(_normed(hidden, hidden, generator) for _ in range(blocks))
        self.outlet = _normed(hidden, size, generator)
        self.null: torch.Tensor
        if null == "learnt":
            self.null = nn.Parameter(torch.randn(condition_size, generator=generator))
        else:
            self.register_buffer("null", torch.zeros(condition_size), persistent=False)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor,
        absent: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float[B, M]: the noise in x float[B, M] at steps int[B].

        Args:
            x: noisy vectors.
            t: steps, 0..train_steps - 1.
            condition: float[B, C].
            absent: bool[B]: rows whose condition is taken away; None: none of them.
        """
        return self.predict(x, self.embed_time(t) + self.embed_condition(condition, absent))

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """float[B, hidden] of steps int[B]."""
        half = self._time_embedding // 2
        angles = t.unsqueeze(-1) * torch.exp(-math.log(SLOWEST_PERIOD) / half * torch.arange(half))
        embedded: torch.Tensor = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedded

    def embed_condition(
        self, condition: torch.Tensor, absent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float[B, hidden] of conditions float[B, C]; see forward."""
        if absent is not None:
            condition = torch.where(absent.unsqueeze(-1), self.null, condition)
        embedded: torch.Tensor = self.condition(condition)
        return embedded

    def predict(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """float[B, M]: the noise in x, given the sum of both embeddings float[B, hidden]."""
        h: torch.Tensor = self.inlet(x) + told
        for block in self.blocks:
            h = h + block(h)
        noise: torch.Tensor = self.outlet(h)
        return noise


def _normed(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Mish(), seeded_linear(inputs, outputs, generator))


# ----------------------------------------------------------------------------------------- the
# model


@dataclass(frozen=True, slots=True, kw_only=True)
class DdimSettings:
    """Hyperparameters; the defaults are AirLLM's (arXiv 2507.11515) but for the null condition.

    Attributes:
        hidden, blocks, time_embedding, null: see Denoiser.
        condition_drop: probability that a training row's condition is taken away, 0..1.
        learning_rate: Adam's.
        max_grad_norm: gradients are scaled down to this norm.
        ema: samples come from a running mean of the weights with this decay per step, 0 = from the
            weights themselves.
        schedule: noise levels.
    """

    hidden: int = 512
    blocks: int = 2
    time_embedding: int = 64
    null: Null = "learnt"
    condition_drop: float = 0.1
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    ema: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)


class Ddim:
    """The diffusion model with its optimiser and random generator.

    Args:
        size: entries M of a vector.
        condition_size: entries C of a condition, ≥ 1.
        settings: hyperparameters.
        seed: seed of weights, training noise and samples, ≥ 0.
    """

    def __init__(
        self, size: int, condition_size: int, settings: DdimSettings | None = None, *, seed: int
    ) -> None:
        self.size, self.condition_size = size, condition_size
        self.settings = s = DdimSettings() if settings is None else settings
        self.generator = torch.Generator().manual_seed(seed)
        self.model = Denoiser(
            size,
            condition_size,
            hidden=s.hidden,
            blocks=s.blocks,
            time_embedding=s.time_embedding,
            null=s.null,
            generator=self.generator,
        )
        self.mean_model = copy.deepcopy(self.model) if s.ema > 0 else self.model
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=s.learning_rate, fused=True)
        self.steps = 0

    def train_step(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        weights: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> float:
        """One gradient step; gives the weighted mean squared error of the noise, before the step.

        Args:
            x: float[B, M], clean vectors in [-1, 1].
            condition: float[B, C].
            weights: float[B] ≥ 0, one factor per row; None: 1.
            generator: gives steps, noise and dropped conditions; None: the model's own.
        """
        loss = self.loss(x, condition, weights, generator)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimiser.step()
        self.steps += 1
        if self.settings.ema > 0:
            # A short memory at first: the first weights are only noise.
            decay = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
            with torch.no_grad():
                for mean, new in zip(
                    self.mean_model.parameters(), self.model.parameters(), strict=True
                ):
                    mean.lerp_(new, 1 - decay)
        return loss.item()

    def loss(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        weights: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The scalar that train_step descends; see there."""
        s, g = self.settings, self.generator if generator is None else generator
        t = torch.randint(s.schedule.train_steps, (len(x),), generator=g)
        noise = torch.randn(x.shape, generator=g)
        absent = torch.rand(len(x), generator=g) < s.condition_drop
        found: torch.Tensor = self.model(s.schedule.add_noise(x, noise, t), t, condition, absent)
        errors = (found - noise).square().mean(dim=-1)
        return (errors if weights is None else weights * errors).mean()

    @torch.no_grad()
    def sample(
        self,
        condition: torch.Tensor,
        guidance_scale: float = 1.0,
        *,
        generator: torch.Generator | None = None,
        noise: torch.Tensor | None = None,
        step_noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float[B, M] in [-1, 1]: one vector per condition float[B, C].

        Args:
            condition: what the vectors should suit.
            guidance_scale: 0 = without the condition, 1 = the conditional model, more = drawn
                further towards it.
            generator: gives the noise; None: the model's own.
            noise: float[B, M], to start from; None: drawn.
            step_noise: see sample_ddim.
        """
        g = self.generator if generator is None else generator
        x = torch.randn(len(condition), self.size, generator=g) if noise is None else noise
        predict = self._guided(condition, guidance_scale, self.settings.schedule.timesteps())
        return sample_ddim(
            predict, x, self.settings.schedule, generator=g, step_noise=step_noise
        ).clamp(-1.0, 1.0)

    def _guided(self, condition: torch.Tensor, scale: float, steps: list[int]) -> PredictNoise:
        """eps(null) + scale (eps(condition) - eps(null)), with all that does not depend on x
        computed once."""
        model, rows = self.mean_model, len(condition)
        times = model.embed_time(torch.tensor(steps))
        if scale in (0.0, 1.0):
            told = model.embed_condition(condition, torch.full((rows,), scale == 0.0))
            return lambda x, i: model.predict(x, told + times[i])
        absent = torch.arange(2 * rows) >= rows
        both = model.embed_condition(condition.repeat(2, 1), absent)

        def predict(x: torch.Tensor, i: int) -> torch.Tensor:
            noise = model.predict(x.repeat(2, 1), both + times[i])
            with_it, without = noise[:rows], noise[rows:]
            return without + scale * (with_it - without)

        return predict

    def state_dict(self) -> Tensors:
        """Everything that training and sampling go on from, as copies."""
        mean = prefixed("mean_model", self.mean_model.state_dict()) if self.settings.ema > 0 else {}
        return (
            prefixed("model", self.model.state_dict())
            | mean
            | prefixed("optimiser", optimiser_tensors(self.optimiser))
            | {"generator": self.generator.get_state(), "steps": torch.tensor(self.steps)}
        )

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what state_dict() gave.

        Raises:
            ModelError: the tensors are of a network of other sizes.
        """
        load_module(self.model, below("model", tensors), "the diffusion model's network")
        if self.settings.ema > 0:
            load_module(
                self.mean_model, below("mean_model", tensors), "the diffusion model's mean network"
            )
        load_optimiser(self.optimiser, below("optimiser", tensors))
        self.generator.set_state(tensors["generator"])
        self.steps = int(tensors["steps"])
