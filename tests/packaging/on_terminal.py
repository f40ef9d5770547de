"""A program on a terminal of its own: what it printed, how wide, and when."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CTRL_C = b"\x03"


@dataclass
class Shown:
    """What a program showed until its end.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        text: all that it wrote, without colours and movements of the cursor.
        took_s: from its start to its end.
        first_s: from its start to its first whole line; None without one.
        quiet_s: the longest time in which nothing was written.
    """

    code: int = 0
    text: str = ""
    took_s: float = 0.0
    first_s: float | None = None
    quiet_s: float = 0.0

    @property
    def lines(self) -> list[str]:
        """Lines as they stood on the screen; one that was drawn over counts each time."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text)]

    @property
    def widest(self) -> str:
        """The line with the most characters."""
        return max(self.lines, key=len)


def on_terminal(
    command: Sequence[str],
    *,
    columns: int,
    folder: Path,
    environment: Mapping[str, str],
    deadline_s: float,
    enough: Callable[[str], bool] = lambda _: False,
) -> Shown:
    """Run a program on a terminal of its own until it ends.

    Args:
        columns: the terminal's width.
        folder: where it runs.
        deadline_s: it is killed after this time.
        enough: asked at each output with all text so far, and ten times a second; True presses
            Ctrl-C, once.
    """
    began_s = time.monotonic()
    process, terminal = pty.fork()
    if process == 0:
        try:
            termios.tcsetwinsize(0, (24, columns))
            os.chdir(folder)
            os.execve(command[0], list(command), dict(environment))  # noqa: S606 - a fixed list
        finally:
            os._exit(127)
    shown, written, spoke_s, pressed = Shown(), b"", began_s, False
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        now_s = time.monotonic()
        piece = _read(terminal) if ready else None
        if piece == b"":
            break
        if piece:
            written += piece
            shown.quiet_s = max(shown.quiet_s, now_s - spoke_s)
            spoke_s = now_s
            if shown.first_s is None and b"\n" in written:
                shown.first_s = now_s - began_s
            shown.text = _ESCAPE.sub("", written.decode(errors="replace"))
        if not pressed and enough(shown.text):
            os.write(terminal, CTRL_C)
            pressed = True
        if now_s - began_s > deadline_s:
            os.kill(process, signal.SIGKILL)
    os.close(terminal)
    shown.code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    shown.took_s = time.monotonic() - began_s
    return shown


def _read(terminal: int) -> bytes:
    """What is there to read; nothing at the end, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
