"""How far pip is with an installation: its own lines, and what they leave out."""

from __future__ import annotations

import re
import time
from pathlib import Path


class PipProgress:
    """What pip is doing, from its output and from the folder that it fills.

    pip names the packages in the order of their installation, and then says nothing until the last
    one is there. It ends each with a file INSTALLER (Python packaging: "Recording installed
    projects"), so these are counted.

    Args:
        venv: the environment that is filled.
    """

    def __init__(self, venv: Path) -> None:
        self._venv = venv
        self._began_s = time.time()
        self._order: list[str] = []

    def status_of(self, line: str) -> str | None:
        """What a line of output says; "", when there was none: how many packages are there."""
        if names := re.match(r"Installing collected packages: (.*)", line):
            self._order = names[1].split(", ")
        if self._order:
            done = self._installed()
            now = f", now {self._order[done]}" if done < len(self._order) else ""
            return f"{done} of {len(self._order)} ready{now}"
        if name := re.match(r" *Collecting ([\w.-]+)", line):
            return f"looking for {name[1]}"
        doing = re.search(r"(Downloading|Installing|Building) (\S*)", line)
        return f"{doing[1].lower()} {doing[2].partition('-')[0]}" if doing else None

    def _installed(self) -> int:
        """Packages that have been finished since the beginning."""
        marks = self._venv.glob("lib/python3*/site-packages/*.dist-info/INSTALLER")
        # a file's time may be a clock tick older than the beginning
        return sum(mark.stat().st_mtime > self._began_s - 1 for mark in marks)
