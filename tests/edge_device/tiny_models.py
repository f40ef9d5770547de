"""Tiny random models with a tokenizer of their own, and the logits that llama.cpp and Hugging Face
give for them."""

from __future__ import annotations

import atexit
import warnings
from pathlib import Path

import llama_cpp
import numpy as np
import peft
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# llama_cpp opens /dev/null for itself and never closes it, which Python complains about at its end.
for _sink in (llama_cpp._utils.outnull_file, llama_cpp._utils.errnull_file):
    atexit.register(_sink.close)

Logits = NDArray[np.float32]

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
CORPUS = [
    "The station reported a weak signal; the operator's log says they'll try again at 06:45.",
    "def receive(self, n_samples: int) -> bytes:\n    return self.buffer[:n_samples]\n\n",
    "Größe, naïve, Ελληνικά, русский, 中文字符, العربية, 日本語の文章 and emoji 🚀🛰️ in one line.",
    "numbers 3 33 333 3333 12345678 3.14 1e-9 and   runs    of\tblanks \n\n \n\t\n end",
]


def make_tokenizer(pre: str, vocab_size: int, **extra: object) -> Tokenizer:
    """A byte-level BPE tokenizer trained on CORPUS; ids 0 and 1 begin and end a text."""
    contractions, words = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = {"qwen2": r"|\p{N}", "llama-bpe": r"|\p{N}{1,3}", "three-or-less": r"|\p{N}{1,2}"}
    if pre in digits:
        split = pre_tokenizers.Split(Regex(contractions + words + digits[pre] + rest), "isolated")
        chosen = pre_tokenizers.Sequence([split, raw_bytes])
    elif pre == "smollm":
        chosen = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level]
        )
    else:
        chosen = byte_level
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe", **extra))
    tokenizer.pre_tokenizer, tokenizer.decoder = chosen, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer


def _randomise(model, seed: int) -> None:
    """Weights as large as trained ones, norms and biases away from 1 and 0, so that a lost tensor
    shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.data = 1 + 0.2 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.3 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.data = 0.12 * noise
        else:
            parameter.data = noise / parameter.shape[1] ** 0.5


def make_model(
    folder: Path,
    architecture: str = "Qwen3ForCausalLM",
    *,
    tied: bool = True,
    hidden: int = 256,
    n_layers: int = 2,
    pre: str = "gpt-2",
    vocab: int = 400,
    bos: bool = False,
    settings: dict[str, object] | None = None,
) -> Path:
    """Saves a random model, f16, with its tokenizer; the last 7 rows of the embedding have no
    token."""
    tokenizer = make_tokenizer(pre, vocab - 7)
    if bos:
        begin = ("<|begin|>", 0)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[begin]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    ).save_pretrained(folder)
    head_dim = {"head_dim": hidden // 8} if architecture == "Qwen3ForCausalLM" else {}
    config = getattr(transformers, architecture.replace("ForCausalLM", "Config"))(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=vocab,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        **(head_dim | (settings or {})),
    )
    model = getattr(transformers, architecture)(config)
    _randomise(model, seed=7)
    model.half().save_pretrained(folder)
    return folder


def token_rows() -> list[list[int]]:
    """Ten random texts of 210 tokens each: 2,100 positions."""
    rows: list[list[int]] = np.random.default_rng(11).integers(2, 393, (10, 210)).tolist()
    return rows


def hf_logits(folder: Path, rows: list[list[int]], peft_folder: Path | None = None) -> Logits:
    """float32[texts, positions, vocabulary] from transformers in float32, optionally with a PEFT
    folder."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if peft_folder is not None:
        with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
            warnings.simplefilter("ignore", FutureWarning)
            model = peft.PeftModel.from_pretrained(model, peft_folder)
    with torch.no_grad():
        return model(torch.tensor(rows)).logits.numpy()


def llama_logits(gguf: Path, rows: list[list[int]], adapter: Path | None = None) -> Logits:
    """The same from llama.cpp, optionally with an adapter file."""
    lora = {} if adapter is None else {"lora_path": str(adapter)}
    model = llama_cpp.Llama(
        str(gguf), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False, **lora
    )
    logits = []
    for tokens in rows:
        model.reset()
        model.eval(tokens)
        logits.append(model.scores[: len(tokens)].copy())
    model.close()
    return np.stack(logits)
