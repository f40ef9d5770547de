"""The one console of all verbs: sentences, tables and progress, readable at 80 columns.

Results go to stdout. What the program waits for goes to stderr: as a bar with the time that is left
where both are a terminal, as a line each where they are not.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from hil.system.waits import heard
from hil.verbs.console.round_lines import HEAD, LEGEND, round_lines
from hil.verbs.console.signs import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from hil.reporting.text_table import TextTable

_LATE_S: Final = 2.0
"""A stage of a round is named on a pipe when it has taken so long."""
_BAR: Final = 12
_COUNT: Final = 25
"""Characters beside the bar: what is done, the time that is left, and the gaps."""


def width() -> int:
    """Characters in a line: the terminal's; COLUMNS or 80 where there is none."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def folded(text: str, stream: TextIO, *, indent: str = "") -> str:
    """The text as its stream can show it, wrapped between words; words are never cut."""
    lines = [
        textwrap.fill(
            line,
            width(),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        for line in printable(text, stream).split("\n")
    ]
    return "\n".join(lines)


class Screen:
    """What a verb prints while it works.

    Attributes:
        out: where results go.
    """

    def __init__(self) -> None:
        self._bar: Bar | None = None
        # While a bar is drawn, sys.stdout is another stream, which names no encoding.
        self.out: TextIO = sys.stdout

    def say(self, text: str) -> None:
        """Print sentences, wrapped to the width."""
        self._print(folded(text, self.out, indent="  "))

    def show(self, table: TextTable) -> None:
        """Print a table."""
        self.show_lines(table.lines(width(), lambda text: printable(text, self.out)))

    def show_lines(self, lines: list[str]) -> None:
        """Print lines that are laid out already."""
        self._print("\n".join(printable(line, self.out) for line in lines))

    def show_round(self, row: Mapping[str, Any]) -> None:
        """Print a round as a line under the head of rounds, with the reason of a refusal below."""
        first, *others = round_lines(row)
        self.show_lines([first])
        for line in others:
            self._print(folded(line, self.out, indent="      "))

    def show_head(self) -> None:
        """Print what stands above rounds."""
        self.say(LEGEND)
        self.show_lines(list(HEAD))

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Print figures, one a line."""
        longest = max(map(len, figures), default=0)
        for name, value in figures.items():
            text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
            self.show_lines([f"{name:<{longest}}  {text}"])

    def file(self, what: str, path: Path) -> None:
        """Say where something was written, on one line, so that the path can be copied."""
        self._print(printable(f"{what}: {path}", self.out))

    def wait(self, what: str) -> None:
        """Say what is waited for."""
        if self._bar is not None and self._bar.drawn:
            self._bar.describe(what)
            return
        if self._bar is not None:
            self._bar.stop()  # this line says more than the one that was to come
        print(folded(what, sys.stderr, indent="  "), file=sys.stderr, flush=True)

    @contextmanager
    def waits_shown(self) -> Iterator[None]:
        """Show what is waited for, a line each, until the block ends."""
        with heard(self.wait):
            yield

    @contextmanager
    def at_work(self, first: str, total: int | None = None) -> Iterator[Bar]:
        """Show progress in a bar, and what is waited for, until the block ends.

        Args:
            first: the work that begins now, as a phrase.
            total: steps of the work; None: not known yet.
        """
        with _drawn_bar() as drawn:
            self._bar = Bar(self, drawn, total)
            self._bar.describe(first)
            try:
                with heard(self.wait):
                    yield self._bar
            finally:
                self._bar.stop()
                self._bar = None

    def _print(self, text: str) -> None:
        print(text, flush=True)


class Bar:
    """Progress of one piece of work."""

    def __init__(self, screen: Screen, drawn: Progress | None, total: int | None) -> None:
        self._screen, self._progress = screen, drawn
        self._late: threading.Timer | None = None
        if drawn is not None:
            self._task: TaskID = drawn.add_task("", total=total)

    @property
    def drawn(self) -> bool:
        """True where there is a terminal to draw on."""
        return self._progress is not None

    def describe(self, what: str) -> None:
        """Name what goes on now; on a pipe only when it takes long."""
        self.stop()
        if self._progress is not None:
            room = max(20, width() - _BAR - _COUNT)
            text = textwrap.shorten(printable(what, self._screen.out), room, placeholder=" ...")
            self._progress.update(self._task, description=text)
        else:
            self._late = threading.Timer(_LATE_S, self._screen.wait, (f"{what} ...",))
            self._late.daemon = True
            self._late.start()

    def advance(self) -> None:
        """One step is done."""
        if self._progress is not None:
            self._progress.advance(self._task)

    def reach(self, done: int) -> None:
        """So many steps are done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def count(self, done: int, total: int, what: str) -> None:
        """So many of so many things are done, the last of which is named; a line each on a pipe."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)
            self.describe(what)
        else:
            self._screen.wait(f"{done}/{total}  {what}")

    def stop(self) -> None:
        """Nothing is late any more."""
        if self._late is not None:
            self._late.cancel()
            self._late = None


@contextmanager
def _drawn_bar() -> Iterator[Progress | None]:
    """A bar of rich, erased at the end; None where it would get into a file."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=_BAR),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Plain print() beside the bar goes through the bar's console, which keeps the bar below it.
    console = Console(width=width(), highlight=False, markup=False, soft_wrap=True)
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress
