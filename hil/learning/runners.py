"""One round after another, plan in, result out: in the surrogate, by real forward passes, or in the
whole loop.

Runners tell a policy the same, and take the same plans; they differ in where the score comes from.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cloud.policies import keep_all, plan_bits
from hil.codec import BITS_PER_MODULE
from hil.contract import (
    KEEP,
    Bools,
    Budget,
    ChannelState,
    ConfigError,
    Ints,
    Keep,
    MeasuredLoss,
    ModelError,
    RankPlan,
    Residuals,
    RoundObservation,
    RoundSummary,
)
from hil.learning.surrogate import BatchRounds, Outcome, StreamTable, table_of
from hil.settings import Settings
from hil.settings.policy import LargestPolicy

if TYPE_CHECKING:
    from cloud.streams.stream import Stream
    from hil.loop.rounds import Loop
    from hil.loop.rows import Round

_NO_ROUND: Final = "no round to plan for; begin an episode with reset()"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What a round came to.

    Attributes:
        round_id, domain: number of the round, and the domain of its text.
        payload_bits: bits of the plan, also of one that was not sent because it is infeasible.
        parameters: Σ r (d_in + d_out) of the plan.
        airtime_s: airtime spent, s.
        budget_bits: what the plan was held against.
        feasible: payload_bits ≤ budget_bits. A plan that is not is not sent: the edge keeps what it
            has.
        delivered: the edge holds something new.
        snr_db: the true one, where there is one.
        score, loss_nats: share of right answers (NaN without labels) and nats per token that the
            edge's model reaches on the round's score set, after the round.
        base_score, base_loss_nats: the same for the untouched model.
        full_score, full_loss_nats: the same with all r_max directions of this round delivered.
        ranks: the plan.
    """

    round_id: int
    domain: str
    payload_bits: int
    parameters: int
    airtime_s: float
    budget_bits: int
    feasible: bool
    delivered: bool
    snr_db: float
    score: float
    loss_nats: float
    base_score: float
    base_loss_nats: float
    full_score: float
    full_loss_nats: float
    ranks: Mapping[str, int | Keep]

    @property
    def sent_bits(self) -> int:
        """Payload bits that were put on the air; 0 for a plan that is infeasible."""
        return self.payload_bits if self.feasible else 0


class RoundRunner(Protocol):
    """Episodes of rounds.

    Attributes:
        module_shapes: adapted modules in canonical order, as (d_out, d_in).
        r_max: largest rank of a plan.
    """

    module_shapes: Mapping[str, tuple[int, int]]
    r_max: int

    @property
    def observation(self) -> RoundObservation | None:
        """What is known of the round to be planned; None before the first episode and after an
        episode's last round."""
        ...

    def reset(self, seed: int) -> RoundObservation:
        """Begin an episode; its first observation. Equal seeds and plans give equal episodes."""
        ...

    def run(self, plan: RankPlan) -> RoundResult:
        """Carry out a plan and go on to the next round."""
        ...


# -------------------------------------------------------------------------------------- from tables


class SurrogateRunner:
    """One episode at a time of BatchRounds: the loss is read off a table's curve, the scores are
    NaN.

    Args:
        tables: drawn from at random.
        settings: budget, radio and environment.
    Raises:
        ConfigError: no tables, or tables that differ in shape.
    """

    def __init__(self, tables: Sequence[StreamTable], settings: Settings) -> None:
        self._rounds = BatchRounds(tables, settings, 1)
        self.module_shapes: Mapping[str, tuple[int, int]] = self._rounds.module_shapes
        self.r_max = self._rounds.r_max
        self.observation: RoundObservation | None = None
        self._history: list[RoundSummary] = []

    def reset(self, seed: int) -> RoundObservation:
        """See RoundRunner."""
        self._rounds.reset([seed])
        self._history = []
        self._goodput_bps = math.nan
        self.observation = self._observe()
        return self.observation

    def run(self, plan: RankPlan) -> RoundResult:
        """See RoundRunner.

        Raises:
            ConfigError: there is no round to plan for.
            ModelError: the plan does not name the modules, has impossible ranks, or keeps some of
                nothing.
        """
        ranks, keep = plan_arrays(plan, self.module_shapes)
        outcome = self._rounds.step(ranks, keep)
        score, loss = self._measure(outcome)
        table, now = self._table, outcome.round_id
        result = RoundResult(
            round_id=now,
            domain=table.texts[now].domain,
            payload_bits=int(outcome.payload_bits[0]),
            parameters=int(outcome.parameters[0]),
            airtime_s=float(outcome.airtime_s[0]),
            budget_bits=int(outcome.budget_bits[0]),
            feasible=bool(outcome.feasible[0]),
            delivered=bool(outcome.delivered[0]),
            snr_db=float(outcome.snr_db[0]),
            score=score,
            loss_nats=loss,
            base_score=float(table.base_scores[now]),
            base_loss_nats=float(table.base_losses[now]),
            full_score=float(table.full_scores[now]),
            full_loss_nats=float(table.full_losses[now]),
            ranks=dict(plan.ranks),
        )
        self._remember(result, outcome)
        self.observation = self._observe() if self._rounds.situation is not None else None
        return result

    def _measure(self, outcome: Outcome) -> tuple[float, float]:
        """Score and loss of what the edge holds now."""
        return math.nan, float(outcome.loss_nats[0])

    @property
    def _table(self) -> StreamTable:
        return self._rounds.tables[int(self._rounds.table_index[0])]

    def _remember(self, result: RoundResult, outcome: Outcome) -> None:
        sent = result.feasible and result.payload_bits > 0
        if sent:
            self._goodput_bps = result.payload_bits / result.airtime_s if result.delivered else 0.0
        self._history.append(
            RoundSummary(
                round_id=result.round_id,
                domain=result.domain,
                ranks=_held(self.module_shapes, outcome.held_rank[0]),
                payload_bits=result.sent_bits,
                airtime_s=result.airtime_s,
                score=result.score,
                loss_nats_per_token=result.loss_nats,
                accepted=result.delivered or not sent,
            )
        )

    def _observe(self) -> RoundObservation:
        s, table, now = self._rounds.situation, self._table, self._rounds.round_id
        if s is None:
            raise ConfigError(_NO_ROUND)
        modules = list(self.module_shapes)
        kept = {
            m: float(s.missing_if_kept[0, i])
            for i, m in enumerate(modules)
            if s.last_ranks[0, i] > 0
        }
        held_round, held_rank = self._rounds.held_round[0], self._rounds.held_rank[0]
        energy = table.kept_energy[held_round, np.arange(len(modules)), held_rank, now]
        return RoundObservation(
            round_id=now,
            channel=ChannelState(
                snr_db=float(s.snr_db[0]),
                snr_std_db=float(s.snr_std_db[0]),
                age_s=float(s.age_s[0]),
                cfo_hz=0.0,
                bandwidth_hz=float(s.bandwidth_hz[0]),
                airtime_share=float(s.airtime_share[0]),
                block_error_rate=0.0,
                goodput_bps=self._goodput_bps,
            ),
            text=table.texts[now],
            budget=Budget(
                airtime_s=float(s.airtime_s[0]),
                bits=int(s.budget_bits[0]),
                rounds=int(s.rounds_left[0]),
                pooled=s.pooled,
            ),
            module_shapes=self.module_shapes,
            r_max=self.r_max,
            bits_per_direction=dict(zip(modules, table.bits_per_direction.tolist(), strict=True)),
            overhead_bits=table.overhead_bits,
            bits_per_module=BITS_PER_MODULE,
            spectra=dict(zip(modules, table.spectra[now], strict=True)),
            energy=Residuals(
                missing_if_sent=dict(zip(modules, table.sent_energy[now], strict=True)),
                missing_if_kept={m: float(energy[i]) for i, m in enumerate(modules) if m in kept},
            ),
            kfac=Residuals(
                missing_if_sent=dict(zip(modules, table.sent_kfac[now], strict=True)),
                missing_if_kept=kept,
            ),
            measured=MeasuredLoss(missing=table.trial_missing[now], excess=table.trial_excess[now]),
            held=_held(self.module_shapes, s.last_ranks[0]),
            history=tuple(self._history),
        )


class Scorer(Protocol):
    """What an edge would come to on a round's score set: cloud.streams.scorer, or the quantised
    model itself."""

    def score(
        self, round_id: int, held_round: NDArray[np.integer], held_rank: NDArray[np.integer]
    ) -> tuple[float, float]:
        """Score and loss in nats per token of a held state."""
        ...


class StreamRunner(SurrogateRunner):
    """One trained stream, scored by real forward passes of the merged model.

    Args:
        stream: trained at r_max.
        scorer: the stream's scorer.
        settings: budget, radio, environment, and the codec's bits per coefficient.
    """

    def __init__(self, stream: Stream, scorer: Scorer, settings: Settings) -> None:
        table = table_of(stream, coefficient_bits=settings.codec.coefficient_bits)
        super().__init__([table], settings)
        self._scorer = scorer

    def _measure(self, outcome: Outcome) -> tuple[float, float]:
        score, loss = self._scorer.score(
            outcome.round_id, outcome.held_round[0], outcome.held_rank[0]
        )
        return float(score), float(loss)


def plan_arrays(plan: RankPlan, modules: Mapping[str, object]) -> tuple[Ints, Bools]:
    """A plan as ranks int64[1, M] (0 where kept) and kept modules bool[1, M].

    Raises:
        ModelError: the plan names other modules.
    """
    if set(plan.ranks) != set(modules):
        raise ModelError(
            "the rank plan must name every adapted module and no other; check the policy"
        )
    chosen = [plan.ranks[module] for module in modules]
    ranks = np.array([[0 if rank == KEEP else rank for rank in chosen]], np.int64)
    return ranks, np.array([[rank == KEEP for rank in chosen]])


def _held(modules: Mapping[str, object], ranks: Ints) -> dict[str, int]:
    return {module: rank for module, rank in zip(modules, ranks.tolist(), strict=True) if rank > 0}


# ----------------------------------------------------------------------------------- the whole loop


class LiveRunner:
    """The closed loop: training, modem and quantised edge model; an episode is a run of
    settings.run.rounds.

    What a round costs and scores is what the link's report and the edge's receipt say: also a round
    without a payload costs its sounding, and in full_score and full_loss_nats the unquantised model
    of the cloud stands in. Close it, or use it in a `with` block.

    Attributes:
        last: all that the round before came to; None before the first.

    Args:
        settings: the run's settings; reset() replaces run.seed.
        folder: what the edge installs is kept in it, a folder an episode.
    Raises:
        HilError: any part of the bench cannot be set up.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        # torch and llama.cpp are loaded for this runner alone
        from cloud.model.base_model import open_base_model
        from hil.loop.rounds import Loop, Watcher

        self._settings, self._folder = settings, folder
        self._new_loop, self._watcher = Loop, Watcher()
        self._stack = ExitStack()
        self._loop: Loop | None = None
        self.r_max = settings.model.r_max
        self.module_shapes: Mapping[str, tuple[int, int]] = {
            name: shape
            for name, shape in open_base_model(settings.model.base).spec.module_shapes.items()
            if name.rpartition(".")[2] in settings.model.target_modules
        }
        self.observation: RoundObservation | None = None
        self.last: Round | None = None

    def reset(self, seed: int) -> RoundObservation:
        """See RoundRunner."""
        self.close()
        self.last = None
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="episode-", dir=self._folder))
        run = self._settings.run.model_copy(update={"seed": seed})
        # The loop's own policy is never asked; one that needs no weights can always be made.
        own = {"run": run, "policy": LargestPolicy(kind="largest")}
        self._loop = self._new_loop(self._settings.model_copy(update=own), folder, self._stack)
        self.observation = self._loop.open_round(0, self._watcher)
        return self.observation

    def run(self, plan: RankPlan) -> RoundResult:
        """See RoundRunner.

        Raises:
            ConfigError: there is no round to plan for.
            HilError: the bench is broken.
        """
        obs, loop = self.observation, self._loop
        if obs is None or loop is None:
            raise ConfigError(_NO_ROUND)
        ranks, keep = plan_arrays(plan, obs.module_shapes)
        bits = plan_bits(obs, plan)
        feasible = bits <= obs.budget.bits
        self.last = done = loop.close_round(
            plan if feasible and loop.can_send else keep_all(obs), self._watcher
        )
        full_score, full_loss_nats = loop.full_score(obs.round_id)
        result = RoundResult(
            round_id=obs.round_id,
            domain=obs.text.domain,
            payload_bits=bits,
            parameters=int(
                (
                    np.where(keep, 0, ranks)
                    * np.array(list(obs.module_shapes.values())).sum(axis=1)
                ).sum()
            ),
            airtime_s=done.report.airtime_s,
            budget_bits=obs.budget.bits,
            feasible=feasible,
            delivered=done.receipt.status == "installed",
            snr_db=done.true_snr_db,
            score=done.receipt.score,
            loss_nats=done.receipt.loss_nats_per_token,
            base_score=done.receipt.base_score,
            base_loss_nats=done.receipt.base_loss_nats_per_token,
            full_score=full_score,
            full_loss_nats=full_loss_nats,
            ranks=dict(plan.ranks),
        )
        following = obs.round_id + 1
        last = following == self._settings.run.rounds
        self.observation = None if last else loop.open_round(following, self._watcher)
        return result

    def close(self) -> None:
        """End the edge's process and the control channel."""
        self._stack.close()
        self._loop, self.observation = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
