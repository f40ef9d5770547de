"""How long an example may be in tokens, and how a longer text is cut or divided."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hil.contract import MAX_LONG_LABELS, MAX_SCORED_TOKENS, TextError

Spans = list[tuple[int, int]]
"""Of each token of a text the characters that it covers, from start to before end; (0, 0) for one
that the model puts in front."""

CHUNK_WORDS: Final = 32
"""Words of one chunk of language-model text."""

_BATCH: Final = 1000
_LEAST_ROOM: Final = 8
"""Tokens of a prompt for its text: any one sign fits."""
_CHARACTERS_PER_TOKEN: Final = 64
"""What a long text is looked at by at first: a token has about four characters in English."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimit:
    """The longest example, and the tokenizer that it is measured with.

    Attributes:
        spans: gives the Spans of each of some texts.
        max_tokens: of a prompt with its label word, or of a chunk; at least 8.
    """

    spans: Callable[[Sequence[str]], list[Spans]]
    max_tokens: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, with those that the model adds by itself."""
        counts: list[int] = []
        for i in range(0, len(texts), _BATCH):
            counts += map(len, self.spans(texts[i : i + _BATCH]))
        return counts

    def chunks(self, text: str) -> list[str]:
        """The text in chunks of at most CHUNK_WORDS words and max_tokens tokens.

        They are pieces of the text as it stands; only blanks between two chunks are left out. A
        chunk of too many tokens, such as a run without blanks, is divided between two of them.
        """
        words = [match.span() for match in re.finditer(r"\S+", text)]
        at_once = _CHARACTERS_PER_TOKEN * self.max_tokens
        found: list[str] = []
        for i in range(0, len(words), CHUNK_WORDS):
            start, end = words[i][0], words[min(i + CHUNK_WORDS, len(words)) - 1][1]
            found += (text[j : min(j + at_once, end)] for j in range(start, end, at_once))
        return self._fitting(found)

    def _fitting(self, pieces: Sequence[str]) -> list[str]:
        found: list[str] = []
        for piece, count in zip(pieces, self.count(pieces), strict=True):
            found += [piece] if count <= self.max_tokens else self._divided(piece)
        return found

    def _divided(self, text: str) -> list[str]:
        """A text that is too long in pieces of about the same number of tokens."""
        [spans] = self.spans([text])
        starts = [start for start, end in spans if end]
        # A sign of four tokens goes to one of its neighbours as a whole.
        room = self.max_tokens - (len(spans) - len(starts)) - 3
        n = math.ceil(len(starts) / room)
        cuts = sorted({0, *(starts[i * len(starts) // n] for i in range(n))})
        pieces = [text[a:b] for a, b in pairwise([*cuts, len(text)])]
        return self._fitting(pieces) if len(pieces) > 1 else pieces


class PromptLimit:
    """Cuts labelled texts so that prompt and label word fit a TokenLimit.

    Args:
        limit: the limit.
        template: the prompt, with {text} in it.
        words: the label words.
    Raises:
        TextError: the template leaves no room for a text, or an edge cannot tell so many words
            apart.
    """

    def __init__(self, limit: TokenLimit, template: str, words: Sequence[str]) -> None:
        self._limit, self._template = limit, template
        empty, *counts = limit.count([self.prompt(""), *(self.prompt("") + w for w in words)])
        pieces = [count - empty for count in counts]
        self._longest = words[max(range(len(words)), key=lambda i: pieces[i])]
        if (n_long := sum(n > 1 for n in pieces)) > MAX_LONG_LABELS:
            raise TextError(
                f"text.label_words: {n_long} words of several tokens, an edge compares at most "
                f"{MAX_LONG_LABELS}; choose shorter words, or fewer"
            )
        # An edge holds the tokens of all label words behind one prompt.
        beside = sum(max(0, n - 1) for n in pieces) - (max(pieces) - 1)
        self.max_tokens = min(limit.max_tokens, MAX_SCORED_TOKENS - beside)
        if max(counts) + _LEAST_ROOM > self.max_tokens:
            raise TextError(
                f"text.prompt: {max(counts)} tokens with the label word {self._longest!r}; of "
                f"{self.max_tokens} at least {_LEAST_ROOM} must be left for the text: shorten the "
                "prompt or raise finetune.max_tokens"
            )

    def prompt(self, text: str) -> str:
        """What the model reads."""
        return self._template.replace("{text}", text)

    def cut(self, texts: Sequence[str]) -> list[str]:
        """The texts, those that are too long without their front."""
        long = _CHARACTERS_PER_TOKEN * self.max_tokens
        counts = self._limit.count([self._whole(text[-long:]) for text in texts])
        return [
            text if count <= self.max_tokens and len(text) <= long else self._without_front(text)
            for text, count in zip(texts, counts, strict=True)
        ]

    def _whole(self, text: str) -> str:
        return self.prompt(text) + self._longest

    def _without_front(self, text: str) -> str:
        """The longest end of the text that fits, to a token."""
        n_characters = _CHARACTERS_PER_TOKEN * self.max_tokens
        while n_characters < len(text) and self._excess(text[-n_characters:]) <= 0:
            n_characters *= 2
        text = text[-n_characters:]
        while text and self._excess(text) > 0:
            text = text[self._characters_to_lose(text) :]
        return text

    def _excess(self, text: str) -> int:
        return self._limit.count([self._whole(text)])[0] - self.max_tokens

    def _characters_to_lose(self, text: str) -> int:
        """Characters of a text that is too long which its first tokens cover; as many tokens as
        are too many."""
        [spans] = self._limit.spans([self._whole(text)])
        # The text may stand in the prompt more than once: each time it gets shorter.
        n = math.ceil((len(spans) - self.max_tokens) / self._template.count("{text}"))
        begins = self._template.index("{text}")
        inside = [end - begins for _, end in spans if begins < end <= begins + len(text)]
        # A sign of several tokens goes as a whole.
        return max(1, inside[min(n, len(inside)) - 1] if inside else len(text))
