"""Words, the lexicon of a base model, and how hard a batch of text is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import regex

from hil.contract import ModelError, TextState

SAMPLE_WORDS = 2000
"""Entropy grows with the number of words it is taken over, so every batch is measured on at most
this many."""

LONGEST_WORD: Final = 64
"""A longer run of letters is no word of any language; it counts as several words of this length."""

# Scripts that are written without blanks. Unicode's default rules (UAX #29, WB999) break a text
# between any two of these letters, and leave more to dictionaries.
_UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS: Final = rf"[\p{{L}}--[{_UNSPACED}]][[\p{{L}}\p{{M}}]--[{_UNSPACED}]]*+"
_LETTER_ALONE: Final = rf"[\p{{L}}&&[{_UNSPACED}]]\p{{M}}*+"
_WORD: Final = regex.compile(rf"{_LETTER_ALONE}|{_LETTERS}(?:['’-]{_LETTERS})*+", regex.VERSION1)
_UNSPACED_WORD: Final = regex.compile(_LETTER_ALONE, regex.VERSION1)


def words(text: str) -> list[str]:
    """The words of a text in lower case.

    A word is a run of letters with their marks, inner apostrophes and hyphens included. In a script
    that is written without blanks (Chinese, Thai, ...) each letter is a word.

    Source: Unicode Standard Annex #29, Unicode Text Segmentation, default word boundaries.
    """
    found: list[str] = []
    for run in _WORD.findall(text.lower()):
        found += (run[i : i + LONGEST_WORD] for i in range(0, len(run), LONGEST_WORD))
    return found


def as_in_text(word: str) -> str:
    """A word with the blank that stands in front of it in a text, where its script has blanks."""
    return word if _UNSPACED_WORD.fullmatch(word) else f" {word}"


def lexical_entropy_bits(sample: Sequence[str]) -> float:
    """Shannon entropy of the word distribution in bits per word; 0 for no words."""
    n = len(sample)
    return sum(c / n * math.log2(n / c) for c in Counter(sample).values()) if n else 0.0


def load_lexicon(path: Path) -> frozenset[str]:
    """The words that a base model saw in pretraining, one a line.

    Raises:
        ModelError: there is no such file.
    """
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise ModelError(
            f"lexicon {path}: {error.strerror}; make it with cloud.text.lexicon.save_lexicon"
        ) from error


def save_lexicon(path: Path, texts: Iterable[str]) -> int:
    """Write the sorted words of `texts`, one a line, and return how many there are."""
    found: set[str] = set()
    for text in texts:
        found.update(words(text))
    path.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")
    return len(found)


def measure_text(
    texts: Iterable[str],
    *,
    domain: str,
    lexicon: frozenset[str],
    count_pieces: Callable[[str], int],
) -> TextState:
    """How hard a batch of texts is, measured on its first SAMPLE_WORDS words.

    Args:
        texts: the batch, in order.
        domain: name to carry along.
        lexicon: words that the base model knows, lower case.
        count_pieces: tokenizer pieces of one word, with its leading blank where it has one.
    Returns:
        Entropy, also divided by log2 of the sample's length (1 when no word comes twice); OOV rate;
        pieces per word. Zeros, and one piece per word, for a batch without words.
    """
    sample: list[str] = []
    for text in texts:
        sample += words(text)
        if len(sample) >= SAMPLE_WORDS:
            break
    sample = sample[:SAMPLE_WORDS]
    entropy_bits = lexical_entropy_bits(sample)
    pieces = {word: count_pieces(as_in_text(word)) for word in sorted(set(sample))}
    return TextState(
        domain=domain,
        lexical_entropy_bits=entropy_bits,
        lexical_entropy=entropy_bits / math.log2(len(sample)) if len(sample) > 1 else 0.0,
        oov_rate=sum(word not in lexicon for word in sample) / len(sample) if sample else 0.0,
        pieces_per_word=sum(pieces[word] for word in sample) / len(sample) if sample else 1.0,
    )
