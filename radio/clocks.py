"""The clock of a link over real radios."""

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
