"""A user's text as a domain: its rows checked, cut to the token limit, and split into what is
trained on and what is scored.

Nothing changes in silence: what a rule leaves out or cuts is counted in the domain's notes. No text
that is scored is trained on; two texts are the same when they differ in blanks or Unicode's
composition (NFC) alone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from cloud.text.reports import rng_of
from cloud.text.sources import Domain, Example
from cloud.text.table_file import Record, plain_text, read_table, shown
from cloud.text.token_limit import PromptLimit, TokenLimit
from hil.contract import LabelQuestion, ScoreSet, TextError
from hil.settings import FileText, HubText

HELD_OUT: Final = 10
"""One text of so many is scored, where no others are named for that."""

T = TypeVar("T")


def file_domain(name: str, settings: FileText, seed: int, limit: TokenLimit) -> Domain:
    """The domain of a file, scored on another file or on a tenth of its own texts.

    Raises:
        TextError: a file is missing, a row is damaged, or there is too little text.
    """
    rows = _Rows(settings, limit)
    path = Path(settings.path)
    source = f"text file {path}"
    train = rows.items(source, read_table(path, settings.columns))
    if not settings.score_path:
        return rows.split(name, source, train, rng_key=("file", path.name, seed))
    score_path = Path(settings.score_path)
    score = rows.items(f"text file {score_path}", read_table(score_path, settings.columns))
    return rows.domain(name, source, train, score)


def hub_domain(name: str, settings: HubText, limit: TokenLimit) -> Domain:
    """The domain of a Hugging Face data set.

    Raises:
        TextError: the data set or the package `datasets` is missing, a row is damaged, or there is
            too little text.
    """
    try:
        import datasets
    except ImportError as error:
        raise TextError(
            "text.kind = 'hub' needs the package datasets; type: pip install datasets"
        ) from error
    try:
        loaded = datasets.load_dataset(settings.name, settings.subset or None)
        splits = [loaded[split] for split in (settings.split, settings.score_split)]
    except (OSError, KeyError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TextError(f"data set {settings.name!r} cannot be loaded: {reason}") from error
    rows = _Rows(settings, limit)
    source = f"data set {settings.name!r}"
    train, score = (
        rows.items(f"{source}, {part}", [(f"row {i}", row) for i, row in enumerate(split, 1)])
        for part, split in zip((settings.split, settings.score_split), splits, strict=True)
    )
    return rows.domain(name, source, train, score)


@dataclass(frozen=True, slots=True)
class _Item:
    """A row that has text: its text as it is compared, and the examples that are made of it."""

    key: str
    examples: tuple[Example, ...]


class _Rows:
    """Makes a domain of rows, and notes what it leaves out.

    Args:
        settings: columns, label words and prompt.
        limit: longest example.
    Raises:
        TextError: the prompt or the label words do not fit.
    """

    def __init__(self, settings: FileText | HubText, limit: TokenLimit) -> None:
        self._settings, self._limit = settings, limit
        self._words = tuple(dict.fromkeys(settings.label_words.values()))
        self._notes: list[str] = []
        if settings.label_column:
            self._prompts = PromptLimit(limit, settings.prompt, self._words)

    # ---------------------------------------------------------------------------------- from rows

    def items(self, source: str, records: Iterable[Record]) -> list[_Item]:
        """The rows that have text. Raises TextError for a row that is damaged, or if none has."""
        settings = self._settings
        texts: list[str] = []
        words: list[str] = []
        places: list[str] = []
        blank: list[str] = []
        for place, record in records:
            text = _field(record, settings.text_column, "text_column", f"{source}: {place}")
            if not text.strip():
                blank.append(place)
                continue
            texts.append(text)
            places.append(place)
            if settings.label_column:
                words.append(self._word(record, f"{source}: {place}"))
        self._note(blank, "row", f"of {source} without text left out")
        if not texts:
            raise TextError(
                f"{source}: no row has text in column {settings.text_column!r}; see "
                "text.text_column"
            )
        if settings.label_column:
            return self._labelled(source, places, texts, words)
        return self._prose(source, places, texts)

    def _word(self, record: Mapping[str, Any], place: str) -> str:
        settings = self._settings
        label = _field(record, settings.label_column, "label_column", place)
        if label not in settings.label_words:
            raise TextError(
                f"{place}, column {settings.label_column!r}: label {shown(label)} is not in "
                f"text.label_words ({', '.join(settings.label_words)}); add it there with its word"
            )
        return settings.label_words[label]

    def _labelled(
        self, source: str, places: Sequence[str], texts: Sequence[str], words: Sequence[str]
    ) -> list[_Item]:
        cut = self._prompts.cut(texts)
        long = [p for p, text, end in zip(places, texts, cut, strict=True) if text != end]
        limit = f"{self._prompts.max_tokens} tokens (finetune.max_tokens)"
        self._note(long, "text", f"of {source} cut at the front to {limit}")
        return [
            _Item(
                _key(text),
                (Example(text=text, prompt=self._prompts.prompt(text), label_word=word),),
            )
            for text, word in zip(cut, words, strict=True)
        ]

    def _prose(self, source: str, places: Sequence[str], texts: Sequence[str]) -> list[_Item]:
        items: list[_Item] = []
        short: list[str] = []
        for place, text in zip(places, texts, strict=True):
            chunks = self._limit.chunks(text)
            # A single token leaves nothing to predict.
            counts = self._limit.count(chunks)
            long = [chunk for chunk, n in zip(chunks, counts, strict=True) if n > 1]
            short += [place] * (len(chunks) - len(long))
            items.append(_Item(_key(text), tuple(Example(text=c, prompt=c) for c in long)))
        self._note(short, "chunk", f"of {source} of a single token left out")
        return items

    # ---------------------------------------------------------------------------------- to domains

    def split(
        self, name: str, source: str, items: Sequence[_Item], *, rng_key: tuple[object, ...]
    ) -> Domain:
        """A domain that is scored on a tenth of its distinct texts, each of them once."""
        words: dict[str, set[str]] = {}
        for item in items:
            words.setdefault(item.key, set()).update(e.label_word for e in item.examples)
        clear = [key for key, found in words.items() if len(found) == 1]
        if n_unclear := sum(len(found) > 1 for found in words.values()):
            self._notes.append(
                f"{n_unclear:,} {_plural('text', n_unclear)} with different labels trained on, but "
                "not scored"
            )
        if len(clear) < 2:
            raise TextError(
                f"{source}: {len(clear)} different {_plural('text', len(clear))} to split; give "
                "at least two, or name others to score on with text.score_path"
            )
        order = [clear[i] for i in rng_of(*rng_key).permutation(len(clear))]
        order.sort(key=lambda key: min(words[key]))  # each label gets its share
        step = max(HELD_OUT, math.ceil(len(order) / self._settings.score_examples))
        chosen = set(order[min(step // 2, len(order) // 2) :: step])
        score = {item.key: item for item in items if item.key in chosen}
        return self.domain(name, source, items, list(score.values()), own=True)

    def domain(
        self,
        name: str,
        source: str,
        train: Sequence[_Item],
        score: Sequence[_Item],
        *,
        own: bool = False,
    ) -> Domain:
        """A domain that is trained on what is not scored.

        Args:
            name, source: what it is called, in rows and in messages.
            train, score: the rows; all of them are scored, if they are not too many.
            own: the scored ones are among those to train on, and each text counts once.
        Raises:
            TextError: nothing is left to train on, or all labels are the same.
        """
        given = [example for item in train for example in item.examples]
        scored = [example for item in score for example in item.examples]
        if own:
            scored = list({_key(example.text): example for example in scored}.values())
        taken = {_key(example.text) for example in scored}
        left = [example for example in given if _key(example.text) not in taken]
        if n := len(given) - len(left) - own * len(scored):
            self._notes.append(f"{n:,} {_plural('example', n)} not trained on: the text is scored")
        if not left or not scored:
            raise TextError(
                f"{source}: of {len(given)} examples {len(left)} are left to train on, beside "
                f"{len(scored)} to score on; both need text, and no text may stand in both"
            )
        self._check_labels(source, left, scored)
        asked = _spread(scored, self._settings.score_examples)
        if len(asked) < len(scored):
            self._notes.append(
                f"scored on {len(asked):,} of {len(scored):,} examples, evenly spread "
                "(text.score_examples)"
            )
        return Domain(
            name=name, train=left, score_set=self._score_set(name, asked), notes=tuple(self._notes)
        )

    def _check_labels(
        self, source: str, train: Sequence[Example], score: Sequence[Example]
    ) -> None:
        if not self._settings.label_column:
            return
        words = {example.label_word for example in train}
        asked = {example.label_word for example in score}
        if len(words | asked) < 2:
            raise TextError(
                f"{source}, column {self._settings.label_column!r}: all rows have the label for "
                f"{min(words)!r}; there is nothing to tell apart, give rows of two labels"
            )
        if unseen := asked - words:
            self._notes.append(
                f"scored on the label {_plural('word', len(unseen))} "
                f"{', '.join(map(repr, sorted(unseen)))}, which no example to train on has"
            )
        if len(asked) < 2:
            self._notes.append(f"all that is scored has the label word {min(asked)!r}")

    def _score_set(self, name: str, asked: Sequence[Example]) -> ScoreSet:
        if not self._settings.label_column:
            return ScoreSet(name=name, chunks=tuple(example.prompt for example in asked))
        questions = (
            LabelQuestion(
                prompt=example.prompt,
                labels=self._words,
                answer=self._words.index(example.label_word),
            )
            for example in asked
        )
        return ScoreSet(name=name, questions=tuple(questions))

    def _note(self, places: Sequence[str], thing: str, what: str) -> None:
        if places:
            n = len(places)
            self._notes.append(f"{n:,} {_plural(thing, n)} {what}; the first is in {places[0]}")


def _field(record: Mapping[str, Any], column: str, key: str, place: str) -> str:
    if column not in record:
        has = ", ".join(shown(name) for name in record)
        raise TextError(f"{place}: no column {column!r}; it has {has} (see text.{key})")
    return plain_text(record[column], column, place)


def _key(text: str) -> str:
    """A text as it is compared with others."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _spread(items: Sequence[T], n: int) -> list[T]:
    """At most `n` of the items, as far apart as can be."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"
