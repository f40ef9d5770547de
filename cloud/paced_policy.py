"""The default policy: PPO says how much of the budget this round takes, an exact allocator makes the plan within it.

How much to spend now is a question of one number, and what a network can learn from a few streams. Where to spend it
is arithmetic, and exact. No plan is ever larger than the budget. The number is a share of the budget and not a price of
its bits, although the one follows from the other: the curvature orders what a round lacks well, but its scale differs
by orders of magnitude between rounds, and a price would have to follow it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud.allocator import allocate_ranks, rank_plan
from cloud.ppo import Ppo
from cloud.reproducible import load_module
from cloud.state import PACE_STATE_SIZE, Ints, Situation, pace_state, situation_of
from cloud.weights_file import half_precision, read_weights, write_weights
from hil.contract import ModelError, RankPlan, RoundObservation

SHIPPED: Final = Path(__file__).parent / "policy_weights" / "ours.safetensors"

OCTAVES: Final = 2.0
"""The learnt share is 2^(±OCTAVES) even shares at most."""
FLOOR_NATS_PER_MBIT: Final = 1e-7
"""What a million bits must promise at least: directions without any use are not sent although there is room."""


def paced_plans(s: Situation, action: NDArray[np.floating]) -> tuple[Ints, NDArray[np.bool_]]:
    """Ranks int[N, M] and kept modules bool[N, M] of actions float[N, 1] in -1..1, within the budget.

    0 stands for an even share of what is left for the rounds that are left, which is all of it where every round has a
    budget of its own; ±1 for 2^(±OCTAVES) such shares.
    """
    shares = 2.0 ** (OCTAVES * np.clip(action[:, 0].astype(np.float64), -1.0, 1.0)) / s.rounds_left
    most = (s.budget_bits * np.minimum(1.0, shares)).astype(np.int64)
    return allocate_ranks(s, FLOOR_NATS_PER_MBIT, budget_bits=most)


class PacedAllocator:
    """PPO's share of the budget, then the exact plan within it.

    Args:
        weights: a file of `hil train ours`; "" = the one that ships.
    Raises:
        ModelError: no such file, or no policy of this kind in it.
    """

    def __init__(self, weights: str = "") -> None:
        self.name = "ours"
        self._agent = load_agent(Path(weights) if weights else SHIPPED)

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Never above obs.budget.bits. Raises ModelError when the expected losses were not measured."""
        situation = situation_of(obs)
        ranks, keep = paced_plans(situation, self._agent.act(pace_state(situation), deterministic=True).action)
        return rank_plan(obs, ranks[0], keep[0])


def save_agent(path: Path, agent: Ppo) -> None:
    """Write what acting needs, the network without its optimiser, as float16.

    Args:
        path: a .safetensors file.
        agent: a trained agent.
    """
    write_weights(path, "ours", agent.description(), half_precision({"model": agent.model}))


def load_agent(path: Path) -> Ppo:
    """The agent in a file.

    Raises:
        ModelError: no such file, or no policy of this form in it.
    """
    described, tensors = read_weights(path, "ours")
    sizes = (described["observation_size"], described["action_size"])
    if sizes != (PACE_STATE_SIZE, 1):
        raise ModelError(
            f"policy weights {path}: {sizes[0]} inputs and {sizes[1]} outputs, not {PACE_STATE_SIZE} and 1; "
            "make them anew with `hil train ours`"
        )
    agent = Ppo.described(described)
    load_module(agent.model, {name.removeprefix("model."): t for name, t in tensors.items()}, f"policy weights {path}")
    return agent
