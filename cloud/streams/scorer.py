"""What an edge would score with any mixture of delivered factors: one real forward pass of the
merged model.

The float32 model of the cloud stands in for the quantised one of the edge. Factors are merged into
the weights, so a pass costs the same whatever the ranks are; of one request to the next only the
modules that changed are touched.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cloud.finetuning.directions import leading
from cloud.model.base_model import BaseModel
from cloud.model.encoding import EncodedExample, encode_examples
from cloud.text.sources import Example
from hil.contract import LowRankFactors, ModelError, ScoreSet

if TYPE_CHECKING:
    from cloud.streams.stream_file import Stream

BATCH: Final = 32
"""Sequences of one forward pass; sorted by length, so that little padding is computed."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Sequences of one forward pass and what is read from it.

    Attributes:
        ids: int64[n, length], padded on the right.
        places: int64[p], positions whose logits are needed, into the flattened [n · length].
        of_place: int64[k], which of the p positions each reading is taken from.
        tokens: int64[k], the token whose loss is read.
        answers: int64[k], the answer (item · labels + label) that the loss is added to.
    """

    ids: torch.Tensor
    places: torch.Tensor
    of_place: torch.Tensor
    tokens: torch.Tensor
    answers: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A score set as batches; `right` int64[items] are the right labels, empty for a language-model
    set."""

    batches: tuple[_Batch, ...]
    n_answers: int
    n_tokens: int
    n_labels: int
    right: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Token ids, and the readings taken from them as (position, token, answer)."""

    ids: list[int]
    readings: list[tuple[int, int, int]]


class MergedModel:
    """The base model with low-rank factors merged into its weights; shared by the scorers of many
    streams.

    Args:
        base: the model.
        max_tokens: longest item, as finetune.max_tokens.
    Raises:
        ModelError: the weights cannot be loaded.
    """

    def __init__(self, base: BaseModel, *, max_tokens: int = 128) -> None:
        self.identity = base.spec.identity
        self._base, self._max_tokens = base, max_tokens
        self._model = cast(Any, base.load(torch.device("cpu")))
        self._model.eval().requires_grad_(False)
        modules = base.spec.module_shapes
        self._weights: dict[str, torch.Tensor] = {
            name: self._model.get_submodule(name).weight for name in modules
        }
        self._originals: dict[str, torch.Tensor] = {}
        self._merged: dict[str, Hashable] = {}
        self._prepared: dict[ScoreSet, _Prepared] = {}

    def hold(self, name: str, key: Hashable | None, factors: LowRankFactors | None) -> None:
        """Let a module be the base's weight plus these factors.

        Args:
            name: the module.
            key: names the factors; a module that holds them already is not touched. None: the bare
                base.
            factors: b @ a; may be None where key is.
        """
        if self._merged.get(name) == key:
            return
        weight = self._weights[name]
        original = self._originals.setdefault(name, weight.clone())
        if key is None or factors is None:
            weight.copy_(original)
            self._merged.pop(name, None)
            return
        b, a = (torch.from_numpy(np.ascontiguousarray(part)) for part in (factors.b, factors.a))
        torch.addmm(original, b, a, out=weight)
        self._merged[name] = key

    def measure(self, score_set: ScoreSet) -> tuple[float, float]:
        """Score (share of right answers; NaN without labels) and loss in nats per token, as the
        edge defines them."""
        if score_set not in self._prepared:
            self._prepared[score_set] = self._prepare(score_set)
        prepared = self._prepared[score_set]
        losses = torch.zeros(prepared.n_answers, dtype=torch.float64)
        for batch in prepared.batches:
            losses.index_add_(0, batch.answers, self._losses(batch).double().cpu())
        if not score_set.questions:
            return float("nan"), float(losses.sum()) / prepared.n_tokens
        per_label = losses.view(-1, prepared.n_labels)
        n_right = int((per_label.argmin(dim=1) == prepared.right).sum())
        loss = float(per_label.gather(1, prepared.right[:, None]).mean())
        return n_right / len(score_set.questions), loss

    @torch.inference_mode()
    def _losses(self, batch: _Batch) -> torch.Tensor:
        hidden = self._model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        read = hidden.reshape(-1, hidden.shape[-1])[batch.places]
        log_p = torch.log_softmax(self._model.lm_head(read).float(), dim=1)
        return -log_p[batch.of_place, batch.tokens]

    def _prepare(self, score_set: ScoreSet) -> _Prepared:
        n_labels = len(score_set.questions[0].labels) if score_set.questions else 1
        sequences: list[_Sequence] = []
        for i, question in enumerate(score_set.questions):
            asked = [
                Example(text="", prompt=question.prompt, label_word=label)
                for label in question.labels
            ]
            sequences += _question(
                encode_examples(self._base, asked, self._max_tokens), i * n_labels
            )
        for i, chunk in enumerate(score_set.chunks):
            [row] = encode_examples(
                self._base, [Example(text=chunk, prompt=chunk)], self._max_tokens
            )
            sequences.append(_sequence(row, i))
        sequences.sort(key=lambda sequence: len(sequence.ids))
        return _Prepared(
            batches=tuple(
                _batch(sequences[i : i + BATCH]) for i in range(0, len(sequences), BATCH)
            ),
            n_answers=max(len(score_set.questions), len(score_set.chunks)) * n_labels,
            n_tokens=sum(len(sequence.readings) for sequence in sequences),
            n_labels=n_labels,
            right=torch.tensor([q.answer for q in score_set.questions], dtype=torch.long),
        )


def _sequence(row: EncodedExample, answer: int) -> _Sequence:
    ids, start = row
    return _Sequence(ids[:-1], [(i - 1, ids[i], answer) for i in range(start, len(ids))])


def _question(rows: Sequence[EncodedExample], first_answer: int) -> list[_Sequence]:
    """One sequence for all labels where each is one token behind the same prompt, else one for
    each."""
    sequences = [_sequence(row, first_answer + label) for label, row in enumerate(rows)]
    if all(s.ids == sequences[0].ids and len(s.readings) == 1 for s in sequences):
        return [_Sequence(sequences[0].ids, [s.readings[0] for s in sequences])]
    return sequences


def _batch(sequences: Sequence[_Sequence]) -> _Batch:
    longest = max(len(s.ids) for s in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    readings: list[tuple[int, int, int]] = []
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence.ids)] = torch.tensor(sequence.ids)
        readings += [
            (i * longest + position, token, answer) for position, token, answer in sequence.readings
        ]
    table = torch.tensor(readings)
    places, of_place = torch.unique(table[:, 0], return_inverse=True)
    return _Batch(ids, places, of_place, table[:, 1], table[:, 2])


Held = Mapping[str, tuple[Hashable, LowRankFactors]]
"""Module → a name of the factors that it holds, another one for other factors, and the factors
themselves."""


class StreamScorer:
    """Scores what an edge may hold of one stream's rounds.

    Args:
        model: the base model; scorers of many streams may share it.
        stream: whose factors are held.
    Raises:
        ModelError: the stream was trained on another base model.
    """

    def __init__(self, model: MergedModel, stream: Stream) -> None:
        self._model = model
        if self._model.identity != stream.base_identity:
            raise ModelError(
                f"the stream was trained on base model {stream.base_identity[:12]}, not on "
                f"{self._model.identity[:12]}; train it anew"
            )
        self.stream = stream
        self._known: dict[Hashable, tuple[float, float]] = {}

    def score(
        self, round_id: int, held_round: NDArray[np.integer], held_rank: NDArray[np.integer]
    ) -> tuple[float, float]:
        """Score and loss (nats per token) on a round's score set of an edge that holds these
        factors.

        Args:
            round_id: whose score set is used.
            held_round: int[M], the round that each module's factors were sent in; -1 = it holds
                nothing.
            held_rank: int[M], how many of its leading directions; 0 = nothing.
        Raises:
            ModelError: a round or rank that the stream does not have.
        """
        stream = self.stream
        of_round, rank = held_state(held_round, held_rank)
        last = max(round_id, int(of_round.max()))
        if round_id < 0 or last >= stream.n_rounds or rank.min() < 0 or rank.max() > stream.r_max:
            raise ModelError(
                f"round {round_id} with held rounds ≤ {of_round.max()} and ranks "
                f"{rank.min()}..{rank.max()}: the "
                f"stream has rounds 0..{stream.n_rounds - 1} and ranks 0..{stream.r_max}"
            )
        return self.score_held(round_id, held_factors(stream, of_round, rank))

    def score_held(self, round_id: int, held: Held) -> tuple[float, float]:
        """The same for factors that need not be a stream's."""
        request = (round_id, frozenset((module, key) for module, (key, _) in held.items()))
        if request not in self._known:
            for module in self.stream.modules:
                self._model.hold(module, *held.get(module, (None, None)))
            self._known[request] = self._model.measure(self.stream.score_sets[round_id])
        return self._known[request]


def held_state(
    held_round: NDArray[np.integer], held_rank: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(round, rank), int64[M] each, in the one form of all that mean the same: a module without any
    has -1 and 0."""
    rank = np.where(held_round < 0, 0, held_rank).astype(np.int64)
    return np.where(rank > 0, held_round, -1).astype(np.int64), rank


def held_factors(stream: Stream, of_round: NDArray[np.int64], rank: NDArray[np.int64]) -> Held:
    """What a held state, in its one form, stands for: leading directions of a stream's rounds."""
    held: dict[str, tuple[Hashable, LowRankFactors]] = {}
    for module, t, r in zip(stream.modules, of_round.tolist(), rank.tolist(), strict=True):
        factors = stream.factors(t).get(module) if r else None
        if factors is not None:
            held[module] = (stream.digest, t, min(r, factors.rank)), leading(factors, r)
    return held
