"""Trained streams as look-up tables: what a held state really costs, measured where good plans
live.

The loss that the curvature predicts is right in order but not in size far from the trained update.
So for every round of a stream a few dozen held states are scored by real forward passes, of the
kind that the allocator makes (fresh, stale, half renewed), and a monotone curve from predicted to
real excess loss is fitted through them. With it a round costs a look-up instead of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from cloud.finetuning.trial import best_options, fresh_plan
from cloud.model.base_model import BaseModel
from cloud.streams.scorer import MergedModel, StreamScorer
from cloud.streams.stream import Stream, cached_stream, stream_domains
from hil.contract import Floats, Ints
from hil.learning.runners import Scorer
from hil.learning.stream_table import Knots, StreamTable, table_of
from hil.settings import Settings
from hil.system.whole_file import written_whole

KNOTS: Final = 12
"""Points of a round's curve."""
FRESH_PLANS: Final = 10
STALE_PLANS: Final = 12
"""Held states that are scored in a round, beside nothing and everything."""


def cached_table(
    settings: Settings, text_seed: int, *, base: BaseModel, model: Callable[[], MergedModel]
) -> StreamTable:
    """The fitted table of a stream, trained from its text seed; stream and knots are kept in
    streams.cache.

    Args:
        settings: the settings that train_stream takes.
        text_seed: seed of the text; the domains follow from it.
        base: the base model.
        model: gives the same loaded for scoring, where knots have to be fitted.
    """
    domains = stream_domains(settings, text_seed)
    stream = cached_stream(
        settings, text_seed=text_seed, train_seed=text_seed, domains=domains, base=base
    )
    bits = settings.codec.coefficient_bits
    path = (
        settings.streams.cache_folder
        / f"{stream.digest[:32]}.knots-{KNOTS}-{FRESH_PLANS}-{STALE_PLANS}.npz"
    )
    if path.exists():
        with np.load(path) as kept:
            return table_of(
                stream, Knots(missing=kept["missing"], excess=kept["excess"]), coefficient_bits=bits
            )
    table, correlation = fitted_table(
        stream, StreamScorer(model(), stream), coefficient_bits=bits, seed=text_seed
    )
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file, missing=table.knots.missing, excess=table.knots.excess, correlation=correlation
        )
    return table


def fitted_table(
    stream: Stream, scorer: Scorer, *, coefficient_bits: int, seed: int
) -> tuple[StreamTable, Floats]:
    """A stream's table with knots fitted to real forward passes, and how well the prediction orders
    them.

    Args:
        stream: trained rounds.
        scorer: the stream's scorer.
        coefficient_bits: bits that the codec spends on a coefficient.
        seed: seed of the states that are tried.
    Returns:
        The table; Spearman's rank correlation of predicted and real excess loss, float64[T].
    """
    plain = table_of(stream, coefficient_bits=coefficient_bits)
    rng = np.random.default_rng([seed, 7])
    missing, excess, correlation = [], [], []
    for round_id in range(stream.n_rounds):
        x, y = _measured(stream, scorer, round_id, plain.bits, rng)
        at_missing, at_excess = _fit(x, y)
        missing.append(at_missing)
        excess.append(at_excess)
        correlation.append(float(spearmanr(x, y).statistic))
    knots = Knots(missing=np.array(missing), excess=np.array(excess))
    return table_of(stream, knots, coefficient_bits=coefficient_bits), np.array(correlation)


def _measured(
    stream: Stream, scorer: Scorer, round_id: int, bits: Ints, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Predicted and real excess loss of the states that are tried, of nothing and of everything."""
    states = [_fresh(stream, round_id, bits, rng) for _ in range(FRESH_PLANS)]
    states += [_stale(stream, round_id, bits, rng) for _ in range(STALE_PLANS if round_id else 0)]
    full, base = float(stream.full_losses[round_id]), float(stream.base_losses[round_id])
    nothing = float(stream.sent_kfac[round_id, :, 0].sum())
    predicted = [0.0, nothing, *(predicted_nats(stream, round_id, *state) for state in states)]
    real = [0.0, base - full, *(scorer.score(round_id, *state)[1] - full for state in states)]
    return np.array(predicted), np.array(real)


def predicted_nats(stream: Stream, round_id: int, held_round: Ints, held_rank: Ints) -> float:
    """What a held state lacks at a round, as the curvature predicts it."""
    total = 0.0
    for module, (sent_at, rank) in enumerate(zip(held_round, held_rank, strict=True)):
        if sent_at < 0 or rank == 0:
            total += float(stream.sent_kfac[round_id, module, 0])
        else:
            total += float(stream.kept_kfac[sent_at, module, rank, round_id])
    return total


def _fresh(
    stream: Stream, round_id: int, bits: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Everything held was sent this round, by the allocator or uniformly, at a budget drawn on a
    log scale."""
    modules, ranks = bits.shape
    rank = np.zeros(modules, np.int64)
    if rng.random() < 0.2:
        rank[:] = rng.integers(1, ranks)
    else:
        budget = int(bits[:, -1].sum() * 10 ** rng.uniform(-1.6, 0.0))
        rank = fresh_plan(stream.sent_kfac[round_id], bits, budget)
    return np.where(rank > 0, round_id, -1), rank


def _stale(
    stream: Stream, round_id: int, bits: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """A state of some earlier round, of which the allocator may have renewed a part."""
    back = int(rng.integers(1, min(round_id, 3) + 1))
    held_round, held_rank = _fresh(stream, round_id - back, bits, rng)
    if rng.random() < 0.3:
        return held_round, held_rank
    sent = stream.sent_kfac[round_id].astype(np.float64)
    kept = np.array(
        [
            stream.kept_kfac[t, m, r, round_id] if r else np.inf
            for m, (t, r) in enumerate(zip(held_round, held_rank, strict=True))
        ]
    )
    budget = int(bits[:, -1].sum() * 10 ** rng.uniform(-1.6, -0.3))
    choice = best_options(sent, kept, bits, budget)
    keeps = choice == bits.shape[1]
    rank = np.where(keeps, held_rank, choice)
    return np.where(keeps, held_round, np.where(rank > 0, round_id, -1)), rank


def _fit(
    missing: Sequence[float] | Floats, excess: Sequence[float] | Floats
) -> tuple[Floats, Floats]:
    """A rising line through the points, float64[KNOTS] each, strictly rising in `missing` and
    starting at 0."""
    order = np.argsort(missing, kind="stable")
    x = np.asarray(missing, np.float64)[order]
    y = np.maximum(isotonic_regression(np.asarray(excess, np.float64)[order]).x, 0.0)
    at = np.linspace(0.0, len(x) - 1, KNOTS).round().astype(int)
    knots_x = np.maximum.accumulate(x[at]) + 1e-9 * np.arange(KNOTS)
    return knots_x, np.maximum.accumulate(y[at])
