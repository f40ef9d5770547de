"""Examples as token ids, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cloud.model.base_model import BaseModel
from cloud.text.sources import Example

EncodedExample = tuple[list[int], int]
"""Token ids of an example, and the position of the first one that counts in the loss."""


def encode_examples(
    base: BaseModel, examples: Sequence[Example], max_tokens: int
) -> list[EncodedExample]:
    """Token ids of each example, and the position of the first one that counts in the loss.

    Args:
        base: gives the tokenizer.
        max_tokens: a longer labelled example loses its front, a longer text its end.
    """
    # Prompt and word are split as one text, as the edge does it: a tokenizer may merge across the
    # seam.
    whole = base.tokenizer([e.prompt + e.label_word for e in examples])["input_ids"]
    prompts = base.tokenizer([e.prompt for e in examples])["input_ids"]
    rows: list[EncodedExample] = []
    for example, ids, prompt_ids in zip(examples, whole, prompts, strict=True):
        if example.label_word:
            pairs = zip(ids, prompt_ids, strict=False)
            start = next(
                (i for i, (one, other) in enumerate(pairs) if one != other), len(prompt_ids)
            )
            cut_off = max(0, len(ids) - max_tokens)
            rows.append((ids[cut_off:], start - cut_off))
        else:
            rows.append((ids[:max_tokens], 1))
    return rows


def padded(rows: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids int64[n, longest], zeros after each row's end, and bool[n, longest]: the tokens
    that count."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    counted = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        counted[i, start : len(row)] = True
    return ids, counted


def model_inputs(batch: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
    """The arguments of a model's forward pass for padded rows: input_ids and attention_mask,
    int64[rows, tokens]."""
    ids, _ = padded(batch)
    lengths = torch.tensor([len(row) for row, _ in batch])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
    }
