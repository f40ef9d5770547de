"""AirLLM: PPO proposes a coarse action, a conditional diffusion model refines it into the rank of
every module.

The two learn in turns: after every batch of episodes PPO learns which coarse actions paid, then the
diffusion model imitates the rank vectors of a replay, given the coarse actions behind them, those
with a high reward a little more.
Source: arXiv 2507.11515. docs/airllm.md names every difference from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cloud.policies.rl.ppo import Ppo, PpoSettings
from cloud.policies.rl.refiner import Ddim, DdimSettings, Schedule
from cloud.policies.rl.rollout import Act, Rollout
from cloud.policies.rl.weights import (
    Tensors,
    below,
    half_precision,
    load_module,
    read_weights,
    write_weights,
)
from hil.contract import Bools, Floats32, Ints

# ------------------------------------------------------------------------------------- ranks as a
# vector


def decode_ranks(x: Floats32 | NDArray[np.float64], r_max: int) -> Ints:
    """Ranks 1..r_max of vectors in -1..1, of the same shape: floor((x + 1) / 2 (r_max - 1)) + 1.

    r_max itself stands at x = 1 alone. What encode_ranks gives as float32 comes back unchanged.
    """
    steps = (np.clip(x, -1.0, 1.0).astype(np.float64) + 1.0) / 2.0 * (r_max - 1)
    # a rank's own x lies at the very edge of its interval, where rounding decides
    ranks: Ints = np.floor(steps + 1e-5).astype(np.int64) + 1
    return ranks


def encode_ranks(ranks: Ints, r_max: int) -> Floats32:
    """float32, the least x in -1..1 that stands for each rank 1..r_max."""
    return (2.0 * (ranks - 1) / max(r_max - 1, 1) - 1.0).astype(np.float32)


def reward_weights(rewards: Floats32, strength: float) -> Floats32:
    """float32[B]: 1 + strength × (standard score of the reward in the batch), held in 0.1..10."""
    score = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    weights: Floats32 = np.clip(1.0 + strength * score, 0.1, 10.0).astype(np.float32)
    return weights


# ----------------------------------------------------------------------------------------------
# settings


@dataclass(frozen=True, slots=True, kw_only=True)
class AirLlmSettings:
    """Hyperparameters; the defaults are the paper's and its published code's.

    Attributes:
        ppo: the coarse action's agent. n_steps is the longest episode; rewards are not scaled.
        ddim: the model of the rank vector given the coarse action. The absent condition is the
            vector of zeros.
        coarse_size: entries of the coarse action.
        guidance_scale: pull of the coarse action on the rank vector, 1 = none beyond the
            conditional model's.
        refiner_updates: steps of the diffusion model after each episode.
        refiner_batch: rows of one step.
        reward_weight: see reward_weights.
        replay_size: steps that are remembered.
        replay_warm_up: steps before the diffusion model begins to learn.
        imitate: "ranks": the replay holds encode_ranks(decode_ranks(x)), the lower edge of what was
            drawn, so that every generation of samples sinks by half a rank; "vector": it holds x.
    """

    ppo: PpoSettings = field(
        default_factory=lambda: PpoSettings(
            hidden=(256, 256),
            learning_rate=1e-4,
            clip_coef=0.2,
            gamma=0.99,
            gae_lambda=0.95,
            ent_coef=0.01,
            vf_coef=0.5,
            max_grad_norm=1.0,
            update_epochs=4,
            n_steps=64,
            norm_reward=False,
        )
    )
    ddim: DdimSettings = field(
        default_factory=lambda: DdimSettings(
            hidden=512,
            blocks=2,
            time_embedding=64,
            null="zero",
            condition_drop=0.1,
            learning_rate=5e-5,
            max_grad_norm=1.0,
            schedule=Schedule(
                beta_start=1e-4, beta_end=0.02, train_steps=1000, sample_steps=50, eta=0.0
            ),
        )
    )
    coarse_size: int = 16
    guidance_scale: float = 1.5
    refiner_updates: int = 4
    refiner_batch: int = 64
    reward_weight: float = 0.1
    replay_size: int = 10_000
    replay_warm_up: int = 128
    imitate: Literal["ranks", "vector"] = "ranks"


def _settings_of(described: dict[str, Any]) -> AirLlmSettings:
    """The settings that asdict and JSON made of AirLlmSettings."""
    ppo, ddim = described["ppo"], described["ddim"]
    return AirLlmSettings(
        **described
        | {
            "ppo": PpoSettings(**ppo | {"hidden": tuple(ppo["hidden"])}),
            "ddim": DdimSettings(**ddim | {"schedule": Schedule(**ddim["schedule"])}),
        }
    )


# ------------------------------------------------------------------------------------------------
# replay


class Replay:
    """The latest steps as (coarse action, rank vector, reward), the oldest forgotten first.

    Args:
        size: steps that it holds, ≥ 1.
        widths: entries of a coarse action and of a rank vector.
    """

    def __init__(self, size: int, widths: tuple[int, int]) -> None:
        self._columns = [np.zeros((size, width), np.float32) for width in (*widths, 1)]
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self._columns[0]))

    def add(self, coarse: Floats32, vectors: Floats32, rewards: Floats32) -> None:
        """Append B steps: float[B, C], float[B, M] and float[B]."""
        rows = (self._added + np.arange(len(rewards))) % len(self._columns[0])
        for column, values in zip(
            self._columns, (coarse, vectors, rewards[:, np.newaxis]), strict=True
        ):
            column[rows] = values
        self._added += len(rewards)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Floats32, Floats32, Floats32]:
        """Coarse actions, rank vectors and rewards of n different steps, fewer if it does not hold
        so many."""
        rows = torch.randperm(len(self), generator=generator)[:n].numpy()
        coarse, vectors, rewards = (column[rows] for column in self._columns)
        return coarse, vectors, rewards[:, 0]

    def tensors(self) -> Tensors:
        """All that it holds."""
        held = {
            name: torch.tensor(column[: len(self)])
            for name, column in zip("abc", self._columns, strict=True)
        }
        return held | {"added": torch.tensor(self._added)}

    def load(self, tensors: Tensors) -> None:
        """Put back what tensors() gave."""
        for name, column in zip("abc", self._columns, strict=True):
            column[: len(tensors[name])] = tensors[name].numpy()
        self._added = int(tensors["added"])


# ------------------------------------------------------------------------------------------------
# agent


class AirLlmAgent:
    """PPO over coarse actions, and the diffusion model that turns them into rank vectors.

    Args:
        n_modules: adapted modules M; an observation is cloud.policies.state.paper_state, 4 + M
            entries.
        r_max: largest rank.
        settings: hyperparameters.
        seed: seed of all weights, exploration and noise, ≥ 0.
    """

    def __init__(
        self, n_modules: int, r_max: int, settings: AirLlmSettings | None = None, *, seed: int
    ) -> None:
        self.n_modules, self.r_max = n_modules, r_max
        self.settings = s = AirLlmSettings() if settings is None else settings
        of_ppo, of_ddim = (int(x) for x in np.random.SeedSequence(seed).generate_state(2))
        self.ppo = Ppo(4 + n_modules, s.coarse_size, s.ppo, seed=of_ppo)
        self.ddim = Ddim(n_modules, s.coarse_size, s.ddim, seed=of_ddim)
        self.replay = Replay(s.replay_size, (s.coarse_size, n_modules))
        self.steps = 0

    def act(self, observation: Floats32, generator: torch.Generator) -> Floats32:
        """float32[N, M] in -1..1: rank vectors without exploration, for observations float[N, 4 +
        M].

        Args:
            observation: cloud.policies.state.paper_state.
            generator: gives the noise that the vectors are refined from.
        """
        return self._refine(self.ppo.act(observation, deterministic=True).action, generator)

    def explore(self, observation: Floats32) -> tuple[Act, Floats32]:
        """PPO's draw for observations float[N, 4 + M], and the rank vectors float32[N, M] that it
        is refined into."""
        act = self.ppo.act(observation)
        return act, self._refine(act.action, self.ddim.generator)

    def update(self, rollout: Rollout, vectors: Floats32) -> dict[str, float]:
        """Learn from a batch of episodes: once PPO, then the diffusion model.

        Args:
            rollout: T steps of N environments.
            vectors: float[T, N, M], the rank vectors that were carried out.
        Returns:
            What Ppo.update gives, and refiner_loss, NaN while the replay warms up.
        """
        stats = self.ppo.update(rollout)
        valid: Bools = rollout.column("valid")
        if self.settings.imitate == "ranks":
            vectors = encode_ranks(decode_ranks(vectors, self.r_max), self.r_max)
        coarse = self.ppo.model.action(torch.as_tensor(rollout.column("latents"))).numpy()
        self.replay.add(coarse[valid], vectors[valid], rollout.column("rewards")[valid])
        self.steps += int(valid.sum())
        episodes = int((rollout.column("dones") & valid).sum())
        return stats | {
            "refiner_loss": self._imitate(self.settings.refiner_updates * max(episodes, 1))
        }

    def _refine(self, coarse: Floats32, generator: torch.Generator) -> Floats32:
        condition = torch.as_tensor(coarse)
        vectors: Floats32 = self.ddim.sample(
            condition, self.settings.guidance_scale, generator=generator
        ).numpy()
        return vectors

    def _imitate(self, updates: int) -> float:
        """Mean loss of so many updates."""
        s = self.settings
        if len(self.replay) < s.replay_warm_up:
            return float("nan")
        losses: list[float] = []
        for _ in range(updates):
            coarse, vectors, rewards = self.replay.draw(s.refiner_batch, self.ddim.generator)
            weights = torch.as_tensor(reward_weights(rewards, s.reward_weight))
            losses.append(
                self.ddim.train_step(torch.as_tensor(vectors), torch.as_tensor(coarse), weights)
            )
        return float(np.mean(losses))

    # ------------------------------------------------------------------------------------------
    # files

    def description(self) -> dict[str, Any]:
        """Sizes and settings, ready for JSON."""
        return {"n_modules": self.n_modules, "r_max": self.r_max, "settings": asdict(self.settings)}

    def save(self, path: Path) -> None:
        """Write all that training goes on from, bit for bit, and acting too."""
        tensors = {f"ppo.{name}": t for name, t in self.ppo.state_dict().items()}
        tensors |= {f"ddim.{name}": t for name, t in self.ddim.state_dict().items()}
        tensors |= {f"replay.{name}": t for name, t in self.replay.tensors().items()}
        write_weights(path, "airllm", self.description() | {"steps": self.steps}, tensors)

    def save_weights(self, path: Path) -> None:
        """Write what acting needs: actor, critic and denoiser as float16."""
        networks = {"ppo": self.ppo.model, "ddim": self.ddim.mean_model}
        write_weights(
            path, "airllm", self.description() | {"steps": self.steps}, half_precision(networks)
        )

    @classmethod
    def load(cls, path: Path) -> AirLlmAgent:
        """The agent of a file of save() or save_weights(); of the latter, one that can act but not
        go on learning.

        Raises:
            ModelError: no such file, or no AirLLM in it.
        """
        described, tensors = read_weights(path, "airllm")
        agent = cls(
            described["n_modules"], described["r_max"], _settings_of(described["settings"]), seed=0
        )
        agent.steps = described["steps"]
        if "replay.added" in tensors:
            agent.ppo.load_state_dict(below("ppo", tensors))
            agent.ddim.load_state_dict(below("ddim", tensors))
            agent.replay.load(below("replay", tensors))
        else:
            load_module(agent.ppo.model, below("ppo", tensors), f"policy weights {path}")
            load_module(agent.ddim.mean_model, below("ddim", tensors), f"policy weights {path}")
        return agent
