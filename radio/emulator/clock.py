"""The emulator's time: real, which paces streams, or virtual, which jumps to whatever is waited
for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

_SLICE_S: Final = 0.02
"""Longest sleep between two looks at whether a wait was cancelled."""


class Cancelled(Exception):  # noqa: N818  # a wait that was called off is no error
    """A wait was called off by the one who waited, or the stream it waited for was closed."""


class Clock(Protocol):
    """Time of the ether in seconds; starts at 0."""

    def now(self) -> float:
        """Seconds since the start."""
        ...

    def wait_until(
        self, t_s: float, *, timeout_s: float | None, cancelled: Callable[[], bool]
    ) -> None:
        """Return when now() ≥ t_s.

        Args:
            t_s: time to wait for, in the clock's seconds.
            timeout_s: longest wait in the clock's seconds; None = for ever.
            cancelled: asked at the start and at least every 20 ms.

        Raises:
            TimeoutError: t_s lies further away than timeout_s; the clock has moved on by timeout_s.
            Cancelled: `cancelled` says so.
        """
        ...


class RealTime:
    """The computer's monotonic clock. Waits end at absolute times, so that the pace of a stream
    cannot drift."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_s

    def wait_until(
        self, t_s: float, *, timeout_s: float | None, cancelled: Callable[[], bool]
    ) -> None:
        """Sleep until now() ≥ t_s; see Clock."""
        now_s = self.now()
        limit_s = t_s if timeout_s is None else min(t_s, now_s + timeout_s)
        while True:
            if cancelled():
                raise Cancelled
            now_s = self.now()
            if now_s >= limit_s:
                break
            time.sleep(min(limit_s - now_s, _SLICE_S))
        if limit_s < t_s:
            raise TimeoutError


class VirtualTime:
    """Time that passes only when someone waits, and then at once: runs as fast as the computer
    does.

    With one thread that waits at a time everything that happens is the same from run to run.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the start."""
        return self._now_s

    def wait_until(
        self, t_s: float, *, timeout_s: float | None, cancelled: Callable[[], bool]
    ) -> None:
        """Move the clock to t_s, unless it is later already; see Clock."""
        if cancelled():
            raise Cancelled
        with self._lock:
            limit_s = t_s if timeout_s is None else min(t_s, self._now_s + timeout_s)
            self._now_s = max(self._now_s, limit_s)
        if limit_s < t_s:
            raise TimeoutError
