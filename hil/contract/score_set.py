"""Score sets: the questions or texts that an edge is scored on; machines compare their SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

MAX_SCORED_TOKENS: Final = 1024
"""Tokens of a chunk, or of a prompt and all its label words, that an edge has room for."""
MAX_LONG_LABELS: Final = 63
"""Label words of several tokens that an edge compares behind one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQuestion:
    """One sentence to be classified by the next token's logits at the words of the labels.

    Attributes:
        prompt: text before the label word.
        labels: the label words, leading blank included, for example (" bad", " good").
        answer: index of the right one.
    """

    prompt: str
    labels: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSet:
    """Label questions or chunks of plain text, exactly one of the two, that an edge is scored on.

    Attributes:
        name: the domain's name.
        questions: classification by label words.
        chunks: plain texts; the loss of every token after a chunk's first is counted.
    """

    name: str
    questions: tuple[LabelQuestion, ...] = ()
    chunks: tuple[str, ...] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The score set whose dataclasses.asdict went through JSON.

        Raises:
            KeyError, TypeError, ValueError: it is another content.
        """
        questions = tuple(
            LabelQuestion(prompt=q["prompt"], labels=tuple(q["labels"]), answer=int(q["answer"]))
            for q in content["questions"]
        )
        return cls(name=content["name"], questions=questions, chunks=tuple(content["chunks"]))

    def to_bytes(self) -> bytes:
        """The set as JSON in UTF-8: equal sets give equal bytes."""
        return json.dumps(
            asdict(self), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        ).encode()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of to_bytes()."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def digest_of_all(score_sets: Iterable[ScoreSet]) -> str:
        """SHA-256 (hex) of several score sets of different names, whatever their order."""
        digests = sorted(score_set.digest for score_set in score_sets)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()
