"""Scores and losses of an adapted model, as the edge defines them, and of other updates in its
place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch.nn import functional as F

from cloud.finetuning.adapted_model import AdaptedModel
from cloud.text.sources import Example
from hil.contract import LowRankFactors, ScoreSet

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
    right, loss_sum, n_tokens = 0, 0.0, 0
    for i in range(0, len(score_set.questions), SCORE_BATCH):
        asked = score_set.questions[i : i + SCORE_BATCH]
        losses = []
        for k in range(len(asked[0].labels)):
            answered = [Example(text="", prompt=q.prompt, label_word=q.labels[k]) for q in asked]
            losses.append(_word_losses(model, answered))
        per_label = torch.stack(losses)
        answers = torch.tensor([q.answer for q in asked])
        right += int((per_label.argmin(0) == answers).sum())
        loss_sum += float(per_label[answers, torch.arange(len(asked))].sum())
        n_tokens += len(asked)
    for i in range(0, len(score_set.chunks), SCORE_BATCH):
        chunks = [Example(text=c, prompt=c) for c in score_set.chunks[i : i + SCORE_BATCH]]
        logits, targets = model.counted(model.encode(chunks))
        loss_sum += float(F.cross_entropy(logits, targets, reduction="sum"))
        n_tokens += len(targets)
    return right / n_tokens if score_set.questions else float("nan"), loss_sum / n_tokens


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
    with model.set_aside():
        for update in updates:
            model.hold(update)
            sums = [F.cross_entropy(*model.counted(b), reduction="sum").item() for b in batches]
            found.append(sum(sums) / n_counted)
    return found
