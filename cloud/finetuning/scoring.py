"""Scores and losses of an adapted model, as the edge defines them, and of other updates in its
place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch.nn import functional as F

from cloud.finetuning.adapted_model import AdaptedModel
from cloud.model.encoding import EncodedExample
from cloud.text.sources import Example
from hil.contract import LabelQuestion, LowRankFactors, ScoreSet

SCORE_BATCH: Final = 64
"""Questions or chunks of one forward pass."""
LOSS_BATCH: Final = 32
"""Examples of one forward pass."""


@torch.no_grad()
def score(model: AdaptedModel, score_set: ScoreSet) -> tuple[float, float]:
    """Score (share of right answers; NaN without labels) and loss in nats per token.

    Args:
        model: scored as it is trained now.
        score_set: label questions, or chunks of text.
    """
    questions, chunks = score_set.questions, score_set.chunks
    asked = [questions[i : i + SCORE_BATCH] for i in range(0, len(questions), SCORE_BATCH)]
    read = [chunks[i : i + SCORE_BATCH] for i in range(0, len(chunks), SCORE_BATCH)]
    answered = model.lanes.each(partial(_answered, model), asked)
    guessed = model.lanes.each(partial(_guessed, model), read)
    loss_sum = sum(loss for _, loss in [*answered, *guessed])
    n_tokens = len(questions) + sum(n for n, _ in guessed)
    right = sum(n for n, _ in answered)
    return right / n_tokens if questions else float("nan"), loss_sum / n_tokens


def _answered(model: AdaptedModel, asked: Sequence[LabelQuestion]) -> tuple[int, float]:
    """Right answers, and the loss of the right labels summed over questions, nats."""
    losses = []
    for k in range(len(asked[0].labels)):
        examples = [Example(text="", prompt=q.prompt, label_word=q.labels[k]) for q in asked]
        losses.append(_word_losses(model, examples))
    per_label = torch.stack(losses)
    answers = torch.tensor([q.answer for q in asked])
    right = int((per_label.argmin(0) == answers).sum())
    return right, float(per_label[answers, torch.arange(len(asked))].sum())


def _guessed(model: AdaptedModel, chunks: Sequence[str]) -> tuple[int, float]:
    """Tokens of these chunks that count, and their losses' sum, nats."""
    examples = [Example(text=chunk, prompt=chunk) for chunk in chunks]
    logits, targets = model.counted(model.encode(examples))
    return len(targets), float(F.cross_entropy(logits, targets, reduction="sum"))


def _word_losses(model: AdaptedModel, examples: Sequence[Example]) -> torch.Tensor:
    """float[len(examples)]: cross-entropy of each example's label word, summed over its pieces."""
    rows = model.encode(examples)
    losses = F.cross_entropy(*model.counted(rows), reduction="none").cpu()
    pieces = torch.tensor([len(ids) - start for ids, start in rows])
    owner = torch.arange(len(rows)).repeat_interleave(pieces)
    return torch.zeros(len(rows)).index_add(0, owner, losses)


@torch.no_grad()
def losses_of(
    model: AdaptedModel,
    updates: Sequence[Mapping[str, LowRankFactors]],
    examples: Sequence[Example],
) -> list[float]:
    """Loss in nats per counted token with each of these updates in place of the trained one.

    Args:
        model: a "lora" model; what it was trained to is back afterwards.
        updates: module → factors of rank ≤ r_max; a module that is not in it is bare.
        examples: what the losses are measured on; their order does not matter.
    """
    rows = sorted(model.encode(examples), key=lambda row: len(row[0]))
    batches = [rows[i : i + LOSS_BATCH] for i in range(0, len(rows), LOSS_BATCH)]
    n_counted = sum(len(ids) - start for ids, start in rows)
    found: list[float] = []

    def loss_sum(batch: Sequence[EncodedExample]) -> float:
        return F.cross_entropy(*model.counted(batch), reduction="sum").item()

    with model.set_aside():
        for update in updates:
            model.hold(update)
            found.append(sum(model.lanes.each(loss_sum, batches)) / n_counted)
    return found
