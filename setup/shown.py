"""A long command with one line that says how far it is."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

PIPE_INTERVAL_S: Final = 30.0
"""Time between two lines where there is no terminal to draw on."""


def run_shown(
    command: Sequence[str],
    *,
    title: str,
    status_of: Callable[[str], str | None],
    log: Path,
    deadline_s: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """The command's exit status and its output, which also goes into a file.

    Meanwhile a line shows title, status and elapsed time: drawn over on a terminal, once every
    PIPE_INTERVAL_S elsewhere.

    Args:
        status_of: what a line of output says about the progress; None: nothing. It also gets "",
            twice a second, while there is no output.
        log: file that the output is added to.
        deadline_s: the command is ended after this time; its exit status is then negative.
        environment: of the command; None: this process's own.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    output: list[str] = []
    shown = _Line(title)
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            while (line := _next(lines)) is not None:
                output.append(line)
                file.write(line)
                shown.status = status_of(line) or shown.status
                shown.draw()
                if shown.elapsed_s > deadline_s:
                    process.kill()
        except BaseException:
            process.kill()
            raise
        finally:
            shown.clear()
            reader.join(timeout=60)
    return process.returncode, "".join(output)


class _Line:
    """The line on the screen."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.status = ""
        self._began_s = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._next_s = 0.0 if self._terminal else PIPE_INTERVAL_S

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def draw(self) -> None:
        if self.elapsed_s < self._next_s:
            return
        self._next_s = self.elapsed_s + (0.5 if self._terminal else PIPE_INTERVAL_S)
        parts = [self.title, self.status, f"{self.elapsed_s:.0f} s"]
        text = ", ".join(part for part in parts if part)[:79]
        print(f"\r\033[K{text}" if self._terminal else text, end="", flush=True)
        if not self._terminal:
            print(flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", flush=True)


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next(lines: queue.SimpleQueue[str | None]) -> str | None:
    """The next line of output; "" when none came for a while, None at the end."""
    try:
        return lines.get(timeout=0.5)
    except queue.Empty:
        return ""
