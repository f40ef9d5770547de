"""Domains of text, what the cloud fine-tunes on and the edge is scored on, and those that ship."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from cloud.text.library_docs import HELD_OUT, package_prose
from cloud.text.reports import LABEL_WORDS, ReportDials, ReportWriter, prompt, rng_of
from cloud.text.token_limit import CHUNK_WORDS
from hil.contract import LabelQuestion, ScoreSet, TextError
from hil.settings import DefaultText


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example.

    Attributes:
        text: the bare text, which the difficulty is measured on.
        prompt: what the model reads; for language-model text the same as `text`.
        label_word: the word to answer with, leading blank included; "" for language-model text.
    """

    text: str
    prompt: str
    label_word: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain of text: examples to train on, and the set that the edge scores itself on (disjoint
    sources).

    Attributes:
        notes: what was left out, cut or divided, and by which rule; a phrase each.
    """

    name: str
    train: Sequence[Example]
    score_set: ScoreSet
    notes: tuple[str, ...] = ()


class DomainSampler:
    """Draws examples of one domain in epochs without repetition; `position` is all its state.

    Args:
        domain: what to draw from; at least one training example.
        seed: decides the order of every epoch.
    """

    def __init__(self, domain: Domain, seed: int) -> None:
        self.domain = domain
        self._seed = seed
        self.position = 0

    def draw(self, n: int) -> list[Example]:
        """The next `n` examples."""
        drawn = [self.domain.train[i] for i in self._indices(self.position, n)]
        self.position += n
        return drawn

    def _indices(self, start: int, n: int) -> list[int]:
        size = len(self.domain.train)
        indices: list[int] = []
        for epoch in range(start // size, (start + n - 1) // size + 1):
            order = np.random.default_rng([self._seed, epoch]).permutation(size)
            low = max(start - epoch * size, 0)
            high = min(start + n - epoch * size, size)
            indices += order[low:high].tolist()
        return indices


def default_domain(name: str, settings: DefaultText, seed: int) -> Domain:
    """One domain of the default text by its name.

    "known": reports in words of the pretraining; "jargon40": one clause, every polarity word one of
    40 invented ones; "mixed200": up to three clauses with negation and contrast, most polarity
    words from 200 invented ones, invented nouns; "email+http": prose of these standard-library
    packages.

    Raises:
        TextError: no such domain.
    """
    if match := re.fullmatch(r"(known|jargon|mixed)(\d*)", name):
        kind, number = match[1], int(match[2] or 0)
        if (number == 0) != (kind == "known") or number % 2 or number > 10_000:
            raise TextError(
                f"text domain {name!r}: write known, or jargon<N> or mixed<N> with an even N ≤ "
                "10000"
            )
        return _report_domain(name, _dials(kind, number), settings, seed)
    packages = name.split("+")
    if set(packages) <= set(HELD_OUT):
        return _prose_domain(name, packages, settings, seed)
    raise TextError(
        f"text domain {name!r}: known ones are known, jargon<N>, mixed<N>, and "
        f"{', '.join(HELD_OUT)} joined by +"
    )


def _dials(kind: str, number: int) -> ReportDials:
    if kind == "known":
        return ReportDials(clauses_max=3, negation=0.3, contrast=0.5)
    if kind == "jargon":
        return ReportDials(invented_words=number, invented_share=1.0)
    return ReportDials(
        clauses_max=3,
        negation=0.2,
        contrast=0.4,
        invented_words=number,
        invented_share=0.85,
        invented_nouns=100,
        zipf=0.5,
    )


def _report_domain(name: str, dials: ReportDials, settings: DefaultText, seed: int) -> Domain:
    writer = ReportWriter(name, dials, seed)
    train = writer.write(settings.train_examples, rng_of("train", name, seed))
    score = writer.write(settings.score_examples, rng_of("score", name, seed))
    return Domain(
        name=name,
        train=[
            Example(text=r.text, prompt=prompt(r.text), label_word=LABEL_WORDS[r.label])
            for r in train
        ],
        score_set=ScoreSet(
            name=name,
            questions=tuple(
                LabelQuestion(prompt=prompt(r.text), labels=LABEL_WORDS, answer=r.label)
                for r in score
            ),
        ),
    )


def _prose_domain(name: str, packages: Sequence[str], settings: DefaultText, seed: int) -> Domain:
    chunks = _chunks(chain.from_iterable(map(package_prose, packages)), min_words=8)
    order = rng_of("prose", name, seed).permutation(len(chunks))
    # A fifth is held out; a hundred chunks of 32 words already give a standard error of about 0.02
    # nats.
    n_score = min(len(chunks) // 5, settings.score_examples)
    score, train = order[:n_score], order[n_score:][: settings.train_examples]
    return Domain(
        name=name,
        train=[Example(text=chunks[i], prompt=chunks[i]) for i in train],
        score_set=ScoreSet(name=name, chunks=tuple(chunks[i] for i in score)),
    )


def _chunks(texts: Iterable[str], *, min_words: int) -> list[str]:
    """Texts cut to at most CHUNK_WORDS words, each once; pieces shorter than `min_words` are
    dropped."""
    pieces: list[str] = []
    for text in texts:
        parts = text.split()
        starts = range(0, len(parts), CHUNK_WORDS)
        pieces += [
            " ".join(parts[i : i + CHUNK_WORDS]) for i in starts if len(parts) - i >= min_words
        ]
    return list(dict.fromkeys(pieces))
