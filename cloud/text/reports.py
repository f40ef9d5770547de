"""Seeded generator of short field reports with a verdict: the default text of the kit.

A report is one to three clauses, "the <noun> <verb> [not] [adverb] <adjective>", joined by "and" or
"but"; its verdict is good or bad. A clause that is joined by "and" agrees with its neighbour; "but"
turns the verdict, so the last clause decides. The dials of a domain set how hard the language is
(clauses, negation, contrast, unknown nouns) and how many polarity words were invented for it:
nobody has seen those before, so they count as out of vocabulary, and the number of them decides how
much rank an update needs.

Only raw 64-bit words of the generator's bit stream are used, which numpy keeps stable between
versions: the same seed gives the same text everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LABEL_WORDS = (" bad", " good")
"""The words that answer for label 0 and label 1."""

NOUNS = (
    "valve pump rotor antenna cable filter sensor motor gearbox bearing clamp hinge relay switch "
    "lamp heater cooler "
    "turbine blade boiler pipe tank gauge meter panel display battery charger inverter fuse "
    "breaker socket plug "
    "connector board chip clock mixer amplifier receiver transmitter tower mast dish crane winch "
    "hoist belt chain "
    "pulley piston nozzle seal gasket spring lever pedal wheel axle brake engine hull deck anchor "
    "rudder ladder"
).split()
VERBS = "was seemed looked stayed remained proved felt appeared".split()
ADVERBS = "very rather quite truly clearly fairly really mostly".split()
GOOD = (
    "good reliable sturdy precise quiet clean stable smooth robust safe solid accurate efficient "
    "strong bright steady "
    "flawless excellent durable fast sound healthy tight fresh superb sharp handy neat perfect fine"
).split()
BAD = (
    "bad faulty weak noisy dirty unstable rough broken unsafe loose wrong wasteful frail dim "
    "shaky cracked terrible "
    "brittle slow damaged sick leaky stale poor blunt clumsy sloppy useless rotten ruined"
).split()

_ONSETS = "b bl br d dr f fl g gl gr h k kl kr l m n p pl pr r s sk st t tr v vl w y z zh".split()
_VOWELS = "a e i o u ai ei oo ua ie".split()
_CODAS = ("", "", "", "k", "l", "m", "n", "nd", "rk", "s", "sh", "t", "x", "zz")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDials:
    """How hard a domain of reports is.

    Attributes:
        clauses_max: clauses of a report are drawn uniformly from 1 to this number.
        negation: probability that a clause says its adjective with "not", 0..1.
        contrast: probability that a report of two or more clauses has one "but", 0..1.
        invented_words: number of invented polarity words, half of them good; 0 = none.
        invented_share: share of adjectives taken from the invented words, 0..1.
        invented_nouns: number of invented nouns that replace the known ones; 0 = none.
        zipf: exponent of the word frequencies, 0 = uniform.
    """

    clauses_max: int = 1
    negation: float = 0.0
    contrast: float = 0.0
    invented_words: int = 0
    invented_share: float = 0.0
    invented_nouns: int = 0
    zipf: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """One report, without its prompt, and its verdict (0 = bad, 1 = good)."""

    text: str
    label: int


def rng_of(*parts: object) -> np.random.Generator:
    """A generator whose stream depends on the given parts only, through SHA-256 of their text."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def prompt(text: str) -> str:
    """The text as the model is asked about it; one of LABEL_WORDS is the next word."""
    return f"report: {text}.\nverdict:"


class ReportWriter:
    """Writes the reports of one domain: its invented words are fixed by (seed, domain).

    Args:
        domain: name of the domain.
        dials: its difficulty.
        seed: seed of the vocabulary, ≥ 0.
    """

    def __init__(self, domain: str, dials: ReportDials, seed: int) -> None:
        self.domain = domain
        self._dials = dials
        rng = rng_of("report vocabulary", domain, seed)
        taken = {*NOUNS, *VERBS, *ADVERBS, *GOOD, *BAD}
        invented = [_invent(rng, taken) for _ in range(dials.invented_words)]
        nouns = [_invent(rng, taken) for _ in range(dials.invented_nouns)]
        self._known = (_Words(BAD, dials.zipf), _Words(GOOD, dials.zipf))
        self._invented = (
            (_Words(invented[0::2], dials.zipf), _Words(invented[1::2], dials.zipf))
            if invented
            else None
        )
        self._nouns = _Words(nouns or NOUNS, dials.zipf)
        self._verbs, self._adverbs = _Words(VERBS, 0.0), _Words(ADVERBS, 0.0)

    def write(self, n: int, rng: np.random.Generator) -> list[Report]:
        """`n` reports with verdicts drawn evenly."""
        return [self._report(rng) for _ in range(n)]

    def _report(self, rng: np.random.Generator) -> Report:
        dials = self._dials
        label = _below(rng, 2)
        n_clauses = 1 + _below(rng, dials.clauses_max)
        # The clause in front of which "but" stands; 0 = the report has none.
        turn = (
            1 + _below(rng, n_clauses - 1)
            if n_clauses > 1 and _uniform(rng) < dials.contrast
            else 0
        )
        words: list[str] = []
        for i in range(n_clauses):
            if i:
                words.append("but" if i == turn else "and")
            words += self._clause(label if i >= turn else 1 - label, rng)
        return Report(" ".join(words), label)

    def _clause(self, polarity: int, rng: np.random.Generator) -> list[str]:
        dials = self._dials
        negated = _uniform(rng) < dials.negation
        source = (
            self._invented
            if self._invented and _uniform(rng) < dials.invented_share
            else self._known
        )
        adjective = source[1 - polarity if negated else polarity].draw(rng)
        adverb = [self._adverbs.draw(rng)] if _uniform(rng) < 0.4 else []
        return [
            "the",
            self._nouns.draw(rng),
            self._verbs.draw(rng),
            *(["not"] if negated else []),
            *adverb,
            adjective,
        ]


class _Words:
    """A word list with Zipf frequencies rank^-s."""

    def __init__(self, words: Sequence[str], zipf: float) -> None:
        self._words = words
        weights = np.arange(1, len(words) + 1, dtype=np.float64) ** -zipf
        self._cumulative = np.cumsum(weights) / weights.sum()

    def draw(self, rng: np.random.Generator) -> str:
        return self._words[
            min(int(np.searchsorted(self._cumulative, _uniform(rng))), len(self._words) - 1)
        ]


def _invent(rng: np.random.Generator, taken: set[str]) -> str:
    while True:
        syllables = [
            _ONSETS[_below(rng, len(_ONSETS))] + _VOWELS[_below(rng, len(_VOWELS))]
            for _ in range(2)
        ]
        word = "".join(syllables) + _CODAS[_below(rng, len(_CODAS))]
        if word not in taken:
            taken.add(word)
            return word


def _uniform(rng: np.random.Generator) -> float:
    """A number in [0, 1) from the 53 high bits of one raw word."""
    return (int(rng.bit_generator.random_raw()) >> 11) * 2.0**-53


def _below(rng: np.random.Generator, n: int) -> int:
    return int(_uniform(rng) * n)
