"""Rows of a TSV, CSV or JSONL file, each with the place where a user finds it.

CSV is RFC 4180 in the strict reading of Python's csv; TSV is IANA's text/tab-separated-values,
which has no quotation; JSONL is one JSON object a line.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from hil.contract import TextError

Record = tuple[str, Mapping[str, Any]]
"""The place of a row, as "row 5 (line 7)", and its fields by column name. The line is named where
the rows before it have line breaks of their own."""

TWICE: Final = object()
"""Stands for the fields of a column name that is there more than once."""

_LONGEST_FIELD: Final = 2**31 - 1  # what a C long holds everywhere
_SHOWN: Final = 40
_UNFIT = re.compile("[\0\ud800-\udfff]")


def read_table(path: Path, columns: Sequence[str]) -> list[Record]:
    """The rows of a file, read by the ending of its name.

    Bytes that are not UTF-8 are kept as half surrogates: `plain_text` refuses them where they are
    used.

    Args:
        path: a file that ends with .tsv, .csv or .jsonl.
        columns: names of the columns of a TSV or CSV without a header; empty: the first row has
            them.
    Raises:
        TextError: the file is missing, empty, of another encoding or ending, or a row is damaged.
    """
    try:
        _check_bytes(path)
        # newline="": a line ends at CR or LF alone; newlines in quoted fields stay as they are.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            match path.suffix.lower():
                case ".jsonl":
                    rows = list(_json_rows(file, path))
                case ".tsv" | ".csv" as ending:
                    with _long_fields():
                        rows = list(_table_rows(file, path, ending, columns))
                case ending:
                    raise TextError(
                        f"text file {path}: unknown ending {ending!r}; known are .tsv, .csv and "
                        ".jsonl"
                    )
    except OSError as error:
        raise TextError(
            f"text file {path}: {error.strerror}; set text.path to a TSV, CSV or JSONL file"
        ) from error
    if not rows:
        raise TextError(
            f"text file {path}: no rows below the header; where the first line is text already, "
            "name the columns with text.columns"
        )
    return rows


def plain_text(value: Any, column: str, place: str) -> str:
    """A field as text: numbers as they are written, true and false in lower case, "" for null.

    Args:
        value: a field of a Record.
        column, place: where it is, for the message.
    Raises:
        TextError: it is a list, an object, or holds what no UTF-8 text can hold.
    """
    where = f"{place}, column {column!r}"
    if value is TWICE:
        raise TextError(f"{where}: two columns have this name; rename one")
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise TextError(f"{where}: holds {shown(value)}; one text or number is needed")
    text = str(value)
    if found := _UNFIT.search(text):
        raise TextError(f"{where}, character {found.start() + 1}: {_unfit(found[0])}")
    return text


def shown(value: object) -> str:
    """A value for a message: on one line, and short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _unfit(sign: str) -> str:
    if sign == "\0":
        return "a NUL, which is no text; take it out, or convert the file to UTF-8"
    if "\udc80" <= sign <= "\udcff":
        return (
            f"byte 0x{ord(sign) - 0xDC00:02x} is not UTF-8; convert the file, for example with "
            "iconv -f LATIN1 -t UTF-8"
        )
    return f"\\u{ord(sign):04x} is half of a surrogate pair; write both halves, or the sign itself"


def _check_bytes(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4096)
        if not head.removeprefix(b"\xef\xbb\xbf").strip() and not file.read().strip():
            raise TextError(f"text file {path}: empty; at least two rows of text are needed")
    # Two bytes a sign: a byte order mark, or a NUL in every other byte of plain English.
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or 4 * head.count(0) > len(head):
        raise TextError(
            f"text file {path}: row 1 is UTF-16 or UTF-32; convert the file, for example with "
            "iconv -f UTF-16 -t UTF-8"
        )


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table_rows(file: TextIO, path: Path, ending: str, columns: Sequence[str]) -> Iterator[Record]:
    names = list(columns)
    for place, cells in _cells(file, path, ending):
        blank = len(cells) < 2 and not "".join(cells).strip()
        if not cells or (blank and len(names) != 1):
            continue  # an empty line is no row
        if not names:
            names = cells
        elif len(cells) == len(names):
            yield place, _by_name(zip(names, cells, strict=True))
        else:
            raise TextError(f"text file {path}: {place}, {_ragged(names, cells, ending)}")


def _cells(file: TextIO, path: Path, ending: str) -> Iterator[tuple[str, list[str]]]:
    if ending == ".tsv":
        table = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        table = csv.reader(file, strict=True)
    row = 0
    while True:
        row += 1
        place = _place(row, table.line_num + 1)
        try:
            yield place, next(table)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quotation mark is not closed" if "unexpected end" in str(error) else str(error)
            raise TextError(
                f"text file {path}: {place}: {why}; a CSV puts a text with commas, line breaks or "
                "quotation marks between quotation marks, and doubles those inside"
            ) from error


def _ragged(names: Sequence[str], cells: Sequence[str], ending: str) -> str:
    at = min(len(names), len(cells))
    if len(cells) < len(names):
        what = f"column {names[at]!r}: missing"
    else:
        what = f"column {at + 1}: {shown(cells[at])} has no column"
    cure = (
        "a TSV has no quotation, so its texts hold no tabs or line breaks: use a CSV or JSONL"
        if ending == ".tsv"
        else "put a text with commas or line breaks between quotation marks"
    )
    return f"{what}, for {len(cells)} fields stand under {len(names)} names; {cure}"


def _json_rows(file: TextIO, path: Path) -> Iterator[Record]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = f"text file {path}: row {number}"
        try:
            record = json.loads(
                line.rstrip("\r\n"),
                object_pairs_hook=_by_name,
                parse_int=str,  # numbers stay as they are written
                parse_float=str,
                parse_constant=str,
            )
        except json.JSONDecodeError as error:
            raise TextError(
                f"{place}, character {error.colno}: not JSON: {error.msg}; a JSONL has one whole "
                "object a line"
            ) from error
        except RecursionError as error:
            raise TextError(f"{place}: nested too deeply; put the text on its top level") from error
        if not isinstance(record, dict):
            raise TextError(f'{place} is {shown(record)}, not an object; write {{"text": ...}}')
        yield f"row {number}", record


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields = list(pairs)
    record = dict(fields)
    if len(record) < len(fields):
        counts = Counter(name for name, _ in fields)
        record |= {name: TWICE for name, count in counts.items() if count > 1}
    return record


def _place(row: int, line: int) -> str:
    return f"row {row}" if row == line else f"row {row} (line {line})"
