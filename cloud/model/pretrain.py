"""Makes the default base model: `python -m cloud.model.pretrain --out cloud/model/default` (half an
hour on two cores).

A Qwen3 of 2.9 M parameters, trained on the prose of the Python standard library and on field
reports that use known words only. Labelled reports are part of every step: without them the model
never learns what a verdict is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cloud.text.lexicon import save_lexicon
from cloud.text.library_docs import pretraining_prose
from cloud.text.reports import LABEL_WORDS, ReportDials, ReportWriter, prompt, rng_of

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 2048
CONTEXT = 128
LANGUAGE_ROWS = 16
LABEL_ROWS = 32
PEAK_LEARNING_RATE = 4e-3
KNOWN = ReportDials(clauses_max=3, negation=0.3, contrast=0.5)
# A base that is sure of itself on words it never saw would start every unknown domain from a large
# loss.
LABEL_SMOOTHING = 0.1


def main() -> None:
    """Train the tokenizer and the model, and write them with lexicon and log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    prose = list(pretraining_prose())
    writer = ReportWriter("known", KNOWN, arguments.seed)
    reports = [
        prompt(r.text) + LABEL_WORDS[r.label]
        for r in writer.write(4000, rng_of("known", arguments.seed))
    ]
    tokenizer = train_tokenizer([*prose, *reports])
    tokenizer.save_pretrained(arguments.out)
    n_words = save_lexicon(arguments.out / "lexicon.txt", [*prose, *reports])

    held_back = prose[::50]
    tokens = _token_stream(tokenizer, [p for i, p in enumerate(prose) if i % 50])
    validation = _token_stream(tokenizer, held_back)
    print(f"{len(tokens):,} tokens of prose, {n_words:,} words in the lexicon", flush=True)
    log = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "text_sha256": hashlib.sha256("\n".join(prose).encode()).hexdigest(),
        "text_characters": sum(map(len, prose)),
        "text_tokens": len(tokens),
        "lexicon_words": n_words,
        "seed": arguments.seed,
        "steps": arguments.steps,
    }
    model: Any = _new_model(tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    log["history"] = _train(
        model.to(device), tokenizer, tokens, validation, writer, arguments.steps, arguments.seed
    )
    model.to(dtype=torch.float16).save_pretrained(arguments.out)
    (arguments.out / "training_log.json").write_text(
        json.dumps(log, indent=1) + "\n", encoding="utf-8"
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the pre-tokenizer of GPT-2, so that llama.cpp splits words alike."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def _new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    # Rows of 256 so that llama.cpp's K-quants are real; Qwen3, whose q and k need no permutation in
    # GGUF.
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def _train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tokens: NDArray[np.int64],
    validation: NDArray[np.int64],
    writer: ReportWriter,
    steps: int,
    seed: int,
) -> list[dict[str, float]]:
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(
            (step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + 0.01
        ),
    )
    rows = _language_rows(tokens, np.random.default_rng([seed, 1]))
    label_rng = rng_of("pretraining labels", seed)
    history: list[dict[str, float]] = []
    start_s = time.monotonic()
    for step in track(range(steps), description="pretraining"):
        language = torch.from_numpy(next(rows)).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            language_loss = _language_loss(model, language)
            label_loss = _label_loss(model, *_label_batch(tokenizer, writer, label_rng))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(language_loss + label_loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            entry = {
                "step": step + 1,
                "language_loss_nats_per_token": round(language_loss.item(), 4),
                "label_loss_nats": round(label_loss.item(), 4),
                "validation_nats_per_token": round(_validation_loss(model, validation), 4),
                "known_reports_accuracy": _known_accuracy(model, tokenizer, writer),
                "elapsed_s": round(time.monotonic() - start_s, 1),
            }
            history.append(entry)
            print(entry, flush=True)
    return history


def _token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> NDArray[np.int64]:
    tokens: list[int] = []
    for ids in tokenizer(texts)["input_ids"]:
        tokens += (*ids, tokenizer.eos_token_id)
    return np.array(tokens, dtype=np.int64)


def _language_rows(
    tokens: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """int64[LANGUAGE_ROWS, CONTEXT + 1], every epoch cut at another place."""
    while True:
        offset = int(rng.integers(CONTEXT))
        n = (len(tokens) - offset - 1) // CONTEXT
        starts = offset + CONTEXT * rng.permutation(n)
        for i in range(0, n - LANGUAGE_ROWS + 1, LANGUAGE_ROWS):
            yield np.stack([tokens[s : s + CONTEXT + 1] for s in starts[i : i + LANGUAGE_ROWS]])


def _label_batch(
    tokenizer: PreTrainedTokenizerFast,
    writer: ReportWriter,
    rng: np.random.Generator,
    n: int = LABEL_ROWS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded prompts, the last position of each, its label, and the label words' tokens."""
    reports = writer.write(n, rng)
    batch = tokenizer([prompt(r.text) for r in reports], padding=True, return_tensors="pt")
    last = batch["attention_mask"].sum(1) - 1
    label_tokens = torch.tensor([tokenizer(w)["input_ids"][0] for w in LABEL_WORDS])
    return batch["input_ids"], last, torch.tensor([r.label for r in reports]), label_tokens


def _language_loss(model: Qwen3ForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=rows[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def _label_logits(model: Qwen3ForCausalLM, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    hidden = model.model(input_ids=ids.to(model.device)).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[torch.arange(len(ids)), last])
    return logits.float()


def _label_loss(
    model: Qwen3ForCausalLM,
    ids: torch.Tensor,
    last: torch.Tensor,
    labels: torch.Tensor,
    label_tokens: torch.Tensor,
) -> torch.Tensor:
    logits = _label_logits(model, ids, last)
    # Smoothing between the label words only: nothing else may ever follow the prompt.
    target = torch.full((len(labels), logits.shape[1]), 0.0)
    target[:, label_tokens] = LABEL_SMOOTHING / len(label_tokens)
    target[torch.arange(len(labels)), label_tokens[labels]] += 1 - LABEL_SMOOTHING
    return F.cross_entropy(logits, target.to(model.device))


@torch.no_grad()
def _validation_loss(model: Qwen3ForCausalLM, validation: NDArray[np.int64]) -> float:
    n = (len(validation) - 1) // CONTEXT
    rows = np.stack([validation[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(n)])
    groups = torch.split(torch.from_numpy(rows).to(model.device), LANGUAGE_ROWS)
    return sum(_language_loss(model, group).item() * len(group) for group in groups) / n


@torch.no_grad()
def _known_accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, writer: ReportWriter
) -> float:
    ids, last, labels, label_tokens = _label_batch(
        tokenizer, writer, rng_of("known reports, held out"), n=200
    )
    answers = _label_logits(model, ids, last)[:, label_tokens].argmax(1).cpu()
    return round((answers == labels).float().mean().item(), 4)


if __name__ == "__main__":
    main()
