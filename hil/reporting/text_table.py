"""A table of plain text that fits the width of a terminal: no frames, nothing cut off."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len

_GAP: Final = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Heads and rows of text.

    Attributes:
        heads: one head a column. A head may take several lines.
        rows: each with one cell a column.
        title: a sentence above the table; "" for none.
        notes: sentences below it.
        text_columns: heads of the columns that are set flush left and wrapped where the table is
            too wide; the others hold numbers and are set flush right.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    text_columns: Sequence[str] = ()

    def lines(self, width: int, translate: Callable[[str], str] = str) -> list[str]:
        """The table as lines of at most `width` characters, words longer than that aside.

        Args:
            width: characters in a line.
            translate: what the console makes of a text; applied before anything is measured.
        """
        heads = [translate(head) for head in self.heads]
        rows = [[translate(cell) for cell in row] for row in self.rows]
        wraps = [head in self.text_columns for head in self.heads]
        widths = _widths(heads, rows, wraps, width)
        lines = [
            *_folded(translate(self.title), width),
            *_row(heads, widths, wraps, at_bottom=True),
            _GAP.join("-" * each for each in widths),
        ]
        for row in rows:
            lines += _row(row, widths, wraps)
        for note in self.notes:
            lines += _folded(translate(note), width)
        return lines


def _widths(
    heads: Sequence[str], rows: Sequence[Sequence[str]], wraps: Sequence[bool], limit: int
) -> list[int]:
    """Characters of each column. Heads are wrapped over numbers, and texts where room is short."""
    widths, least = [], []
    for k, head in enumerate(heads):
        cells = [row[k] for row in rows]
        need = max([1, _longest_word(head), *map(cell_len, cells)])
        widths.append(max(need, cell_len(head)) if wraps[k] else need)
        words = [1, _longest_word(head), *map(_longest_word, cells)]
        least.append(max(words) if wraps[k] else need)
    room = limit - len(_GAP) * (len(heads) - 1)
    while sum(widths) > room:
        # The column that can give most gives one character.
        spare = [have - need for have, need in zip(widths, least, strict=True)]
        if max(spare) <= 0:
            break
        widths[spare.index(max(spare))] -= 1
    return widths


def _row(
    cells: Sequence[str], widths: Sequence[int], wraps: Sequence[bool], *, at_bottom: bool = False
) -> list[str]:
    """One row as lines; the cells' first lines stand beside each other, or else the last ones."""
    folded = [_folded(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    height = max(len(lines) for lines in folded)
    if at_bottom:
        folded = [[""] * (height - len(lines)) + lines for lines in folded]
    found = []
    for number in range(height):
        parts = []
        for lines, width, text in zip(folded, widths, wraps, strict=True):
            part = lines[number] if number < len(lines) else ""
            space = " " * (width - cell_len(part))
            parts.append(part + space if text else space + part)
        found.append(_GAP.join(parts).rstrip())
    return found


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)
