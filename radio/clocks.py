"""The two clocks of a link: time as it passes, over real radios; air time, in a simulation."""

from __future__ import annotations

import time


class MonotonicClock:
    """Time as it passes; the start is arbitrary, and the same for all processes of one machine."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    def sleep_until(self, t_s: float) -> None:
        """Return when now() ≥ t_s."""
        while (left_s := t_s - time.monotonic()) > 0:
            time.sleep(left_s)


class VirtualClock:
    """Time that passes only when samples are sent or someone waits; starts at 0."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return self._now_s

    def sleep_until(self, t_s: float) -> None:
        """Set the clock to t_s, unless it is later already."""
        self._now_s = max(self._now_s, t_s)
