"""What the program waits for: said by whatever takes longer than a moment, shown by the terminal.

Work that takes seconds calls waiting_for() before it begins. The text goes to a logger of its own,
so that it stands in a run's log.txt, and a command line that listens shows it to the user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_LOGGER: Final = logging.getLogger("hil.waits")


def waiting_for(what: str) -> None:
    """Announce work that takes seconds.

    Args:
        what: the work as a phrase, for example "compiling the modem's kernels, about 20 s".
    """
    _LOGGER.info("%s ...", what)


@contextmanager
def heard(hear: Callable[[str], None]) -> Iterator[None]:
    """Call `hear` with every announcement of this process until the block ends."""
    handler = _Listener(hear)
    level = _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


class _Listener(logging.Handler):
    """Hands each announcement to a function."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record.getMessage())
