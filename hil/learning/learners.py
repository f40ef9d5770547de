"""What `hil train` can train: one object a learner, with the environment that it learns in.

A learner trains on fitted tables of streams (a look-up a step); what it is worth is then measured
on other streams. Every learner is asked the same question there: the mean excess loss over a whole
update, in nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cloud.policies.airllm import save_ppo, train_airllm
from cloud.policies.paced import PACE_ACTIONS, save_agent
from cloud.policies.rl.airllm_agent import AirLlmAgent
from cloud.policies.rl.ppo import Ppo, PpoSettings
from cloud.policies.rl.rollout import learn
from cloud.policies.rl.weights import read_weights, write_weights
from cloud.policies.state import PACE_STATE_SIZE
from hil.contract import ConfigError
from hil.learning.environment import RankVectorEnv
from hil.learning.surrogate import StreamTable
from hil.settings import Settings

Kind = Literal["ours", "ppo", "airllm", "airllm-published"]
Scope = Literal["round", "episode"]
KINDS: Final[tuple[Kind, ...]] = ("ours", "ppo", "airllm", "airllm-published")

STEPS: Final[dict[Kind, int]] = {
    "ours": 100_000,
    "ppo": 30_000,
    "airllm": 9_000,
    "airllm-published": 9_000,
}
"""Environment steps where none are asked for; AirLLM's cost a hundred times those of the others."""
PARALLEL_EPISODES: Final = 24
RANK_SETTINGS: Final = PpoSettings(hidden=(256, 256), learning_rate=3e-4, ent_coef=0.01, n_steps=30)
"""PPO over rank vectors: the paper's width, and a rate at which it learns within as many steps."""


_PROJECTED: Final = {"action": "ranks", "observation": "paper", "reward": "paper", "project": True}
TRANSLATIONS: Final[dict[Kind, dict[str, Any]]] = {
    "ours": {"action": "pace", "observation": "pace", "reward": "loss"},
    "ppo": _PROJECTED,
    "airllm": _PROJECTED,
    "airllm-published": {**_PROJECTED, "project": False},
}
"""How a learner sees and acts: arguments of hil.learning.environment.Translation."""


def kinds_of(names: Sequence[str]) -> list[Kind]:
    """Learners by name; all of them for no name. Raises ConfigError for one that there is not."""
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"learner {name!r} is unknown; choose from {', '.join(KINDS)}")
    return [kind for kind in KINDS if not names or kind in names]


class Learner(Protocol):
    """Something that learns on tables, and can be stopped and taken up again."""

    @property
    def steps(self) -> int:
        """Environment steps made."""
        ...

    def advance(self, steps: int) -> None:
        """Go on for about so many environment steps."""
        ...

    def act(self, state: NDArray[np.float32]) -> NDArray[np.floating]:
        """Actions without exploration."""
        ...

    def save(self, path: Path) -> None:
        """Write all that it goes on from."""
        ...

    def load(self, path: Path) -> None:
        """Go on from what save() wrote. Raises ModelError when that cannot be."""
        ...

    def save_weights(self, path: Path) -> None:
        """Write what the policy of `hil run` needs."""
        ...


def scope_of(kind: Kind, settings: Settings) -> Scope:
    """The scope of the budget that a learner learns in: the default policy learns to pace, which
    needs a shared one."""
    return "episode" if kind == "ours" else settings.budget.scope


def scoped(settings: Settings, scope: Scope) -> Settings:
    """The settings with that scope of the budget."""
    return settings.model_copy(
        update={"budget": settings.budget.model_copy(update={"scope": scope})}
    )


def make_learner(
    kind: Kind, tables: Sequence[StreamTable], settings: Settings, seed: int
) -> Learner:
    """A fresh learner over these tables."""
    environment = RankVectorEnv(
        PARALLEL_EPISODES,
        tables=tables,
        settings=scoped(settings, scope_of(kind, settings)),
        **TRANSLATIONS[kind],
    )
    return (
        PpoLearner(kind, environment, seed)
        if kind in ("ours", "ppo")
        else AirLlmLearner(environment, seed)
    )


class PpoLearner:
    """PPO over the pace ("ours") or over rank vectors ("ppo").

    Args:
        kind: which of the two.
        environment: an environment with that kind's actions.
        seed: seed of the weights, the exploration and the episodes.
    """

    def __init__(self, kind: Kind, environment: RankVectorEnv, seed: int) -> None:
        self._kind, self._environment, self._seed = kind, environment, seed
        self._r_max = environment.rounds.r_max
        modules = len(environment.rounds.module_shapes)
        sizes = (PACE_STATE_SIZE, PACE_ACTIONS) if kind == "ours" else (4 + modules, modules)
        self._agent = Ppo(*sizes, PpoSettings() if kind == "ours" else RANK_SETTINGS, seed=seed)
        self.steps = 0

    def advance(self, steps: int) -> None:
        """Rollouts, whose episodes follow from the seed and the steps made so far."""
        until = self.steps + steps
        while self.steps < until:
            seed = int(np.random.SeedSequence([self._seed, self.steps]).generate_state(1)[0]) >> 1
            [made] = learn(self._agent, self._environment, 1, seed=seed)
            self.steps += int(made["step"])

    def act(self, state: NDArray[np.float32]) -> NDArray[np.floating]:
        """The mean action."""
        return self._agent.act(state, deterministic=True).action

    def save(self, path: Path) -> None:
        """Agent, optimiser, generator and the steps made."""
        write_weights(
            path, f"{self._kind} in training", {"steps": self.steps}, self._agent.state_dict()
        )

    def load(self, path: Path) -> None:
        """Go on from what save() wrote."""
        described, tensors = read_weights(path, f"{self._kind} in training")
        self._agent.load_state_dict(tensors)
        self.steps = described["steps"]

    def save_weights(self, path: Path) -> None:
        """Write the weights that PacedAllocator or PpoRankPolicy loads."""
        if self._kind == "ours":
            save_agent(path, self._agent)
        else:
            save_ppo(path, self._agent, self._r_max)


class AirLlmLearner:
    """AirLLM's alternation of PPO and conditional DDIM."""

    def __init__(self, environment: RankVectorEnv, seed: int) -> None:
        self._environment, self._seed = environment, seed
        self._agent = AirLlmAgent(
            len(environment.rounds.module_shapes), environment.rounds.r_max, seed=seed
        )

    @property
    def steps(self) -> int:
        """Environment steps made."""
        return self._agent.steps

    def advance(self, steps: int) -> None:
        """Whole episodes."""
        train_airllm(self._agent, self._environment, self._agent.steps + steps, seed=self._seed)

    def act(self, state: NDArray[np.float32]) -> NDArray[np.floating]:
        """Actions refined from the mean coarse action, with one fixed noise."""
        return self._agent.act(state, torch.Generator().manual_seed(0))

    def save(self, path: Path) -> None:
        """Agent with replay and optimisers."""
        self._agent.save(path)

    def load(self, path: Path) -> None:
        """Go on from what save() wrote."""
        self._agent = AirLlmAgent.load(path)

    def save_weights(self, path: Path) -> None:
        """Write the weights that AirLlmPolicy loads."""
        self._agent.save_weights(path)
