"""Streams that never were, for evaluations without a language model; worker processes import this
module."""

from __future__ import annotations

import numpy as np

from hil.evaluation.grid import Method
from hil.evaluation.trained_stream import Anchors, ScoreOn
from hil.learning.runners import RoundRunner, SurrogateRunner
from hil.learning.stream_table import StreamTable, synthetic_table
from hil.settings import Settings


class InventedBench:
    """A stream that never was; "adalora" is another one, with other anchors."""

    def __init__(self, table: StreamTable) -> None:
        self._table = table
        self.anchors = [
            Anchors(0.5, base, 0.9, full)
            for base, full in zip(table.base_losses, table.full_losses, strict=True)
        ]

    def runner(self, settings: Settings) -> RoundRunner:
        return SurrogateRunner([self._table], settings)

    def close(self) -> None:
        pass


def invented_table(stream: int, train_seed: int, method: str = "lora") -> StreamTable:
    return synthetic_table(
        np.random.default_rng([stream, train_seed, len(method)]), rounds=4, modules=14, r_max=8
    )


def open_invented(
    settings: Settings,
    stream: int,
    train_seed: int,
    method: Method,
    target_rank: int | None,
    score_on: ScoreOn,
) -> InventedBench:
    return InventedBench(invented_table(stream, train_seed, method))
