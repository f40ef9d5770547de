"""What an edge may hold of a stream's rounds, scored on the quantised model in llama.cpp itself."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud.model.base_model import open_base_model
from cloud.streams.scorer import Held, held_factors, held_state
from cloud.streams.stream import Stream
from edge_device.acceptance import Limits, validate
from edge_device.adapter import write_adapter
from edge_device.gguf_conversion import quantise
from edge_device.gguf_model import inspect
from edge_device.runtime import BASE, ItemScores, Runtime, RuntimeSettings
from hil.contract import LoraUpdate, LowRankFactors, ScoreSet
from hil.loop.provision import f16_model
from hil.settings import Settings

_QUANTISING_S = 600.0


def edge_model(settings: Settings) -> Path:
    """The quantised base model in the edge's cache, made when it is not there.

    Raises:
        ModelError: the base model is missing, damaged, or cannot be served by the edge.
    """
    edge = settings.edge
    f16 = f16_model(open_base_model(settings.model.base), edge)
    path = f16.with_name(f"{f16.stem}-{edge.quant}.gguf")
    if not path.exists():
        quantise(
            f16,
            path,
            edge.quant,
            timeout_s=max(_QUANTISING_S, edge.timeout_s),
            n_threads=edge.threads,
        )
    return path


class EdgeScorer:
    """As cloud.streams.scorer.StreamScorer, but each held state is written as an adapter and scored
    by llama.cpp.

    Equal states are scored once. Close it: it has a model process.

    Args:
        stream: whose factors are held.
        settings: base model and edge.
    Raises:
        ModelError, DeviceError: the edge's model cannot be made or served.
    """

    def __init__(self, stream: Stream, settings: Settings) -> None:
        path = edge_model(settings)
        self._stream, self._model = stream, inspect(path)
        self._known: dict[Hashable, tuple[float, float]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="edge-scorer-")
        limits = RuntimeSettings(threads=settings.edge.threads, request_s=settings.edge.timeout_s)
        try:
            self._runtime = Runtime(path, settings=limits)
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        """End the model process and remove its files."""
        self._runtime.close()
        self._folder.cleanup()

    def score(
        self, round_id: int, held_round: NDArray[np.integer], held_rank: NDArray[np.integer]
    ) -> tuple[float, float]:
        """Score (NaN without labels) and loss in nats per token on a round's score set.

        Args:
            round_id: whose score set is used.
            held_round: int[M], the round that each module's factors were sent in; -1 = it holds
                nothing.
            held_rank: int[M], how many of its leading directions; 0 = nothing.
        Raises:
            UpdateRefused: factors that no edge would take.
            DeviceError: the model process cannot be brought back.
        """
        return self.score_held(
            round_id, held_factors(self._stream, *held_state(held_round, held_rank))
        )

    def score_held(self, round_id: int, held: Held) -> tuple[float, float]:
        """The same for factors that need not be the stream's."""
        score_set = self._stream.score_sets[round_id]
        request = (score_set.name, frozenset((module, key) for module, (key, _) in held.items()))
        if request not in self._known:
            scores = self._measure(
                score_set, {module: factors for module, (_, factors) in held.items()}
            )
            share = float(scores.correct.mean()) if len(scores.correct) else float("nan")
            self._known[request] = share, scores.loss_nats_per_token
        return self._known[request]

    def _measure(self, score_set: ScoreSet, held: dict[str, LowRankFactors]) -> ItemScores:
        if not held:
            return self._runtime.score(score_set, adapter=BASE)
        update = LoraUpdate(round_id=0, base_identity=self._stream.base_identity, factors=held)
        validate(update, self._model, Limits())
        path = Path(self._folder.name) / "held.gguf"
        write_adapter(update, self._model, path)
        loaded = self._runtime.load(path)
        try:
            return self._runtime.score(score_set, adapter=loaded.name)
        finally:
            self._runtime.discard(loaded)
