"""A radio's two directions, each kept going by a thread of its own: whoever asks is late, the radio
never waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

import numpy as np

from radio.pluto.driver import OutageError, PlutoDevice
from radio.pluto.samples import Integers
from radio.pluto.settings import PlutoSettings

_MAX_KEPT_SAMPLES: Final = 2**23
"""Received samples that wait for their reader: 32 MiB, 2 s at 4 MS/s."""
_ARRIVALS: Final = 16
"""Buffers over which the earliest arrival tells when samples were captured."""
_HASTE_S: Final = 0.005
"""A buffer that is not full yet waits for more samples until what is queued plays no longer than
this."""
_MAX_PLAY_S: Final = 2.0
_JOIN_S: Final = 1.0


class _Worker:
    """A thread that ends at its first error, which its owner then meets; and that may be found to
    hang.

    Args:
        name: name of its work, for messages.
        hang_s: longest call into the driver; a longer one will not come back.
    """

    def __init__(self, name: str, hang_s: float) -> None:
        self._name = name
        self._hang_s = hang_s
        self._error: BaseException | None = None
        self._called_s: float | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, or OutageError when it hangs."""
        if self._error is not None:
            raise self._error
        called_s = self._called_s
        if called_s is not None and time.monotonic() - called_s > self._hang_s:
            raise OutageError(
                f"the Pluto's {self._name} thread hangs in the driver for more than "
                f"{self._hang_s:g} s"
            )

    def stop(self) -> None:
        """End the thread. Raises OutageError when it does not come back from the driver."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(self._hang_s + _JOIN_S)
        if self._thread.is_alive():
            raise OutageError(f"the Pluto's {self._name} thread does not come back from the driver")

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._step()
        except BaseException as error:  # whatever it is, the owner must hear of it
            self._error = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _step(self) -> None:
        raise NotImplementedError

    def _into_driver(self) -> None:
        self._called_s = time.monotonic()

    def _out_of_driver(self) -> None:
        self._called_s = None


class RxStream(_Worker):
    """Reads all the time, and keeps the newest samples until they are taken.

    Attributes:
        dropped_samples: number of samples that were dropped, oldest first, because more than
            max_kept_samples waited.
    """

    def __init__(
        self,
        device: PlutoDevice,
        rate_hz: float,
        *,
        hang_s: float,
        max_kept_samples: int = _MAX_KEPT_SAMPLES,
    ) -> None:
        """A stream that begins now, with samples captured from now on."""
        self.dropped_samples = 0
        self._device = device
        self._rate_hz = rate_hz
        self._max_kept_samples = max_kept_samples
        self._kept: deque[Integers] = deque()
        self._n_kept = 0
        self._n_read = 0
        self._starts_s: deque[float] = deque(maxlen=_ARRIVALS)
        self._skip_to = 0
        device.start_receive()
        self._opened_s = time.monotonic()
        super().__init__("receive", hang_s)

    def stop(self) -> None:
        """End the thread and close the buffer."""
        super().stop()
        self._device.stop_receive()

    def take(self, n_samples: int, wait_s: float) -> Integers:
        """The next samples, at most n_samples; fewer when no more came within wait_s."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._n_kept >= n_samples or self._error is not None, wait_s
            )
            return self._pop(n_samples)

    def skip_until(self, t_s: float) -> None:
        """Go on with the samples captured from a time of the monotonic clock on, unless later ones
        were taken."""
        with self._changed:
            start_s = min(self._starts_s, default=self._opened_s)
            self._skip_to = round((t_s - start_s) * self._rate_hz)
            self._skip()

    def _skip(self) -> None:
        first = self._n_read - self._n_kept
        self._pop(max(0, self._skip_to - first))

    def _pop(self, n_samples: int) -> Integers:
        parts: list[Integers] = [np.zeros(0, np.int16)]
        wanted = min(n_samples, self._n_kept)
        self._n_kept -= wanted
        while wanted:
            head = self._kept.popleft()
            parts.append(head[: 2 * wanted])
            if len(head) > 2 * wanted:
                self._kept.appendleft(head[2 * wanted :])
            wanted -= len(parts[-1]) // 2
        return np.concatenate(parts)

    def _step(self) -> None:
        self._into_driver()
        integers = self._device.read()
        self._out_of_driver()
        now_s = time.monotonic()
        with self._changed:
            n = len(integers) // 2
            self._n_read += n
            self._starts_s.append(now_s - self._n_read / self._rate_hz)
            too_many = self._n_kept + n - self._max_kept_samples
            if too_many > 0:
                self.dropped_samples += len(self._pop(too_many)) // 2
            self._kept.append(integers)
            self._n_kept += n
            self._skip()
            self._changed.notify_all()


class TxStream(_Worker):
    """Sends bursts in buffers of one size, back to back as long as samples are there, silence
    between.

    A burst that follows silence has one buffer of silence before it: while it plays, the burst's
    first buffers are queued, so that none comes late.
    """

    def __init__(self, device: PlutoDevice, settings: PlutoSettings, *, hang_s: float) -> None:
        self._device = device
        self._buffer_s = settings.buffer_s
        self._rate_hz = settings.rate_hz
        self._n = 2 * settings.buffer_samples
        self._pending: deque[Integers] = deque()
        self._n_pending = 0
        self._n_sent = 0
        self._n_accepted = 0
        self._burst_at = 0
        self._burst_s: float | None = None
        self._dry_s = 0.0
        device.start_transmit()
        super().__init__("transmit", hang_s)

    def send(self, integers: Integers) -> None:
        """Queue a burst's samples."""
        with self._changed:
            self._burst_at, self._burst_s = self._n_accepted, None
            self._pending.append(integers)
            self._n_pending += len(integers)
            self._n_accepted += len(integers)
            self._changed.notify_all()

    def wait_sent(self, wait_s: float) -> bool:
        """True when all but the last, partly filled buffer is in the radio; waits for it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._n_pending < self._n or self._error is not None, wait_s
            )
            return self._n_pending < self._n

    def on_air_s(self, wait_s: float) -> float | None:
        """Time at which the latest burst's first sample leaves, on the monotonic clock.

        None if it is not known within wait_s.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._burst_s is not None or self._error is not None, wait_s
            )
            return self._burst_s

    def play_out(self) -> None:
        """Return when all has been played, or the thread has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._pending or self._error is not None, _MAX_PLAY_S
            )
        time.sleep(max(0.0, self._dry_s + self._buffer_s - time.monotonic()))

    def _step(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._stopping)
        if self._stopping:
            return
        if time.monotonic() > self._dry_s:
            self._write(np.zeros(self._n, np.int16))
        buffer, begin = self._next_buffer()
        starts_s = self._write(buffer)
        with self._changed:
            if self._burst_s is None and begin <= self._burst_at < begin + self._n:
                self._burst_s = starts_s + (self._burst_at - begin) / 2 / self._rate_hz
            self._changed.notify_all()

    def _next_buffer(self) -> tuple[Integers, int]:
        """One buffer's samples, with silence behind them if no more come; and their place among all
        accepted."""
        wait_s = max(0.0, self._dry_s - time.monotonic() - _HASTE_S)
        with self._changed:
            self._changed.wait_for(lambda: self._n_pending >= self._n or self._stopping, wait_s)
            begin = self._n_sent
            parts: list[Integers] = []
            wanted = self._n
            while wanted and self._pending:
                head = self._pending.popleft()
                parts.append(head[:wanted])
                if len(head) > wanted:
                    self._pending.appendleft(head[wanted:])
                wanted -= len(parts[-1])
            self._n_pending -= self._n - wanted
            self._n_sent += self._n - wanted
            return np.concatenate([*parts, np.zeros(wanted, np.int16)]), begin

    def _write(self, buffer: Integers) -> float:
        """Hand a buffer over; the time at which its first sample leaves."""
        before_s = time.monotonic()
        self._into_driver()
        self._device.write(buffer)
        self._out_of_driver()
        starts_s = max(self._dry_s, before_s)
        self._dry_s = starts_s + self._buffer_s
        return starts_s
