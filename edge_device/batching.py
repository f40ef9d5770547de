"""The input of one decode: pieces of sequences, packed into arrays and cut to what a context
holds.

Pure arithmetic on tokens and logits, so that it needs no llama.cpp.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Tokens = list[int]
Need = tuple[int, int, int]
"""Tokens of one decode, key-value cells, and sequences: of one item, or the most that there is room
for."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a sequence to be decoded: tokens from position `start` on, logits wanted after the
    last `n_wanted`."""

    seq: int
    tokens: Sequence[int]
    start: int
    n_wanted: int


@dataclass(frozen=True, slots=True)
class Question:
    """The tokens that all answers share, and the rest of each answer."""

    prefix: Tokens
    tails: list[Tokens]

    @property
    def branches(self) -> list[int]:
        """Indices of the tails longer than one token: they need positions behind the prefix."""
        return [i for i, tail in enumerate(self.tails) if len(tail) > 1]

    @property
    def cells(self) -> int:
        """Key-value cells taken while it is scored."""
        return len(self.prefix) + sum(len(tail) - 1 for tail in self.tails)


def normalised(text: str, how: str) -> str:
    """A text as its tokenizer wants it, where llama.cpp would not make it so.

    Args:
        how: what the GGUF says under hil.normalizer.
    """
    if how == "NFC":
        return unicodedata.normalize("NFC", text)
    if how == "one-blank" and text[:1] in (" ", "\u2581"):
        return text[1:]
    return text


def pack(
    pieces: Sequence[Piece],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]:
    """Token, position, sequence, and whether its logits are wanted (1 or 0), of every token of all
    pieces in order."""
    token = np.concatenate([np.asarray(piece.tokens, np.int32) for piece in pieces])
    pos = np.concatenate(
        [piece.start + np.arange(len(piece.tokens), dtype=np.int32) for piece in pieces]
    )
    seq = np.concatenate([np.full(len(piece.tokens), piece.seq, np.int32) for piece in pieces])
    wanted = np.concatenate([last(len(piece.tokens), piece.n_wanted) for piece in pieces])
    return token, pos, seq, wanted


def slices(wanted: NDArray[np.int8], max_tokens: int, max_outputs: int) -> Iterator[slice]:
    """Cuts of a token list that keep to the most tokens and the most outputs of one decode."""
    start, n_outputs = 0, 0
    for i, output in enumerate(wanted.tolist()):
        if i - start == max_tokens or n_outputs + output > max_outputs:
            yield slice(start, i)
            start, n_outputs = i, 0
        n_outputs += output
    yield slice(start, len(wanted))


def groups(items: Sequence[Item], needs: Sequence[Need], limits: Need) -> Iterator[list[Item]]:
    """Items in order, as many together as their needs fit the limits; at least one."""
    group: list[Item] = []
    used = np.zeros(3, np.int64)
    for item, need in zip(items, needs, strict=True):
        if group and (used + need > limits).any():
            yield group
            group, used = [], np.zeros(3, np.int64)
        group.append(item)
        used += need
    if group:
        yield group


def n_shared(sequences: Sequence[Tokens]) -> int:
    """Number of tokens that all sequences begin with."""
    columns = zip(*sequences, strict=False)
    return next(
        (i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences))
    )


def last(n_tokens: int, n_wanted: int) -> NDArray[np.int8]:
    """1 at the last n_wanted of n_tokens places and 0 before, int8[n_tokens]."""
    wanted = np.zeros(n_tokens, np.int8)
    wanted[n_tokens - n_wanted :] = 1
    return wanted


def any_constant(logits: NDArray[np.float32]) -> bool:
    """Whether a row of logits[n, n_vocab] holds one value only, as no computation with sound
    weights gives."""
    return bool((logits.max(axis=1) == logits.min(axis=1)).any())


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities in nats along the rows of logits[n, n_vocab], float64[n, n_vocab]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
