"""A trained stream made ready for an evaluation: its rounds, what scores them, and what the scores
lie between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from hil.learning.runners import RoundRunner, Scorer, StreamRunner
from hil.settings import Settings
from hil.settings.policy import Method

if TYPE_CHECKING:
    from cloud.streams.branches import StreamBranches
    from cloud.streams.scorer import Held, MergedModel
    from cloud.streams.stream import Stream

ScoreOn = Literal["cloud", "edge"]
"""The merged model in float32, or the quantised model in llama.cpp."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a round's scores lie between: nothing delivered, and all r_max directions of it
    delivered."""

    base_score: float
    base_loss_nats: float
    full_score: float
    full_loss_nats: float


class Bench(Protocol):
    """A trained stream, ready to be planned on."""

    @property
    def anchors(self) -> Sequence[Anchors]:
        """The anchors of every round."""
        ...

    def runner(self, settings: Settings) -> RoundRunner:
        """Episodes on it with these settings' air and budget."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


OpenBench = Callable[[Settings, int, int, Method, int | None, ScoreOn], Bench]
"""(settings, stream, training seed, method, its average rank, what scores) → Bench."""


class BenchScorer(Scorer, Protocol):
    """Scores what is a stream's, and what was made from it."""

    def score_held(self, round_id: int, held: Held) -> tuple[float, float]:
        """Score and loss in nats per token of these factors."""
        ...


class StreamBench:
    """One trained stream with a scorer that every runner shares, and so every policy.

    Args:
        stream: trained at r_max.
        scorer: the stream's scorer.
        branches: where the last steps of a round are taken within the plan.
        on_close: frees what the scorer holds.
    """

    def __init__(
        self,
        stream: Stream,
        scorer: BenchScorer,
        branches: StreamBranches | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream, self._scorer, self._branches, self.close = stream, scorer, branches, on_close
        m = len(stream.modules)
        nothing, everything = np.full(m, -1), np.full(m, stream.r_max)
        self.anchors = tuple(
            Anchors(*scorer.score(t, nothing, nothing), *scorer.score(t, np.full(m, t), everything))
            for t in range(stream.n_rounds)
        )

    def runner(self, settings: Settings) -> RoundRunner:
        """See Bench."""
        if self._branches is None:
            return StreamRunner(self._stream, self._scorer, settings)
        from cloud.streams.branches import BranchScorer

        return StreamRunner(self._stream, BranchScorer(self._scorer, self._branches), settings)


def open_stream_bench(
    settings: Settings,
    stream: int,
    train_seed: int,
    method: Method,
    target_rank: int | None,
    score_on: ScoreOn,
) -> Bench:
    """The stream of that text seed from the cache of [streams], trained if it is not there.

    Raises:
        ModelError, TextError, DeviceError: base model, text or edge cannot be used.
    """
    from cloud.streams.scorer import StreamScorer
    from cloud.streams.stream import cached_stream, stream_domains

    trained = cached_stream(
        settings,
        text_seed=stream,
        train_seed=train_seed,
        domains=stream_domains(settings, stream),
        method=method,
        target_rank=target_rank,
    )
    within = (
        settings.finetune.plan_share and method == "lora"
    )  # AdaLoRA and EVA train at their plan anyway
    branches = _branches(settings, trained, stream, train_seed) if within else None
    if score_on == "edge":
        from hil.evaluation.edge_scorer import EdgeScorer

        scorer = EdgeScorer(trained, settings)
        return StreamBench(trained, scorer, branches, scorer.close)
    merged = _merged_model(settings.model.base, trained.max_tokens)
    return StreamBench(trained, StreamScorer(merged, trained), branches)


def _branches(
    settings: Settings, stream: Stream, text_seed: int, train_seed: int
) -> StreamBranches:
    from cloud.model.base_model import open_base_model
    from cloud.streams.branches import StreamBranches

    base = open_base_model(settings.model.base)
    return StreamBranches(settings, base, stream, text_seed=text_seed, train_seed=train_seed)


@lru_cache(maxsize=1)
def _merged_model(base: str, max_tokens: int) -> MergedModel:
    """One for all streams of a process: they differ in what is merged into it."""
    from cloud.model.base_model import open_base_model
    from cloud.streams.scorer import MergedModel

    return MergedModel(open_base_model(base), max_tokens=max_tokens)
