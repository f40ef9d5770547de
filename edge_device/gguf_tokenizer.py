"""tokenizer.json → the tokenizer keys of a GGUF file, or a refusal by name.

llama.cpp knows pre-tokenizers by name and has its own code for each; a tokenizer that fits none of
those known here is refused, because splitting text another way gives wrong tokens and no error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import GGUFWriter, TokenType

from edge_device import gguf_sentencepiece as sentencepiece
from hil.contract import ModelError
from hil.model_folder import read_json, tokenizer_bytes

_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS: Final = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS: Final = {
    _CONTRACTIONS + _WORDS + r"|\p{N}" + _REST: "qwen2",
    _CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST: "llama-bpe",
}
_KNOWN: Final = (
    "plain byte-level (gpt-2), single digits and byte-level (smollm), qwen2, llama-bpe, dbrx"
)
_IGNORING_MERGES: Final = {True: "llama-bpe", False: "dbrx"}
"""The two that llama.cpp has for one pattern: a word that is a token is taken whole, or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    """The tokenizer settings with which llama.cpp splits text as Hugging Face does.

    Attributes:
        model: "gpt2" for byte-level BPE, "llama" for SentencePiece.
        pre: llama.cpp's name of the pre-tokenizer.
        normalizer: what has to be done to a text first, for llama.cpp does not: "NFC" (bring it
            into that Unicode form), sentencepiece.ONE_BLANK, or "".
        tokens, types: text and kind of each id; ids up to the model's vocabulary are filled with
            unused ones.
        merges: pairs in order of rank; of byte-level BPE.
        scores: of SentencePiece.
        add_blank: whether encoding puts a blank before a text.
        add_bos, add_eos: whether encoding puts these tokens around a text.
    """

    model: str
    pre: str
    normalizer: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    add_blank: bool = False
    bos_id: int
    eos_id: int
    add_bos: bool
    add_eos: bool


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The folder's tokenizer in llama.cpp's terms.

    Args:
        vocab_size: rows of the token embedding.
    Raises:
        ModelError: no tokenizer.json, or a tokenizer whose splitting llama.cpp is not known to
            repeat.
    """
    try:
        content = json.loads(tokenizer_bytes(folder))
        added = content.get("added_tokens") or []
        if (kind := content["model"].get("type")) != "BPE":
            raise _refusal(f"its model is {kind}")
        tokens, types = _vocabulary(content["model"]["vocab"], added, vocab_size)
        ids = {token: index for index, token in enumerate(tokens)}
        if sentencepiece.is_sentencepiece(content["model"]):
            own = _sentencepiece(content, tokens, types)
        else:
            own = _byte_level(content)
        bos, eos = (_special_id(folder, kind, ids) for kind in ("bos", "eos"))
        add_bos, add_eos = _additions(folder, content.get("post_processor"), bos, eos, ids)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"'{folder}/tokenizer.json' is damaged ({error!r}); save the tokenizer again"
        ) from error
    if eos is None:
        raise ModelError(f"'{folder}' names no end token; set eos_token in tokenizer_config.json")
    # As GPT-2; llama.cpp would otherwise take token 11 for the begin token.
    ends = {"bos_id": eos if bos is None else bos, "eos_id": eos}
    return GgufTokenizer(
        **{"tokens": tokens, "types": types, "add_bos": add_bos, "add_eos": add_eos, **ends, **own}
    )


def _byte_level(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is a byte-level BPE's own."""
    model, added = content["model"], content.get("added_tokens") or []
    _check_model(model)
    _check_added(added)
    pre = _pre_tokenizer(content.get("pre_tokenizer"))
    whole_words = bool(model.get("ignore_merges"))
    if pre == "llama-bpe":
        pre = _IGNORING_MERGES[whole_words]
    elif whole_words:
        raise _refusal(f"ignore_merges = True with the pre-tokenizer {pre}")
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return {
        "model": "gpt2",
        "pre": pre,
        "normalizer": _normalizer(content.get("normalizer")),
        "merges": tuple(merges),
    }


def _sentencepiece(
    content: Mapping[str, Any], tokens: tuple[str, ...], types: tuple[int, ...]
) -> dict[str, Any]:
    """What is SentencePiece's own."""
    model, added = content["model"], content.get("added_tokens") or []
    _check_added(added)
    if model.get("ignore_merges") or model.get("dropout"):
        raise sentencepiece.refusal("it sets ignore_merges or dropout")
    types = sentencepiece.token_types(tokens, types, model.get("unk_token"))
    has_user_tokens = int(TokenType.USER_DEFINED) in types
    add_blank, normalizer = sentencepiece.blank_in_front(content, has_user_tokens)
    return {
        "model": "llama",
        "pre": "default",
        "normalizer": normalizer,
        "types": types,
        "scores": sentencepiece.scores(tokens, types, model["merges"]),
        "add_blank": add_blank,
    }


def write_tokenizer(writer: GGUFWriter, tokenizer: GgufTokenizer) -> None:
    """Put the tokenizer's keys into a GGUF that is being written."""
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.add_blank)
    else:
        writer.add_token_merges(tokenizer.merges)
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)


def _refusal(what: str) -> ModelError:
    return ModelError(
        f"the edge can't split text as this tokenizer does: {what}; it knows byte-level BPE: "
        f"{_KNOWN}"
    )


def _check_model(model: Mapping[str, Any]) -> None:
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise _refusal(f"it sets {key} = {model[key]!r}")
    # Both sides leave a byte without a symbol out, such as SmolLM2's rare control characters. But
    # where there is a token for the unknown only Hugging Face writes it.
    missing = set(_byte_symbols()) - set(model["vocab"])
    if missing and (unknown := model.get("unk_token")):
        raise _refusal(f"it writes {unknown!r} for {len(missing)} of the 256 bytes")


def _byte_symbols() -> list[str]:
    """The characters that stand for bytes 0..255 in byte-level BPE: printable Latin-1 as it is, the
    others from 256 up.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2,
    and its code.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return [chr(byte) for byte in sorted(printable)] + [
        chr(256 + index) for index, _ in enumerate(others)
    ]


def _check_added(added: list[Mapping[str, Any]]) -> None:
    for token in added:
        if token.get("special"):
            continue  # the edge never reads one out of a text
        stripping = [key for key in ("lstrip", "rstrip", "single_word") if token.get(key)]
        if stripping:
            raise _refusal(f"added token '{token['content']}' sets {', '.join(stripping)}")


def _normalizer(node: Mapping[str, Any] | None) -> str:
    if node is None:
        return ""
    if node.get("type") == "NFC":
        return "NFC"
    raise _refusal(f"its normalizer is {node.get('type')}")


def _pre_tokenizer(node: Mapping[str, Any] | None) -> str:
    steps = (
        []
        if node is None
        else list(node["pretokenizers"])
        if node["type"] == "Sequence"
        else [node]
    )
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise _refusal(
            f"its pre-tokenizer is {' + '.join(step['type'] for step in steps) or 'missing'}"
        )
    byte_level = steps[-1]
    if byte_level.get("add_prefix_space"):
        raise _refusal("it puts a blank before the text (add_prefix_space)")
    splits_words = bool(byte_level.get("use_regex", True))
    if len(steps) == 1 and splits_words:
        return "gpt-2"
    if (
        len(steps) == 2
        and splits_words
        and steps[0]["type"] == "Digits"
        and steps[0].get("individual_digits")
    ):
        return "smollm"
    if len(steps) == 2 and not splits_words and steps[0]["type"] == "Split":
        return _split_pattern(steps[0])
    raise _refusal(f"its pre-tokenizer is {' + '.join(step['type'] for step in steps)}")


def _split_pattern(step: Mapping[str, Any]) -> str:
    pattern = step["pattern"].get("Regex", "")
    if step.get("behavior") == "Isolated" and not step.get("invert") and pattern in _PATTERNS:
        return _PATTERNS[pattern]
    raise _refusal(
        f"it splits at the pattern {pattern or step['pattern']} ({step.get('behavior')})"
    )


def _vocabulary(
    vocab: Mapping[str, int], added: list[Mapping[str, Any]], vocab_size: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    texts: dict[int, str] = {index: token for token, index in vocab.items()}
    kinds: dict[int, int] = {}
    for token in added:
        texts[int(token["id"])] = token["content"]
        kinds[int(token["id"])] = int(
            TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        )
    if max(texts) >= vocab_size:
        raise ModelError(
            f"the tokenizer has id {max(texts)}, the model's embedding only {vocab_size} rows; "
            "they belong to "
            "different models: save the right tokenizer beside the model"
        )
    tokens = tuple(texts.get(index, f"[PAD{index}]") for index in range(vocab_size))
    if len(set(tokens)) != vocab_size or "" in texts.values():
        raise _refusal("its vocabulary has an empty token or two ids for the same text")
    unused = {index: int(TokenType.UNUSED) for index in range(vocab_size) if index not in texts}
    normal = int(TokenType.NORMAL)
    return tokens, tuple((unused | kinds).get(index, normal) for index in range(vocab_size))


def _special_id(folder: Path, kind: str, ids: Mapping[str, int]) -> int | None:
    """Id of the begin or end token: from tokenizer_config.json, else from config.json (the first of
    several)."""
    if (folder / "tokenizer_config.json").is_file():
        named = read_json(folder, "tokenizer_config.json").get(f"{kind}_token")
        text = named.get("content") if isinstance(named, dict) else named
        if text is not None:
            return ids[text]
    index = read_json(folder, "config.json").get(f"{kind}_token_id")
    index = index[0] if isinstance(index, list) else index
    return int(index) if index is not None and int(index) < len(ids) else None


def _additions(
    folder: Path,
    processor: Mapping[str, Any] | None,
    bos: int | None,
    eos: int | None,
    ids: Mapping[str, int],
) -> tuple[bool, bool]:
    """Whether encoding adds the begin token and the end token."""
    steps = (
        []
        if processor is None
        else processor["processors"]
        if processor["type"] == "Sequence"
        else [processor]
    )
    templates = [step["single"] for step in steps if step["type"] == "TemplateProcessing"]
    strange = [
        step["type"] for step in steps if step["type"] not in ("TemplateProcessing", "ByteLevel")
    ]
    if strange or len(templates) > 1:
        raise _refusal(f"its post-processor is {' + '.join(step['type'] for step in steps)}")
    template = templates[0] if templates else [{"Sequence": {}}]
    pieces = [
        ids[piece["SpecialToken"]["id"]] if "SpecialToken" in piece else None for piece in template
    ]  # None: text
    for add_bos, add_eos in ((False, False), (True, False), (False, True), (True, True)):
        if pieces == [bos] * add_bos + [None] + [eos] * add_eos:
            break
    else:
        raise _refusal("its post-processor adds other tokens than the begin and end tokens")
    if (folder / "tokenizer_config.json").is_file():
        said = read_json(folder, "tokenizer_config.json")
        for key, added in (("add_bos_token", add_bos), ("add_eos_token", add_eos)):
            if said.get(key) is not None and bool(said[key]) != added:
                raise _refusal(
                    f"tokenizer_config.json says {key} = {said[key]}, tokenizer.json the opposite"
                )
    return add_bos, add_eos
