"""A receive stream as a device keeps it: a ring of buffers that fill by themselves and stop when
all are full."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from radio.emulator.clock import Cancelled
from radio.emulator.station import Station

Capture = Callable[[int, int], bytes]
"""Samples of a station's converter between two counts: little-endian int16 I, Q, -2048..2047."""


class RxRing:
    """A ring of kernel_buffers buffers, which fill one after another from the moment of opening.

    When all are full, capture stops until one is handed back, which reading the next one does. What
    a buffer holds is worked out when it is read.

    Attributes:
        closed: it captures no more.
    """

    def __init__(
        self, station: Station, samples: int, kernel_buffers: int, capture: Capture
    ) -> None:
        """An open ring; by Ether.open_rx, which holds the lock.

        Args:
            station: that fills it.
            samples: length of a buffer.
            kernel_buffers: ≥ 1.
            capture: gives the content.
        """
        self.closed = False
        self._station = station
        self._samples = samples
        self._capture = capture
        self._reader_holds_one = False
        self._stopped = False
        first = station.next_count()
        self._starts = deque(first + samples * i for i in range(kernel_buffers))
        self._end = self._starts[-1] + samples

    @property
    def overflowed(self) -> bool:
        """Capture stopped since this was last set to False, because all buffers were full."""
        with self._station.lock:
            return self._stopped or self._station.next_count() > self._end

    @overflowed.setter
    def overflowed(self, value: bool) -> None:
        self._stopped = value

    @property
    def unread(self) -> list[tuple[int, int]]:
        """Counts (begin, end) of the buffers that may still be read; with the lock held."""
        return [] if self.closed else [(start, start + self._samples) for start in self._starts]

    def read(self, timeout_s: float | None, cancelled: Callable[[], bool]) -> bytes:
        """Hand the buffer read last back, and give the next one.

        Args:
            timeout_s: longest wait for it to fill, None = for ever.
            cancelled: True calls the wait off.

        Returns:
            Little-endian int16 I, Q, -2048..2047, of `samples` samples.

        Raises:
            TimeoutError: not full in time; it can be read later.
            Cancelled: called off, or the ring was closed.
        """
        clock = self._station.clock
        deadline_s = None if timeout_s is None else clock.now() + timeout_s
        with self._station.lock:
            if self.closed:
                raise Cancelled
            if self._reader_holds_one:
                self._hand_back()
            start = self._starts[0]
        self._station.wait_for(
            start + self._samples, deadline_s, lambda: self.closed or cancelled()
        )
        data = self._capture(start, start + self._samples)
        with self._station.lock:
            self._starts.popleft()
            self._reader_holds_one = True
        return data

    def _hand_back(self) -> None:
        now = self._station.next_count()
        self._stopped |= now > self._end
        self._starts.append(max(self._end, now))
        self._end = self._starts[-1] + self._samples
        self._reader_holds_one = False

    def close(self) -> None:
        """Stop capture; a reader that waits is called off."""
        self.closed = True
