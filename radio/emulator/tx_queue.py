"""A transmit stream as a device keeps it: blocks that play back to back, or one that repeats."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from radio.emulator.clock import Cancelled
from radio.emulator.station import Codes, Emission, Station

SAMPLE_BYTES: Final = 4
_LONG: Final = 4096
"""Samples to which a repeated block is prolonged: many short pieces would be slow to play."""


class TxQueue:
    """A queue of kernel_buffers blocks. While it is open the station's tones are mute; where it
    runs dry is silence.

    Attributes:
        closed: it plays no more.
    """

    def __init__(
        self,
        station: Station,
        samples: int,
        kernel_buffers: int,
        cyclic: bool,
        forget: Callable[[], None],
    ) -> None:
        """An open queue; by Ether.open_tx, which holds the lock.

        Args:
            station: that plays it.
            samples: largest length of a block.
            kernel_buffers: blocks that it holds, the one that plays included, ≥ 1.
            cyclic: the first block repeats until the queue is closed.
            forget: drops what nobody needs any more; called with the lock held.
        """
        self.closed = False
        self._station = station
        self._most_bytes = SAMPLE_BYTES * samples
        self._kernel_buffers = kernel_buffers
        self._cyclic = cyclic
        self._ends: deque[int] = deque()
        self._end: int | None = None
        self._ran_dry = False
        self._forget = forget
        self._opened = station.next_count()
        station.streams.append((self._opened, None))

    @property
    def underflowed(self) -> bool:
        """It ran dry since this was last set to False: a block came late, or none came."""
        with self._station.lock:
            dry = (
                not self._cyclic
                and self._end is not None
                and self._station.next_count() > self._end
            )
            return self._ran_dry or dry

    @underflowed.setter
    def underflowed(self, value: bool) -> None:
        self._ran_dry = value

    def push(self, data: bytes, timeout_s: float | None, cancelled: Callable[[], bool]) -> None:
        """Queue a block; returns when the queue has room for another one.

        Args:
            data: little-endian int16 I, Q, of which the converter takes the upper 12 bits.
            timeout_s: longest wait for room, None = for ever.
            cancelled: True calls the wait off.

        Raises:
            TimeoutError: no room in time; the block is queued nevertheless.
            Cancelled: called off, or the queue was closed.
            OSError: EBUSY, the queue repeats a block already.
            ValueError: `data` is not 1..samples whole samples.
        """
        if not 0 < len(data) <= self._most_bytes or len(data) % SAMPLE_BYTES:
            raise ValueError(
                f"emulated transmit block has {len(data)} bytes; it must have a multiple of "
                f"{SAMPLE_BYTES} up to "
                f"{self._most_bytes}"
            )
        clock = self._station.clock
        deadline_s = None if timeout_s is None else clock.now() + timeout_s
        self._append(codes_of(data))
        while not self._cyclic:
            with self._station.lock:
                now = self._station.next_count()
                while self._ends and self._ends[0] <= now:
                    self._ends.popleft()
                if len(self._ends) < self._kernel_buffers:
                    return
                due = self._ends[-self._kernel_buffers]
            self._station.wait_for(due, deadline_s, lambda: self.closed or cancelled())

    def _append(self, codes: Codes) -> None:
        with self._station.lock:
            if self.closed:
                raise Cancelled
            if self._cyclic and self._end is not None:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            now = self._station.next_count()
            start = now if self._end is None else max(now, self._end)
            self._ran_dry |= self._end is not None and start > self._end
            self._end = start + len(codes)
            self._ends.append(self._end)
            self._forget()
            if self._cyclic:
                codes = np.tile(codes, (-(-_LONG // len(codes)), 1))
            self._station.emissions.append(
                Emission(codes, start, None if self._cyclic else self._end)
            )

    def close(self) -> None:
        """Stop now; what is queued is dropped. Closing twice does nothing."""
        with self._station.lock:
            if self.closed:
                return
            self.closed = True
            now = self._station.next_count()
            # only one queue is open at a time, so all that is yet to be played is this one's
            cut = [emission.cut(now) for emission in self._station.emissions]
            self._station.emissions[:] = [
                emission for emission in cut if emission.stop != emission.start
            ]
            self._station.streams[-1] = (self._opened, now)


def codes_of(data: bytes) -> Codes:
    """Converter codes of a block: the upper 12 bits of little-endian int16 I, Q."""
    return np.asarray(np.frombuffer(data, "<i2").reshape(-1, 2) >> 4, np.int16)
