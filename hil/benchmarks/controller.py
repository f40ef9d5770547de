"""How fast the controller's parts are: environment steps, plans, forward passes of a stream."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from cloud.model.base_model import open_base_model
from cloud.policies.allocator import allocate, allocate_ranks, random_states_check
from cloud.policies.plans import project_ranks
from cloud.policies.pricing import worthwhile_ranks
from cloud.policies.state import Situation
from cloud.streams.scorer import MergedModel, StreamScorer
from cloud.streams.stream import cached_stream, stream_domains
from hil.contract import Bools, Ints
from hil.learning.environment import synthetic_tables
from hil.learning.surrogate import BatchRounds, synthetic_table
from hil.settings import Settings
from hil.settings.policy import NATS_PER_S

EPISODES = 64
REPEATS = 7
SCORES = 24


def bench(settings: Settings, *, random_states: int) -> dict[str, float]:
    """Figures by name, units in the names: medians of REPEATS, one thread.

    Args:
        settings: budget, radio and environment of the surrogate; streams to score on.
        random_states: states that the allocator's plans are checked on.
    """
    rng = np.random.default_rng(0)
    rounds = BatchRounds(synthetic_tables(), settings, EPISODES)

    def at_random(s: Situation) -> tuple[Ints, Bools]:
        return rng.integers(0, s.r_max + 1, s.last_ranks.shape), np.zeros(
            s.last_ranks.shape, np.bool_
        )

    def play(plans: Callable[[Situation], tuple[Ints, Bools]]) -> None:
        rounds.reset(list(range(EPISODES)))
        while (s := rounds.situation) is not None:
            rounds.step(*plans(s))

    def project() -> None:
        situation = rounds.reset(list(range(EPISODES)))
        project_ranks(situation, rng.integers(1, situation.r_max + 1, situation.last_ranks.shape))

    steps = EPISODES * rounds.n_rounds
    return {
        "surrogate.steps_per_s": steps / _median_s(lambda: play(at_random)),
        "surrogate.steps_per_s.with_allocator": steps / _median_s(lambda: play(allocate_ranks)),
        "surrogate.steps_per_s.with_price": steps
        / _median_s(lambda: play(lambda s: worthwhile_ranks(s, NATS_PER_S, s.budget_bits))),
        "projection.plans_per_s": EPISODES / _median_s(project),
        **{
            f"allocator.plan_ms.{m}x{r}": 1e3 * _plan_s(m, r, rng)
            for m, r in ((28, 16), (224, 16), (224, 64))
        },
        **{
            f"price.plan_ms.{m}x{r}": 1e3 * _priced_plan_s(m, r, settings)
            for m, r in ((28, 16), (224, 16))
        },
        "stream.scores_per_s": _scores_per_s(settings, rng),
        "allocator.random_states": random_states,
        "allocator.random_states.infeasible": random_states_check(random_states, 0),
    }


def _median_s(run: Callable[[], object]) -> float:
    took = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        run()
        took.append(time.perf_counter() - start_s)
    return statistics.median(took)


def _plan_s(modules: int, r_max: int, rng: np.random.Generator) -> float:
    """Median time of one plan whose budget binds."""
    gains = -np.sort(
        -rng.exponential(1.0, (1, modules, r_max)) * rng.lognormal(0, 2, (1, modules, 1))
    )
    sent = np.concatenate(
        [gains[..., ::-1].cumsum(axis=2)[..., ::-1], np.zeros((1, modules, 1))], axis=2
    )
    damage = np.concatenate([sent, sent[..., :1] * rng.uniform(0, 1.5, (1, modules, 1))], axis=2)
    bits = rng.integers(1_000, 9_000, (modules, 1)) * np.append(np.arange(r_max + 1), 0)
    budget = bits[:, -2].sum() * 0.2

    def plan() -> None:
        allocate(damage, bits, 600, budget)

    return _median_s(plan)


def _priced_plan_s(modules: int, r_max: int, settings: Settings) -> float:
    """Median time of one plan at the price of air that ships."""
    table = synthetic_table(np.random.default_rng(0), modules=modules, r_max=r_max)
    situation = BatchRounds([table], settings, 1).reset([0])
    return _median_s(lambda: worthwhile_ranks(situation, NATS_PER_S, situation.budget_bits))


def _scores_per_s(settings: Settings, rng: np.random.Generator) -> float:
    """Real forward passes a second, on a stream that is trained if it is not kept already."""
    base = open_base_model(settings.model.base)
    stream = cached_stream(
        settings, text_seed=0, train_seed=0, domains=stream_domains(settings, 0), base=base
    )
    scorer = StreamScorer(MergedModel(base, max_tokens=stream.max_tokens), stream)
    modules = len(stream.modules)
    states = [
        (i % stream.n_rounds, rng.integers(1, stream.r_max + 1, modules)) for i in range(SCORES)
    ]
    start_s = time.perf_counter()
    for round_id, rank in states:
        scorer.score(round_id, np.full(modules, round_id), rank)
    return SCORES / (time.perf_counter() - start_s)
