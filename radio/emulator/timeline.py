"""Values that change at stated times, so that what lies in the past can still be looked up as it
was."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

_Value = TypeVar("_Value")


class Timeline(Generic[_Value]):
    """A value that is constant between the times at which it was set."""

    def __init__(self, value: _Value) -> None:
        """A value that held for ever."""
        self._times: list[float] = [float("-inf")]
        self._values: list[_Value] = [value]

    @property
    def latest(self) -> _Value:
        """The value set last."""
        return self._values[-1]

    def set(self, t_s: float, value: _Value) -> None:
        """Let the value hold from t_s on; t_s never falls from call to call."""
        if t_s <= self._times[-1]:
            self._values[-1] = value
        else:
            self._times.append(t_s)
            self._values.append(value)

    def at(self, t_s: float) -> _Value:
        """The value at a time."""
        return self._values[max(0, bisect_right(self._times, t_s) - 1)]

    def newest_first(self) -> Iterator[_Value]:
        """All values that are kept."""
        return reversed(self._values)

    def changes(self, begin_s: float, end_s: float) -> list[float]:
        """The times after begin_s and before end_s at which it was set."""
        return self._times[bisect_right(self._times, begin_s) : bisect_left(self._times, end_s)]

    def forget(self, before_s: float) -> None:
        """Drop what no time from before_s on needs."""
        keep = max(0, bisect_right(self._times, before_s) - 1)
        if keep:
            del self._times[:keep], self._values[:keep]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A count that grows evenly with time: samples of a clock, turns of a carrier.

    Attributes:
        start_s: a time.
        start: the count then.
        rate_hz: growth in a second.
    """

    start_s: float
    start: float
    rate_hz: float

    def count(self, t_s: float) -> float:
        """The count at a time."""
        return self.start + (t_s - self.start_s) * self.rate_hz

    def time_of(self, count: float) -> float:
        """The time at which the count is reached; the rate must not be 0."""
        return self.start_s + (count - self.start) / self.rate_hz

    def counts(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """The counts at many times."""
        return np.asarray(self.start + (times_s - self.start_s) * self.rate_hz, np.float64)

    def times_of(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The times at which many counts are reached; the rate must not be 0."""
        return np.asarray(self.start_s + (counts - self.start) / self.rate_hz, np.float64)

    def at_rate(self, t_s: float, rate_hz: float) -> Ramp:
        """The same count going on at another rate from t_s on; itself if the rate is the same."""
        return self if rate_hz == self.rate_hz else Ramp(t_s, self.count(t_s), rate_hz)
