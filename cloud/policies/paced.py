"""The default policy: an exact allocator at a price of air, and PPO's pace for budgets that rounds
share.

Where to spend is arithmetic, and exact: the plan with the least measured loss at that price
(cloud.policies.pricing). What a round with a budget of its own leaves over is nobody's, so its
price is the one that was set, and nothing is left to learn. Where rounds share a budget, what this
one takes the later ones lack, whose text and channel are not known yet: that is two numbers, price
and share, which a network can learn from a few streams, or which stay as they are. No plan is ever
larger than the budget. The price is one of airtime, as the paper's cost is: a bit at -5 dB takes
the air of 17 at 15 dB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cloud.policies.allocator import rank_plan
from cloud.policies.pricing import worthwhile_ranks
from cloud.policies.rl.ppo import Ppo
from cloud.policies.rl.weights import half_precision, load_module, read_weights, write_weights
from cloud.policies.state import PACE_STATE_SIZE, Situation, pace_state, situation_of
from hil.contract import Bools, Ints, ModelError, RankPlan, RoundObservation
from hil.settings.policy import NATS_PER_S

SHIPPED: Final = Path(__file__).parent / "weights" / "ours.safetensors"

PACE_ACTIONS: Final = 2
SHARE_OCTAVES: Final = 1.0
"""A round may take 2^(±SHARE_OCTAVES) even shares at most of a budget that several rounds share."""
PRICE_OCTAVES: Final = 2.0
"""The learnt price of air is 2^(±PRICE_OCTAVES) times the one it starts from."""
SHARED_PRICE: Final = 1 / 3
"""That one, over the price that was set, where rounds share a budget: air is scarce there even
without a price."""


def paced_plans(
    s: Situation, action: NDArray[np.floating], nats_per_s: float = NATS_PER_S
) -> tuple[Ints, Bools]:
    """Ranks int[N, M] and kept modules bool[N, M] of actions float[N, 2] in -1..1, within the
    budget.

    Args:
        s: N rounds.
        action: share of a budget that several rounds share, 0 = an even one (a budget of the
            round's own may be spent whole); and price of air, 0 = the one that was set, or
            SHARED_PRICE of it.
        nats_per_s: the price that was set.
    """
    share, price = np.clip(action.astype(np.float64), -1.0, 1.0).T
    start = nats_per_s * (SHARED_PRICE if s.pooled else 1.0)
    shares = 2.0 ** (SHARE_OCTAVES * share) / s.rounds_left if s.pooled else np.ones(len(share))
    most = (s.budget_bits * np.minimum(1.0, shares)).astype(np.int64)
    return worthwhile_ranks(s, start * 2.0 ** (PRICE_OCTAVES * price), most)


class PacedAllocator:
    """The exact plan at a price of air.

    Args:
        nats_per_s: what a second of air must save; of a shared budget SHARED_PRICE of it.
        pace: how a shared budget is spent: "even" shares of what is left, or "learnt" factors on
            share and price.
        weights: the learnt pace, a file of `hil train ours`; "" = the one that ships.
    Raises:
        ModelError: no such file, or no policy of this kind in it.
    """

    def __init__(
        self,
        nats_per_s: float = NATS_PER_S,
        pace: Literal["even", "learnt"] = "even",
        weights: str = "",
    ) -> None:
        self.name = "ours" if pace == "even" else "ours, learnt pace"
        self._nats_per_s = nats_per_s
        self._agent = (
            load_agent(Path(weights) if weights else SHIPPED) if pace == "learnt" else None
        )

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Never above obs.budget.bits. Raises ModelError when the expected losses were not
        measured."""
        situation = situation_of(obs)
        action: NDArray[np.floating] = np.zeros((1, PACE_ACTIONS))
        if self._agent and situation.pooled:
            action = self._agent.act(pace_state(situation), deterministic=True).action
        ranks, keep = paced_plans(situation, action, self._nats_per_s)
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
    if sizes != (PACE_STATE_SIZE, PACE_ACTIONS):
        raise ModelError(
            f"policy weights {path}: {sizes[0]} inputs and {sizes[1]} outputs, not "
            f"{PACE_STATE_SIZE} and "
            f"{PACE_ACTIONS}; make them anew with `hil train ours`"
        )
    agent = Ppo.described(described)
    load_module(
        agent.model,
        {name.removeprefix("model."): t for name, t in tensors.items()},
        f"policy weights {path}",
    )
    return agent
