"""tokenizer.json of a SentencePiece BPE with byte fallback → llama.cpp's terms, or a refusal.

llama.cpp has SentencePiece's own algorithm: of all neighbours whose joint text is a piece, those
with the best score become one. A tokenizer.json has merges instead, a rank for each pair. The two
are the same where every way to split a piece into two others is a merge and the merges of one piece
stand together; this is checked, piece by piece.

Source: Kudo and Richardson, SentencePiece, EMNLP 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gguf import TokenType

from hil.contract import ModelError

BLANK: Final = "\u2581"
"""The sign that stands for a blank."""
ONE_BLANK: Final = "one-blank"
"""What the edge does to a text first: it takes one leading blank away, for llama.cpp puts one in
front of every text, and this tokenizer only before a text that has none."""

_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
_PREPEND: Final = {"type": "Prepend", "prepend": BLANK}


def is_sentencepiece(model: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json's model is a BPE with byte fallback."""
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def blank_in_front(content: Mapping[str, Any], has_user_tokens: bool) -> tuple[bool, str]:
    """Whether llama.cpp is to put a blank before a text, and what the edge does to the text first.

    Args:
        content: tokenizer.json.
        has_user_tokens: there are added tokens that are no control tokens.
    Raises:
        ModelError: blanks are treated in another way than SentencePiece's.
    """
    normalizer: Mapping[str, Any] = content.get("normalizer") or {}
    pre: Mapping[str, Any] = content.get("pre_tokenizer") or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    after_replacement = not pre or (
        pre["type"] == "Split" and pre["pattern"] == {"String": " "}  # no blank is left to split at
    )
    if steps == [_PREPEND, _REPLACE] and after_replacement:
        return True, ""
    if steps == [_REPLACE] and after_replacement:
        return False, ""
    if (
        not normalizer
        and pre.get("type") == "Metaspace"
        and pre["replacement"] == BLANK
        and not pre.get("split", True)
    ):
        scheme = pre.get("prepend_scheme", "always")
        if scheme == "never":
            return False, ""
        if scheme in ("first", "always") and not has_user_tokens:
            return True, ONE_BLANK
    raise refusal(
        f"its normalizer is {' + '.join(map(_kind, steps))}, its pre-tokenizer {_kind(pre)}, "
        "which treat blanks in another way"
    )


def scores(
    tokens: Sequence[str], types: Sequence[int], merges: Iterable[str | Sequence[str]]
) -> tuple[float, ...]:
    """SentencePiece's score of every token: the better, the earlier it is merged.

    Args:
        tokens, types: text and kind of each id.
        merges: pairs in order of rank.
    Raises:
        ModelError: no scores make llama.cpp merge as this tokenizer does.
    """
    known = {text for text, kind in zip(tokens, types, strict=True) if _is_piece(kind)}
    ways: dict[str, set[tuple[str, str]]] = {}
    order: dict[str, float] = {}
    last = ""
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        piece = left + right
        if piece in order and piece != last:
            raise refusal(f"its merges to {piece!r} do not stand together")
        order.setdefault(piece, -float(len(order) + 1))
        ways.setdefault(piece, set()).add((left, right))
        last = piece
    for piece in known:
        missing = _splits(piece, known) - ways.get(piece, set())
        if missing:
            raise refusal(f"it does not merge {' and '.join(map(repr, min(missing)))}")
    return tuple(order.get(text, -1e9) for text in tokens)


def token_types(
    tokens: Sequence[str], types: Sequence[int], unknown: str | None
) -> tuple[int, ...]:
    """The kinds of tokens with those that SentencePiece alone has: bytes, and the unknown one.

    Raises:
        ModelError: not every byte has a token.
    """
    found = list(types)
    ids = {text: index for index, text in enumerate(tokens)}
    for byte in range(256):
        if (text := f"<0x{byte:02X}>") not in ids:
            raise refusal(f"its vocabulary lacks the token {text} of a byte")
        found[ids[text]] = int(TokenType.BYTE)
    if unknown in ids:
        found[ids[unknown]] = int(TokenType.UNKNOWN)
    return tuple(found)


def refusal(what: str) -> ModelError:
    """The refusal of a tokenizer, and why."""
    return ModelError(
        f"the edge can't split text as this tokenizer does: {what}; of SentencePiece it knows BPE "
        "with byte fallback, as Llama 2, Mistral, Phi-3 and Gemma have it"
    )


def _is_piece(kind: int) -> bool:
    return kind == TokenType.NORMAL


def _splits(piece: str, known: set[str]) -> set[tuple[str, str]]:
    """The pairs of symbols that make a piece: pieces, or single characters of any kind."""
    pairs = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return {pair for pair in pairs if all(len(half) == 1 or half in known for half in pair)}


def _kind(node: Mapping[str, Any]) -> str:
    return str(node.get("type", "missing"))
