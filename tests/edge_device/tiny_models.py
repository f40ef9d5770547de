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
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# llama_cpp opens /dev/null for itself and never closes it, which Python complains about at its end.
for _sink in (llama_cpp._utils.outnull_file, llama_cpp._utils.errnull_file):
    atexit.register(_sink.close)

Logits = NDArray[np.float32]

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
CONFIGS = {"Gemma3": "Gemma3TextConfig"}
"""Configurations whose class is not named after the model's."""
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
    digits["dbrx"] = digits["llama-bpe"]
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


def make_sentencepiece(vocab_size: int, blanks: str) -> Tokenizer:
    """A SentencePiece-like BPE trained on CORPUS; ids 1 and 2 begin and end a text.

    Args:
        blanks: how they are treated: "llama2", "metaspace" or "gemma".
    """
    blank = "\u2581"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement=blank, prepend_scheme="always")
    control = ["<unk>", "<s>", "</s>"]
    trained = trainers.BpeTrainer(
        vocab_size=vocab_size - 256 - len(control), show_progress=False, limit_alphabet=60
    )
    raw.train_from_iterator([text for text in CORPUS if text.isascii()] * 4, trained)
    pieces = sorted(raw.get_vocab(), key=raw.get_vocab().__getitem__)
    texts = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {text: index for index, text in enumerate(texts)}
    merges = []
    for piece in pieces:  # every way to split a piece, as Hugging Face makes them of SentencePiece
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [pair for pair in pairs if all(half in vocab for half in pair)]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    replace = normalizers.Replace(" ", blank)
    if blanks == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(blank), replace])
    elif blanks == "gemma":
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=blank, prepend_scheme="first", split=False
        )
    tokenizer.add_special_tokens(control)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _randomise(model, seed: int, spread: float = 0.12) -> None:
    """Weights as large as trained ones, norms and biases away from 1 and 0, so that a lost tensor
    shows; embeddings and logits as wide as `spread` makes them."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.data = parameter.data + 0.2 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.3 * noise
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.data = spread * noise
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
    spread: float = 0.12,
) -> Path:
    """Saves a random model, f16, with its tokenizer; the last 7 rows of the embedding have no
    token."""
    if pre in ("llama2", "metaspace", "gemma"):
        tokenizer, ends = make_sentencepiece(vocab - 7, pre), ("<s>", "</s>")
    else:
        tokenizer, ends = make_tokenizer(pre, vocab - 7), ("<|begin|>", "<|end|>")
    if bos:
        begin = ("<|begin|>", 0)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[begin]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=ends[0], eos_token=ends[1]
    ).save_pretrained(folder)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
    }
    sizes |= {"head_dim": hidden // 8} if architecture == "Qwen3ForCausalLM" else {}
    name = architecture.removesuffix("ForCausalLM")
    config_class = getattr(transformers, CONFIGS.get(name, f"{name}Config"))
    model = getattr(transformers, architecture)(config_class(**(sizes | (settings or {}))))
    _randomise(model, 7, spread)
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


def llama_logits(
    gguf: Path, rows: list[list[int]], adapter: Path | None = None, n_ctx: int = 256
) -> Logits:
    """The same from llama.cpp, optionally with an adapter file."""
    lora = {} if adapter is None else {"lora_path": str(adapter)}
    model = llama_cpp.Llama(
        str(gguf),
        n_ctx=n_ctx,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        verbose=False,
        **lora,
    )
    logits = []
    for tokens in rows:
        model.reset()
        model.eval(tokens)
        logits.append(model.scores[: len(tokens)].copy())
    model.close()
    return np.stack(logits)
