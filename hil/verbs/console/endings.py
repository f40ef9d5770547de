"""How a verb ends: its exit code, and the line that goes with it."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

BUG: Final = 1
"""The program has a bug."""
BENCH: Final = 2
"""The bench or its configuration is broken; nothing can be said about the experiment."""
MISSED: Final = 3
"""Everything worked, and the experiment missed what was required of it."""
INTERRUPTED: Final = 130
"""The user, or the system, ended it."""

_PLACES: Final = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
        *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    }
)
"""What the system says of a place that cannot be written to or read."""
_KIT: Final = ("hil", "cloud", "radio", "edge_device", "calibration")


def bench_line(error: BaseException) -> str | None:
    """One line about a bench or a configuration that is broken; None if the error is a bug."""
    from hil.contract import HilError
    from hil.extras import cure_of

    if isinstance(error, HilError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (cure := cure_of(error)):
        verb = sys.argv[1:3] if sys.argv[1:2] == ["bench"] else sys.argv[1:2]
        return " ".join([*verb, cure])
    if isinstance(error, OSError) and error.errno in _PLACES:
        place = error.filename or "a file"
        return f"{place}: {error.strerror}; make room or choose another place"
    return None


def bug_line(error: BaseException, log: Path | None = None) -> str:
    """One line about an unexpected exception: what it is, where, and which file has the traceback.

    Args:
        error: the exception.
        log: a file that holds the traceback already; without one it is written to a new file.
    """
    if log is None:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hil-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
        log = Path(file.name)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"this is a bug: {what}{_where(error)}; please report it with {log}"


def _where(error: BaseException) -> str:
    """The innermost line of the kit that the exception came through, as " (file:line)"."""
    root = Path(__file__).parents[3]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(root) and path.relative_to(root).parts[0] in _KIT:
            return f" ({path.relative_to(root)}:{frame.lineno})"
    return ""


def complain(text: str) -> None:
    """Print a line of the program's own on stderr; a terminal gets it wrapped between words."""
    line = f"hil: {text}"
    if sys.stderr.isatty():
        from hil.verbs.console.terminal import folded

        line = folded(line, sys.stderr, indent="  ")
    print(line, file=sys.stderr, flush=True)
