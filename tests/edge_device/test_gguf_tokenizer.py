"""The tokenizer in a GGUF splits text exactly as Hugging Face's does, or conversion refuses."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from edge_device.batching import normalised
from edge_device.gguf_conversion import convert
from edge_device.gguf_model import inspect
from hil.contract import ModelError
from tests.edge_device.tiny_models import CORPUS, make_model

Edit = Callable[[dict], None]
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}


@cache
def _texts() -> list[str]:
    """The corpus, and random texts of code points from all over Unicode, digits and runs of white
    space."""
    rng = np.random.default_rng(6)
    assigned = [
        chr(c) for c in range(1, 0x20000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")
    ]
    pieces = [
        "  ",
        "   ",
        "\n",
        "\r\n",
        "\t",
        "'ll",
        "'S",
        "12",
        "007",
        " word",
        "Word",
        "…",
        "\u00a0",
        "\u3000",
    ]
    mixed = ["".join(rng.choice(assigned, 40)) for _ in range(60)]
    mixed += ["".join(rng.choice([*pieces, *rng.choice(assigned, 8)], 40)) for _ in range(60)]
    return CORPUS + mixed


def _both(folder: Path, gguf: Path, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)
    split = [vocabulary.tokenize(text.encode(), add_bos=True, special=True) for text in texts]
    vocabulary.close()
    return [tokenizer.encode(text).ids for text in texts], split


@pytest.mark.slow
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe", "dbrx"])
def test_llama_cpp_splits_text_as_hugging_face_does(pre, tmp_path):
    folder = make_model(tmp_path / "hf", hidden=32, n_layers=1, pre=pre, bos=pre == "llama-bpe")
    convert(folder, tmp_path / "m.gguf")
    texts = [*_texts(), "<|begin|>one<|end|> two"]
    wanted, got = _both(folder, tmp_path / "m.gguf", texts)
    assert sum(map(len, wanted)) > 8_000
    assert got == wanted


def test_bytes_without_a_symbol_are_left_out_by_both(tmp_path):
    folder = make_model(tmp_path / "hf", hidden=32, n_layers=1)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    symbols = bytes_to_unicode()
    for byte in (0x04, 0x1D, 0x21, 0xF1, 0xC3):  # alone and within a character
        vocabulary = content["model"]["vocab"]
        vocabulary[f"unused {byte}"] = vocabulary.pop(symbols[byte])
    merges = [m for m in content["model"]["merges"] if not {*m} & {symbols[0x21], symbols[0xC3]}]
    content["model"]["merges"] = merges
    path.write_text(json.dumps(content), encoding="utf-8")
    convert(folder, tmp_path / "m.gguf")
    texts = [*_texts(), "a\x04b\x1d!", "!", "\U00040000 é!é", "\x04", "what!? 1!"]
    wanted, got = _both(folder, tmp_path / "m.gguf", texts)
    assert got == wanted
    assert wanted[-2] == []


@pytest.mark.slow
@pytest.mark.parametrize("blanks", ["llama2", "metaspace", "gemma"])
def test_sentencepiece_splits_as_hugging_face_does(blanks, tmp_path):
    folder = make_model(tmp_path / "hf", hidden=32, n_layers=1, pre=blanks, vocab=600)
    convert(folder, tmp_path / "m.gguf")
    form = inspect(tmp_path / "m.gguf").normalizer
    assert form == ("one-blank" if blanks == "metaspace" else "")
    texts = [*_texts(), " a blank in front", "  two", "\u2581its sign", "\n", "aaaa", "      "]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wanted = [tokenizer.encode(text).ids for text in texts]
    assert max(map(max, wanted)) > 400  # merged pieces, not bytes alone
    vocabulary = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    got = [
        vocabulary.tokenize(normalised(text, form).encode(), add_bos=True, special=False)
        for text in texts
    ]
    vocabulary.close()
    assert got == wanted


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["model"]["merges"].pop(), "it does not merge"),
        (lambda t: t["model"]["merges"].append(t["model"]["merges"][0]), "do not stand together"),
        (lambda t: t["model"]["vocab"].pop("<0x41>"), "lacks the token <0x41> of a byte"),
        (lambda t: t["model"].update(ignore_merges=True), "sets ignore_merges"),
        (lambda t: t.update(normalizer={"type": "NFKC"}), "normalizer is NFKC, its pre-tokenizer"),
        (lambda t: t.update(normalizer=None), "normalizer is missing, its pre-tokenizer missing"),
        (
            lambda t: t.update(normalizer=None, pre_tokenizer=METASPACE | {"split": True}),
            "normalizer is missing, its pre-tokenizer Metaspace",
        ),
    ],
)
def test_a_sentencepiece_that_llama_cpp_would_not_repeat_is_refused(tmp_path, edit, message):
    folder = make_model(tmp_path / "hf", hidden=32, n_layers=1, pre="llama2", vocab=600)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("hf"), hidden=32, n_layers=1)


@pytest.fixture
def spoil(folder, tmp_path) -> Callable[..., Path]:
    """A copy of the folder with one JSON file edited."""

    def spoil(edit: Edit, name: str = "tokenizer.json") -> Path:
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        content = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        edit(content)
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return spoil


def test_composed_text_splits_the_same_under_nfc_and_the_need_is_noted(spoil, tmp_path):
    folder = spoil(lambda t: t.update(normalizer={"type": "NFC"}))
    convert(folder, tmp_path / "m.gguf")
    assert inspect(tmp_path / "m.gguf").normalizer == "NFC"
    decomposed = [unicodedata.normalize("NFD", text) for text in CORPUS]
    wanted, _ = _both(folder, tmp_path / "m.gguf", decomposed)
    _, got = _both(
        folder, tmp_path / "m.gguf", [unicodedata.normalize("NFC", text) for text in decomposed]
    )
    assert got == wanted


def test_end_token_stands_in_for_a_missing_begin_token(spoil, tmp_path):
    convert(spoil(lambda c: c.pop("bos_token"), "tokenizer_config.json"), tmp_path / "m.gguf")
    vocabulary = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    assert (vocabulary.token_bos(), vocabulary.token_eos()) == (1, 1)
    assert vocabulary.tokenize(b"a", add_bos=True) == vocabulary.tokenize(b"a", add_bos=False)
    vocabulary.close()


def _split(pattern: dict, behavior: str = "Isolated") -> Edit:
    step = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return lambda t: t.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [step, byte_level]}
    )


def _has_no_symbol_but_a_word(tokenizer: dict) -> None:
    tokenizer["model"]["vocab"].pop("!")
    tokenizer["model"]["unk_token"] = "<|end|>"


def _adds_end_in_front(tokenizer: dict) -> None:
    pieces = [
        {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    tokenizer["post_processor"] = {"type": "TemplateProcessing", "single": pieces}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            _split({"Regex": r"\p{L}+|\p{N}{1,2}"}),
            r"splits at the pattern \\p\{L\}\+\|\\p\{N\}\{1,2\} \(Isolated\)",
        ),
        (_split({"String": " "}), "splits at the pattern"),
        (lambda t: t.update(pre_tokenizer={"type": "Metaspace"}), "its pre-tokenizer is Metaspace"),
        (lambda t: t.update(pre_tokenizer=None), "its pre-tokenizer is missing"),
        (lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
        (lambda t: t["pre_tokenizer"].update(use_regex=False), "its pre-tokenizer is ByteLevel"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "its normalizer is Lowercase"),
        (lambda t: t["model"].update(type="Unigram"), "its model is Unigram"),
        (lambda t: t["model"].update(byte_fallback=True), "lacks the token <0x00> of a byte"),
        (
            lambda t: t["model"].update(ignore_merges=True),
            "ignore_merges = True with the pre-tokenizer gpt-2",
        ),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (_has_no_symbol_but_a_word, r"writes '<\|end\|>' for 1 of the 256 bytes"),
        (
            lambda t: t["added_tokens"][0].update(lstrip=True, special=False),
            r"'<\|begin\|>' sets lstrip",
        ),
        (
            lambda t: t["added_tokens"][0].update(id=400),
            "id 400, the model's embedding only 400 rows",
        ),
        (lambda t: t["added_tokens"][0].update(content="Ġthe"), "two ids for the same text"),
        (_adds_end_in_front, "adds other tokens than the begin and end tokens"),
        (
            lambda t: t.update(post_processor={"type": "BertProcessing"}),
            "its post-processor is BertProcessing",
        ),
        (lambda t: t.pop("model"), "is damaged"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_not_repeat_is_refused(spoil, tmp_path, edit, message):
    with pytest.raises(ModelError, match=message):
        convert(spoil(edit), tmp_path / "m.gguf")


def test_contradicting_and_missing_special_tokens_are_refused(spoil, tmp_path):
    with pytest.raises(
        ModelError, match=r"says add_bos_token = True, tokenizer\.json the opposite"
    ):
        convert(
            spoil(lambda c: c.update(add_bos_token=True), "tokenizer_config.json"),
            tmp_path / "m.gguf",
        )
    with pytest.raises(ModelError, match="names no end token"):
        convert(spoil(lambda c: c.pop("eos_token"), "tokenizer_config.json"), tmp_path / "m.gguf")
