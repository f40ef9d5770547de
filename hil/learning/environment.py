"""The rank of every module, round by round, as Gymnasium environments.

"hil/Rank-v0" is registered when this module is imported. Without further arguments it runs over
invented streams and needs no model: `gymnasium.make("hil.learning.environment:hil/Rank-v0")`.

Actions are "ranks", one number in -1..1 a module, or "pace", two numbers that say how much of a
shared budget this round may take and what air is worth; an exact allocator makes the plan. An
episode ends with its last round: it is terminated, never truncated.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from cloud.policies.allocator import rank_plan
from cloud.policies.paced import PACE_ACTIONS, paced_plans
from cloud.policies.plans import KEPT, project_ranks
from cloud.policies.rl.airllm_agent import decode_ranks
from cloud.policies.state import PACE_STATE_SIZE, Situation, pace_state, paper_state, situation_of
from hil.contract import Bools, ConfigError, Floats, Ints, RoundObservation
from hil.learning.runners import LiveRunner, RoundResult, RoundRunner, StreamRunner, SurrogateRunner
from hil.learning.surrogate import BatchRounds, Outcome, StreamTable, synthetic_table
from hil.settings import Settings

__all__ = [
    "ENVIRONMENT_ID",
    "LiveRunner",
    "RankEnv",
    "RankVectorEnv",
    "RoundResult",
    "RoundRunner",
    "StreamRunner",
    "SurrogateRunner",
    "Translation",
    "synthetic_tables",
]

ENVIRONMENT_ID: Final = "hil/Rank-v0"

ActionKind = Literal["ranks", "pace"]
ObservationKind = Literal["paper", "pace"]
RewardKind = Literal["paper", "loss"]
Fidelity = Literal["surrogate", "live"]

_SYNTHETIC_TABLES = 20
_SYNTHETIC_SEED = 0

State = NDArray[np.float32]


class Translation:
    """From situations to observations, from actions to plans, from outcomes to rewards; N rounds at
    once.

    Args:
        action: "ranks": float[M] in -1..1 to ranks 1..R, as arXiv 2507.11515 decodes them; "pace":
            float[2] to a share of the budget and a price of air (cloud.policies.paced), at which
            the best plan is taken.
        observation: "paper" or "pace", as cloud.policies.state.
        reward: "paper": -loss - 0.1 · cost with cost = bits / budget, and with 10 · cost in place
            of the loss where cost > 1; "loss": -(loss - full loss) - nats_per_s · airtime.
        project: bring plans of ranks down to the budget.
        nats_per_s: nats that a second on the air takes off the reward "loss".
    Raises:
        ConfigError: a kind that is not one of these.
    """

    def __init__(
        self,
        *,
        action: ActionKind = "ranks",
        observation: ObservationKind = "paper",
        reward: RewardKind = "paper",
        project: bool = False,
        nats_per_s: float = 0.0,
    ) -> None:
        chosen: list[tuple[str, str, tuple[str, ...]]] = [
            ("action", action, ("ranks", "pace")),
            ("observation", observation, ("paper", "pace")),
            ("reward", reward, ("paper", "loss")),
        ]
        for key, value, known in chosen:
            if value not in known:
                raise ConfigError(f"{key} = {value!r}: choose one of {', '.join(known)}")
        self._action, self._observation, self._reward = action, observation, reward
        self._project, self._nats_per_s = project, nats_per_s

    def action_space(self, n_modules: int) -> gymnasium.Space[State]:
        """Space of one environment's actions."""
        return _box(-1.0, 1.0, n_modules if self._action == "ranks" else PACE_ACTIONS)

    def observation_space(self, n_modules: int) -> gymnasium.Space[State]:
        """Space of one environment's observations."""
        if self._observation == "paper":
            return _box(0.0, 1.0, 4 + n_modules)
        return _box(-5.0, 5.0, PACE_STATE_SIZE)

    def observe(self, s: Situation) -> State:
        """float32[N, D]."""
        return paper_state(s) if self._observation == "paper" else pace_state(s)

    def plans(self, s: Situation, actions: NDArray[np.floating]) -> tuple[Ints, Bools]:
        """Ranks int64[N, M] and kept modules bool[N, M].

        Args:
            s: N rounds.
            actions: float[N, A].
        """
        if self._action == "pace":
            return paced_plans(s, actions)
        ranks = np.minimum(decode_ranks(actions, s.r_max), s.shapes.min(axis=1))
        if self._project:
            # an episode's budget is split evenly: the rank vector knows nothing of later rounds
            ranks = project_ranks(s, ranks, budget_bits=s.budget_bits // s.rounds_left)
        keep = ranks == KEPT
        return np.where(keep, 0, ranks), keep

    def reward(self, outcome: Outcome | RoundResult, overhead_bits: int) -> Floats:
        """float64[N], or one number for a single round's result.

        Args:
            outcome: what came of the plans.
            overhead_bits: bits of an update without any rank. A budget below it counts as this
                much in the cost: without a link the cost would not be a number.
        """
        loss, payload_bits, feasible = (
            np.asarray(outcome.loss_nats),
            outcome.payload_bits,
            outcome.feasible,
        )
        if self._reward == "loss":
            return np.asarray(outcome.full_loss_nats - loss - self._nats_per_s * outcome.airtime_s)
        cost = payload_bits / np.maximum(outcome.budget_bits, overhead_bits)
        return np.asarray(-np.where(feasible, loss, 10.0 * cost) - 0.1 * cost)


_INFO: Final = (
    "payload_bits",
    "parameters",
    "airtime_s",
    "budget_bits",
    "feasible",
    "delivered",
    "snr_db",
    "loss_nats",
    "base_loss_nats",
    "full_loss_nats",
)
"""What info tells of the round that was just run, under the names of RoundResult; "excess_nats"
and, where there is one, "score" come with it."""


class RankEnv(gymnasium.Env[State, State]):
    """One episode at a time, over any runner.

    Args:
        runner: what carries the plans out; None = one of the given fidelity.
        fidelity: "surrogate": invented or given tables; "live": the whole loop, in a temporary
            folder.
        tables: the surrogate's tables; None = invented ones.
        settings: the surrogate's or the loop's settings; None = the defaults.
        **translation: see Translation.
    Raises:
        ConfigError: a kind or a fidelity that does not exist.
    """

    def __init__(
        self,
        runner: RoundRunner | None = None,
        *,
        fidelity: Fidelity = "surrogate",
        tables: Sequence[StreamTable] | None = None,
        settings: Settings | None = None,
        **translation: Any,
    ) -> None:
        self._stack = ExitStack()
        self._translation = Translation(**translation)
        self.runner = runner or _runner(fidelity, tables, settings or Settings(), self._stack)
        n_modules = len(self.runner.module_shapes)
        self.action_space = self._translation.action_space(n_modules)
        self.observation_space = self._translation.observation_space(n_modules)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[State, dict[str, Any]]:
        """Begin an episode; its seed is drawn from np_random."""
        super().reset(seed=seed)
        return self._look(self.runner.reset(_episode_seed(self.np_random))), {}

    def step(self, action: State) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """One round; after the last the observation is all zeros."""
        obs = self.runner.observation
        if obs is None:
            raise ConfigError("the episode is over; call reset()")
        ranks, keep = self._translation.plans(self._situation, np.asarray(action)[np.newaxis])
        result = self.runner.run(rank_plan(obs, ranks[0], keep[0]))
        reward = float(self._translation.reward(result, obs.overhead_bits))
        info = {key: getattr(result, key) for key in _INFO} | {
            "excess_nats": result.loss_nats - result.full_loss_nats
        }
        if not math.isnan(result.score):
            info["score"] = result.score
        following = self.runner.observation
        if following is None:
            return np.zeros_like(self._state), reward, True, False, info
        return self._look(following), reward, False, False, info

    def _look(self, obs: RoundObservation) -> State:
        self._situation = situation_of(obs)
        self._state: State
        [self._state] = self._translation.observe(self._situation)
        return self._state

    def close(self) -> None:
        """End what this environment has started; a runner that was handed in is its owner's."""
        self._stack.close()


class RankVectorEnv(VectorEnv[State, State, NDArray[Any]]):
    """N surrogate episodes at once, all in the same round: what N RankEnv give, one by one, only
    faster.

    All end together; the step that ends them gives the first observation of the next ones
    (autoreset mode SAME_STEP), and what there was to say of the last round stands in
    info["final_obs"] and info["final_info"].

    Args:
        num_envs: N ≥ 1.
        fidelity: "surrogate"; no other runs in batches.
        tables: None = invented ones.
        settings: budget, radio and environment; None = the defaults.
        **translation: see Translation.
    Raises:
        ConfigError: a kind or a fidelity that does not exist.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        fidelity: Literal["surrogate"] = "surrogate",
        tables: Sequence[StreamTable] | None = None,
        settings: Settings | None = None,
        **translation: Any,
    ) -> None:
        if fidelity != "surrogate":
            raise ConfigError(
                f"fidelity = {fidelity!r}: only the surrogate runs in batches; use RankEnv for "
                "others"
            )
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self._translation = Translation(**translation)
        self.rounds = BatchRounds(tables or synthetic_tables(), settings or Settings(), num_envs)
        n_modules = len(self.rounds.module_shapes)
        self.single_action_space = self._translation.action_space(n_modules)
        self.single_observation_space = self._translation.observation_space(n_modules)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[State, dict[str, Any]]:
        """Begin N episodes. Environment i gets the generator of seed + i, or of seed[i], else it
        keeps its own."""
        if seed is not None or not self._generators:
            each = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
            if each is not None and len(each) != self.num_envs:
                raise ConfigError(
                    f"{len(each)} seeds for {self.num_envs} environments; give one for each"
                )
            self._generators = [
                seeding.np_random(None if each is None else each[i])[0]
                for i in range(self.num_envs)
            ]
        return self._begin(), {}

    def step(self, actions: State) -> tuple[State, Floats, Bools, Bools, dict[str, Any]]:
        """One round of every episode."""
        situation = self.rounds.situation
        if situation is None:
            raise ConfigError("no episode has begun; call reset()")
        ranks, keep = self._translation.plans(situation, np.asarray(actions))
        outcome = self.rounds.step(ranks, keep)
        reward = self._translation.reward(outcome, situation.overhead_bits)
        info = _with_masks(
            {key: getattr(outcome, key) for key in (*_INFO, "excess_nats")}, self.num_envs
        )
        following = self.rounds.situation
        ended = np.full(self.num_envs, following is None)
        if following is not None:
            return self._look(following), reward, ended, np.zeros_like(ended), info
        last = np.empty(self.num_envs, object)
        last[:] = list(np.zeros_like(self._state))
        final = _with_masks({"final_obs": last, "final_info": info}, self.num_envs)
        return self._begin(), reward, ended, np.zeros_like(ended), final

    def _begin(self) -> State:
        return self._look(self.rounds.reset([_episode_seed(rng) for rng in self._generators]))

    def _look(self, s: Situation) -> State:
        self._state = self._translation.observe(s)
        return self._state


def synthetic_tables() -> list[StreamTable]:
    """The invented streams that environments run over by default; always the same ones."""
    rng = np.random.default_rng(_SYNTHETIC_SEED)
    return [synthetic_table(rng) for _ in range(_SYNTHETIC_TABLES)]


def _runner(
    fidelity: Fidelity, tables: Sequence[StreamTable] | None, settings: Settings, stack: ExitStack
) -> RoundRunner:
    if fidelity == "surrogate":
        return SurrogateRunner(tables or synthetic_tables(), settings)
    if fidelity == "live":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hil-live-"))
        return stack.enter_context(LiveRunner(settings, Path(folder)))
    raise ConfigError(f"fidelity = {fidelity!r}: choose surrogate or live, or hand in a runner")


def _box(low: float, high: float, size: int) -> gymnasium.Space[State]:
    return cast(gymnasium.Space[State], Box(low, high, (size,), np.float32))


def _episode_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))


def _with_masks(info: dict[str, Any], n: int) -> dict[str, Any]:
    """Every entry beside a mask of the environments that it is of, as Gymnasium has it."""
    return info | {f"_{key}": np.ones(n, np.bool_) for key in info}


if ENVIRONMENT_ID not in gymnasium.registry:
    gymnasium.register(
        ENVIRONMENT_ID,
        entry_point="hil.learning.environment:RankEnv",
        vector_entry_point="hil.learning.environment:RankVectorEnv",
    )
