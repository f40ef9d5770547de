"""Ending in order: the first SIGINT, SIGTERM or SIGHUP asks for it, the second insists."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Final

_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def until_signalled() -> Iterator[Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second is a KeyboardInterrupt.

    For the main thread, which alone hears signals. A SIGHUP that is ignored (nohup) stays ignored.
    The handlers before are put back at the end.
    """
    ended = Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    before = {
        number: signal.signal(number, end)
        for number in _ENDINGS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
