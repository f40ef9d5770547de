"""Text sources: what the cloud fine-tunes on, what the edge is scored on, and the stream of domains
over rounds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from cloud.text.library_docs import HELD_OUT, package_prose
from cloud.text.reports import LABEL_WORDS, ReportDials, ReportWriter, prompt, rng_of
from hil.contract import LabelQuestion, ScoreSet, TextError
from hil.settings import DefaultText, FileText, HubText

CHUNK_WORDS = 32
"""Words of one chunk of language-model text."""

MAX_LABELLED_WORDS = 120
"""A longer labelled text keeps its last words: the edge answers within a context of 1,024
tokens."""


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
    sources)."""

    name: str
    train: Sequence[Example]
    score_set: ScoreSet


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


def load_domains(
    settings: DefaultText | FileText | HubText, seed: int
) -> tuple[dict[str, Domain], list[str]]:
    """The domains of a text source, and the stream: the domain of each round (repeated from its
    start when it ends).

    Raises:
        TextError: a file, column, label, domain or package is missing, or there is too little text.
    """
    match settings:
        case DefaultText():
            domains = {
                name: default_domain(name, settings, seed)
                for name in dict.fromkeys(settings.stream)
            }
            stream: list[str] = []
            for name in settings.stream:
                stream += settings.dwell * [name]
            return domains, stream
        case FileText():
            domain = _file_domain(settings, seed)
        case HubText():
            domain = _hub_domain(settings)
    return {domain.name: domain}, [domain.name]


# ----------------------------------------------------------------------------------- the default
# text


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


# --------------------------------------------------------------------------------------- user's
# text


def _file_domain(settings: FileText, seed: int) -> Domain:
    path = Path(settings.path)
    rows = _read_rows(path, settings.columns)
    if settings.score_path:
        score = _read_rows(Path(settings.score_path), settings.columns)
    else:
        order = rng_of("file", path.name, seed).permutation(len(rows))
        n_score = max(1, len(rows) // 10)
        rows, score = [rows[i] for i in order[n_score:]], [rows[i] for i in order[:n_score]]
    return _user_domain(path.stem, rows, score, settings, str(path))


def _hub_domain(settings: HubText) -> Domain:
    try:
        import datasets
    except ImportError as error:
        raise TextError(
            "text.kind = 'hub' needs the package datasets; type: pip install datasets"
        ) from error
    try:
        loaded = datasets.load_dataset(settings.name, settings.subset or None)
        train, score = loaded[settings.split], loaded[settings.score_split]
    except (OSError, KeyError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TextError(f"data set {settings.name!r} cannot be loaded: {reason}") from error
    as_text = [
        [{key: str(value) for key, value in row.items()} for row in rows] for rows in (train, score)
    ]
    return _user_domain(
        settings.name.split("/")[-1], as_text[0], as_text[1], settings, settings.name
    )


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a TSV, CSV or JSONL file by column name, every value as text."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(
            f"text file {path}: {error.strerror}; set text.path to a TSV, CSV or JSONL file"
        ) from error
    except UnicodeDecodeError as error:
        raise TextError(
            f"text file {path}: not UTF-8 at byte {error.start}; convert it first"
        ) from error
    if not text.strip():
        raise TextError(f"text file {path}: empty; at least two lines of text are needed")
    if path.suffix == ".jsonl":
        return [
            _json_row(line, path, number)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    if path.suffix not in (".tsv", ".csv"):
        raise TextError(
            f"text file {path}: unknown ending {path.suffix!r}; known are .tsv, .csv and .jsonl"
        )
    # A TSV of sentences quotes nothing: a lone quotation mark is text.
    lines = text.splitlines()
    table = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if path.suffix == ".tsv"
        else csv.reader(lines)
    )
    try:
        cells = [row for row in table if row]
    except csv.Error as error:
        raise TextError(f"text file {path}: line {table.line_num}: {error}") from error
    names = list(columns) or cells.pop(0)
    for number, row in enumerate(cells, 1 if columns else 2):
        if len(row) != len(names):
            raise TextError(
                f"text file {path}: line {number} has {len(row)} columns, not {len(names)}"
            )
    return [dict(zip(names, row, strict=True)) for row in cells]


def _json_row(line: str, path: Path, number: int) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise TextError(f"text file {path}: line {number} is not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise TextError(f"text file {path}: line {number} is not a JSON object")
    return {str(key): str(value) for key, value in row.items()}


def _user_domain(
    name: str,
    train: Sequence[Mapping[str, str]],
    score: Sequence[Mapping[str, str]],
    settings: FileText | HubText,
    source: str,
) -> Domain:
    for column in (settings.text_column, settings.label_column):
        for row in (*train[:1], *score[:1]):
            if column and column not in row:
                has = ", ".join(map(repr, row))
                raise TextError(
                    f"{source}: no column {column!r}; it has {has} (see text.text_column, "
                    "text.columns)"
                )
    if settings.label_column:
        rows = [_labelled(row, settings, source) for row in train]
        asked = [_labelled(row, settings, source) for row in score[: settings.score_examples]]
        labels = tuple(settings.label_words.values())
        questions = [
            LabelQuestion(prompt=e.prompt, labels=labels, answer=labels.index(e.label_word))
            for e in asked
        ]
        held_out = ScoreSet(name=name, questions=tuple(questions))
    else:
        # One word alone leaves nothing to predict.
        texts, chunks = (
            _chunks((row[settings.text_column] for row in rows), min_words=2)
            for rows in (train, score)
        )
        rows = [Example(text=chunk, prompt=chunk) for chunk in texts]
        held_out = ScoreSet(name=name, chunks=tuple(chunks[: settings.score_examples]))
    if not rows or not (held_out.questions or held_out.chunks):
        raise TextError(
            f"{source}: {len(train)} rows to train on, {len(score)} to score on; text is needed "
            "in both"
        )
    return Domain(name=name, train=rows, score_set=held_out)


def _labelled(row: Mapping[str, str], settings: FileText | HubText, source: str) -> Example:
    text, label = (
        " ".join(row[settings.text_column].split()[-MAX_LABELLED_WORDS:]),
        row[settings.label_column],
    )
    if label not in settings.label_words:
        raise TextError(
            f"{source}: label {label!r} is not in text.label_words "
            f"({', '.join(settings.label_words)})"
        )
    prompt_text = settings.prompt.replace("{text}", text)
    return Example(text=text, prompt=prompt_text, label_word=settings.label_words[label])
