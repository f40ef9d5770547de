"""How much better than the allocator's plans can plans be? `python -m hil.evaluation.headroom` asks
the model.

From the allocator's plan at a budget, single directions are moved between modules at no more bits;
a move stays when the loss on one half of the score items falls. What that gains on the other half
is what a learnt refinement of plans could gain at best by imitating such searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cloud.finetuning.trial import fresh_plan
from cloud.model.base_model import open_base_model
from cloud.streams.scorer import MergedModel, StreamScorer
from cloud.streams.stream import Stream, cached_stream, stream_domains
from hil.contract import Ints, ScoreSet
from hil.evaluation.statistics import Interval, clustered_mean
from hil.learning.runners import Scorer
from hil.learning.stream_table import table_of
from hil.settings import Settings, load_settings

MOVES = 40
"""Moves that are tried from each plan."""
SHARES = (0.06, 0.15)
"""Budgets, as shares of a whole update's bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What the search gained, nats of loss per token, over streams: on the items it saw, and on
    those it did not."""

    seen: Interval
    unseen: Interval
    excess: Interval
    plans: int


def measure(settings: Settings, streams: Sequence[int], seed: int = 0) -> Headroom:
    """Search from the allocator's plans of the last round of every domain of these streams."""
    base = open_base_model(settings.model.base)
    model = MergedModel(base, max_tokens=settings.finetune.max_tokens)
    rng = np.random.default_rng(seed)
    gains: list[tuple[int, float, float, float]] = []
    for text_seed in streams:
        domains = stream_domains(settings, text_seed)
        stream = cached_stream(
            settings, text_seed=text_seed, train_seed=text_seed, domains=domains, base=base
        )
        bits = table_of(stream, coefficient_bits=settings.codec.coefficient_bits).bits
        halves = [StreamScorer(model, _half(stream, start)) for start in (0, 1)]
        for round_id in range(settings.streams.dwell - 1, stream.n_rounds, settings.streams.dwell):
            gains += [
                (text_seed, *_search(stream, halves, round_id, bits, share, rng))
                for share in SHARES
            ]
    cluster, seen, unseen, excess = (np.array(column) for column in zip(*gains, strict=True))
    found = [clustered_mean(values, cluster) for values in (seen, unseen, excess)]
    return Headroom(seen=found[0], unseen=found[1], excess=found[2], plans=len(gains))


def _half(stream: Stream, start: int) -> Stream:
    """The stream with every other score item."""
    halves = tuple(
        ScoreSet(name=s.name, questions=s.questions[start::2], chunks=s.chunks[start::2])
        for s in stream.score_sets
    )
    return replace(stream, score_sets=halves)


def _search(
    stream: Stream,
    halves: Sequence[Scorer],
    round_id: int,
    bits: Ints,
    share: float,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Loss saved on the seen and on the unseen half, and the plan's excess loss on the unseen half
    before."""
    modules, options = bits.shape
    budget = int(bits[:, -1].sum() * share)
    plan = fresh_plan(stream.sent_kfac[round_id], bits, budget)

    def loss(half: int, ranks: Ints) -> float:
        return halves[half].score(round_id, np.where(ranks > 0, round_id, -1), ranks)[1]

    full = np.full(modules, options - 1, np.int64)
    first, before = loss(0, plan), loss(1, plan)
    best, kept = first, plan
    for _ in range(MOVES):
        moved = kept.copy()
        source, target = rng.permutation(modules)[:2]
        moved[source], moved[target] = (
            max(moved[source] - 1, 0),
            min(moved[target] + 1, options - 1),
        )
        if bits[np.arange(modules), moved].sum() <= budget and (tried := loss(0, moved)) < best:
            best, kept = tried, moved
    return first - best, before - loss(1, kept), before - loss(1, full)


if __name__ == "__main__":
    settings = load_settings(Path("controller.toml"))
    print(measure(settings, range(settings.streams.train)[:10]))
