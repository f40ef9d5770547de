"""Rounds without a language model: thousands of them a second, from tables of what trained streams
came to.

The nats that a table expects to be missing are added up over the modules, and a curve fitted to
real forward passes turns them into loss. Channel, measurement, budget and airtime are those of the
settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud.policies.plans import bits_of_ranks
from cloud.policies.state import Situation, on_line
from hil.contract import Bools, ConfigError, Floats, Ints, ModelError, TextState
from hil.learning.stream_table import Knots, StreamTable, synthetic_table, table_of
from hil.radio_kinds.conditions import conditions, seeded, sinr_db
from hil.settings import Settings
from radio.link import LinkModel, ModemLink, ShannonLink
from radio.modem.mcs import LOOPBACK

__all__ = [
    "BatchRounds",
    "Knots",
    "Outcome",
    "StreamTable",
    "link_model",
    "synthetic_table",
    "table_of",
]


def link_model(settings: Settings) -> LinkModel:
    """The link that an environment plans and charges by."""
    if settings.environment.link == "modem":
        return ModemLink(round_trip_s=settings.simulated_radio.channel.feedback_delay_s)
    return ShannonLink(efficiency=settings.environment.efficiency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one round of N episodes came to.

    Attributes:
        round_id: the round that was.
        excess_nats: float64[N], loss - full_loss.
        loss_nats, base_loss_nats, full_loss_nats: float64[N], nats per token: now, with nothing
            ever delivered, with all of this round's directions delivered.
        payload_bits: int64[N], of the plan, whether or not it was sent; 0 for a plan that sends
            nothing.
        parameters: int64[N], Σ r (d_in + d_out) of the plan.
        airtime_s: float64[N], spent; 0 where nothing was sent.
        budget_bits: int64[N], what the plan was held against.
        feasible: bool[N], payload_bits ≤ budget_bits; a plan that is not is not sent.
        delivered: bool[N], the edge has something new.
        snr_db: float64[N], true SNR.
        held_round, held_rank: int64[N, M], what the edge holds after the round; -1 and 0 for
            nothing.
    """

    round_id: int
    excess_nats: Floats
    loss_nats: Floats
    base_loss_nats: Floats
    full_loss_nats: Floats
    payload_bits: Ints
    parameters: Ints
    airtime_s: Floats
    budget_bits: Ints
    feasible: Bools
    delivered: Bools
    snr_db: Floats
    held_round: Ints
    held_rank: Ints


@dataclass(frozen=True, slots=True)
class _Air:
    """True and reported channel of N episodes, float64[N, T] each; NaN before the first report."""

    snr_db: Floats
    bandwidth_hz: Floats
    airtime_share: Floats
    reported_snr_db: Floats
    reported_age_rounds: Floats


class BatchRounds:
    """N episodes at once over tables drawn at random, all in the same round.

    All that is random is drawn when an episode begins, from its own seed: equal seeds and plans
    give equal episodes, whatever runs beside them, and the channel is that of `hil run` with the
    same seed.

    Attributes:
        round_id: number of the round to be planned.
        situation: what is known of it; None before the first episodes and after the last round.
        held_round, held_rank: int64[N, M], what the edge holds: sent in which round, at which rank;
            -1 and 0 for nothing.

    Args:
        tables: one or more of equal rounds, modules, ranks and knots.
        settings: budget, radio and environment.
        n: episodes, ≥ 1.
        rng: draws the seeds of episodes that are begun without any.
    Raises:
        ConfigError: no tables, or tables that differ in shape.
    """

    def __init__(
        self,
        tables: Sequence[StreamTable],
        settings: Settings,
        n: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        _check_alike(tables)
        self.tables, self.n = tuple(tables), n
        first = tables[0]
        self.n_rounds, self.r_max = first.n_rounds, first.r_max
        self.module_shapes = first.module_shapes
        self._settings, self._rng = settings, rng
        self._link = link_model(settings)
        self._bits, self._shapes, self._overhead_bits = (
            first.bits,
            first.shapes,
            first.overhead_bits,
        )
        self._sent = np.stack([table.sent_kfac for table in tables])
        self._kept = np.stack([table.kept_kfac for table in tables])
        self._text = np.array(
            [[(x.lexical_entropy, x.oov_rate, x.pieces_per_word) for x in t.texts] for t in tables],
            np.float64,
        )
        self._changed = np.array(
            [[_is_new(t.texts, i) for i in range(t.n_rounds)] for t in tables], np.float64
        )
        self._base_losses = np.stack([table.base_losses for table in tables])
        self._full_losses = np.stack([table.full_losses for table in tables])
        self._trials = tuple(
            np.stack([getattr(t, key) for t in tables]) for key in ("trial_missing", "trial_excess")
        )
        self._knots = tuple(
            np.stack([getattr(t.knots, key) for t in tables]) for key in ("missing", "excess")
        )
        self.situation: Situation | None = None

    @property
    def table_index(self) -> Ints:
        """int64[N]: which table each episode runs over."""
        return self._table

    def reset(self, seeds: Sequence[int] | None = None) -> Situation:
        """Begin N episodes; the first round's situation.

        Args:
            seeds: one seed for each of the N episodes, ≥ 0; None = drawn.
        """
        if seeds is None:
            if self._rng is None:
                raise ConfigError(
                    "episodes need seeds, or a generator that draws them; give either"
                )
            seeds = self._rng.integers(2**62, size=self.n).tolist()
        if len(seeds) != self.n:
            raise ConfigError(f"{len(seeds)} seeds for {self.n} episodes; give one for each")
        self._table = np.array(
            [seeded(seed, "table").integers(len(self.tables)) for seed in seeds], np.int64
        )
        air = [self._air_of(seed) for seed in seeds]
        self._air = _Air(*(np.stack(rows) for rows in zip(*air, strict=True)))
        modules = (self.n, len(self._bits))
        self.held_round, self.held_rank = (
            np.full(modules, -1, np.int64),
            np.zeros(modules, np.int64),
        )
        self._holds_update = np.zeros(self.n, np.bool_)
        self._left_s = np.full(self.n, self._settings.budget.airtime_s * self.n_rounds)
        self.round_id = 0
        self.situation = self._look()
        return self.situation

    def step(self, ranks: Ints, keep: Bools) -> Outcome:
        """Carry out a plan for every episode and go on to the next round (`situation`; None after
        the last).

        Args:
            ranks: int[N, M], directions to send, 0..R; not looked at where `keep` is set.
            keep: bool[N, M], modules that stay as the edge holds them.
        Raises:
            ConfigError: called before reset() or after the last round.
            ModelError: plans of another shape or with impossible ranks, or with kept modules
                although that edge never got anything.
        """
        s, now = self.situation, self.round_id
        if s is None:
            raise ConfigError("no round to plan for; begin the next episodes with reset()")
        self._check_plans(ranks, keep)
        bits = bits_of_ranks(s, ranks, keep)
        feasible = bits <= s.budget_bits
        sent = feasible & ~keep.all(axis=1)
        snr_db, deadline_s = self._air.snr_db[:, now], self._settings.simulated_radio.deadline_s
        needed_s = self._link.airtime_s(np.where(sent, bits, 0), snr_db, s.bandwidth_hz)
        airtime_s = np.minimum(needed_s, deadline_s)
        delivered = sent & (needed_s <= deadline_s)
        self._left_s = np.maximum(self._left_s - airtime_s, 0.0)
        new = delivered[:, np.newaxis] & ~keep
        self.held_rank = np.where(new, ranks, self.held_rank)
        self.held_round = np.where(new, np.where(ranks > 0, now, -1), self.held_round)
        self._holds_update = self._holds_update | delivered
        excess = self._excess(self._missing(s.missing_if_sent).sum(axis=1))
        full = self._full_losses[self._table, now]
        outcome = Outcome(
            round_id=now,
            excess_nats=excess,
            loss_nats=full + excess,
            base_loss_nats=self._base_losses[self._table, now],
            full_loss_nats=full,
            payload_bits=bits,
            parameters=(np.where(keep, 0, ranks) * self._shapes.sum(axis=1)).sum(axis=1),
            airtime_s=airtime_s,
            budget_bits=s.budget_bits,
            feasible=feasible,
            delivered=delivered,
            snr_db=snr_db,
            held_round=self.held_round,
            held_rank=self.held_rank,
        )
        self.round_id += 1
        self.situation = self._look() if self.round_id < self.n_rounds else None
        return outcome

    # ------------------------------------------------------------------------------- what is seen

    def _look(self) -> Situation:
        now, settings = self.round_id, self._settings
        air, table = self._air, self._table
        reported = air.reported_snr_db[:, now]
        if settings.budget.scope == "episode":
            airtime_s, rounds_left = self._left_s, self.n_rounds - now
        else:
            airtime_s, rounds_left = settings.budget.airtime_s * air.airtime_share[:, now], 1
        usable_s = np.minimum(airtime_s, settings.simulated_radio.deadline_s)
        # as the loop does: what has not been measured yet counts as the worst that the modem is
        # made for
        planned_by = np.where(np.isnan(reported), LOOPBACK.lowest_db, reported)
        sent = self._sent[table, now].astype(np.float64)
        entropy, oov_rate, pieces = self._text[table, now].T
        return Situation(
            snr_db=reported,
            snr_std_db=np.where(np.isnan(reported), np.nan, settings.environment.snr_std_db),
            age_s=air.reported_age_rounds[:, now] * settings.budget.airtime_s,
            bandwidth_hz=air.bandwidth_hz[:, now],
            airtime_share=air.airtime_share[:, now],
            budget_bits=self._link.bits(usable_s, planned_by, air.bandwidth_hz[:, now]),
            airtime_s=airtime_s,
            rounds_left=np.full(self.n, rounds_left, np.int64),
            pooled=settings.budget.scope == "episode",
            entropy=entropy,
            oov_rate=oov_rate,
            pieces_per_word=pieces,
            domain_changed=self._changed[table, now],
            last_ranks=self.held_rank,
            missing_if_sent=sent,
            missing_if_kept=self._missing(sent),
            trial_missing=self._trials[0][table, now],
            trial_excess=self._trials[1][table, now],
            bits=self._bits,
            overhead_bits=self._overhead_bits,
            shapes=self._shapes,
        )

    def _missing(self, sent: Floats) -> Floats:
        """float64[N, M]: nats that each module lacks with what the edge holds now."""
        module, now = np.arange(sent.shape[1]), self.round_id
        table, rank = self._table[:, np.newaxis], self.held_rank
        stale = self._kept[table, self.held_round, module, rank, now]
        fresh = np.take_along_axis(sent, rank[..., np.newaxis], axis=2)[..., 0]
        # what is held at rank 0 is nothing, and lacks what sending nothing lacks
        lacks: Floats = np.where((rank == 0) | (self.held_round == now), fresh, stale)
        return lacks

    def _excess(self, missing: Floats) -> Floats:
        """float64[N]: the rising line of each episode's round, read at `missing`."""
        x, y = (knots[self._table, self.round_id] for knots in self._knots)
        return on_line(x, y, missing)

    def _air_of(self, seed: int) -> tuple[Floats, ...]:
        """Channel of one episode, and what the cloud knows of its SNR; float64[T] each, in the
        order of _Air."""
        settings, rounds = self._settings.environment, self.n_rounds
        radio = self._settings.simulated_radio
        true = conditions(radio, rounds, seed)
        snr_db = sinr_db(radio, true.snr_db)
        rng = seeded(seed, "measurement")
        noise, chance = rng.standard_normal(rounds), rng.random(rounds)
        measured = snr_db + settings.snr_std_db * noise + settings.snr_error_db
        # An old report is of an earlier round, at first of the first; one that is missing leaves
        # the last one standing.
        now = np.arange(rounds)
        source = np.where(
            chance < settings.snr_missing_rate, -1, np.maximum(now - settings.snr_age_rounds, 0)
        )
        source = np.maximum.accumulate(source)
        reported, age_rounds = (
            np.where(source < 0, np.nan, x) for x in (measured[source], now - source)
        )
        return snr_db, true.bandwidth_hz, true.airtime_share, reported, age_rounds

    def _check_plans(self, ranks: Ints, keep: Bools) -> None:
        expected = (self.n, len(self._bits))
        if ranks.shape != expected or keep.shape != expected:
            raise ModelError(
                f"plans of shape {ranks.shape} and {keep.shape}, {expected} are needed"
            )
        sent = np.where(keep, 0, ranks)
        if sent.min() < 0 or sent.max() > self.r_max:
            raise ModelError(f"ranks {sent.min()}..{sent.max()} lie outside 0..{self.r_max}")
        some = keep.any(axis=1) & ~keep.all(axis=1)
        if (some & ~self._holds_update).any():
            raise ModelError(
                "a plan keeps some modules, but the edge holds no update; send them with rank 0"
            )


def _is_new(texts: Sequence[TextState], i: int) -> bool:
    return i == 0 or texts[i].domain != texts[i - 1].domain


def _check_alike(tables: Sequence[StreamTable]) -> None:
    if not tables:
        raise ConfigError("no stream tables to run over; give at least one")
    first = tables[0]
    for i, table in enumerate(tables):
        same = (
            table.n_rounds == first.n_rounds
            and table.r_max == first.r_max
            and dict(table.module_shapes) == dict(first.module_shapes)
            and np.array_equal(table.bits, first.bits)
            and table.knots.missing.shape == first.knots.missing.shape
            and table.trial_missing.shape == first.trial_missing.shape
        )
        if not same:
            raise ConfigError(
                f"stream table {i} differs from the first in rounds, modules, ranks, prices, "
                "trials or knots"
            )
