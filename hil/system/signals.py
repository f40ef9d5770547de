"""Ending in order: the first SIGINT or SIGTERM asks for it, the second insists."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def until_signalled() -> Iterator[Event]:
    """An event that the first SIGINT or SIGTERM sets; the second is a KeyboardInterrupt.

    For the main thread, which alone hears signals. The handlers before are put back at the end.
    """
    ended = Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
