"""Faults that an emulated Pluto shows on demand."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Literal, Protocol

Fault = Literal["timeout", "busy", "lost", "clipped"]


class Connections(Protocol):
    """The network side of a node, which faults take away and bring back."""

    def cut(self) -> None:
        """End every connection; new ones are welcome."""
        ...

    def vanish(self) -> None:
        """End every connection and refuse new ones; the radio falls silent and hears nothing."""
        ...

    def return_(self) -> None:
        """Be back on the same port, with the settings as they were."""
        ...


class Faults:
    """Faults of one node. Each call asks for faults to come; the ones asked for before stay.

    Buffer transfers are READBUF and WRITEBUF commands: one of each rx() or tx() of a client.
    Thread-safe.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.Lock()
        self._coming: Counter[Fault] = Counter()
        self._delays_s: list[float] = []
        self._comeback: threading.Timer | None = None

    def drop_connection(self) -> None:
        """Cut every connection of the node now."""
        self._connections.cut()

    def timeout(self, n: int = 1) -> None:
        """The next n buffer transfers fail with ETIMEDOUT (110)."""
        self._ask("timeout", n)

    def busy(self, n: int = 1) -> None:
        """The next n buffers that a client opens are refused with EBUSY (16)."""
        self._ask("busy", n)

    def lose_block(self, n: int = 1) -> None:
        """The next n received buffers never reach the client."""
        self._ask("lost", n)

    def clip_block(self, n: int = 1) -> None:
        """The next n received buffers are overdriven by 36 dB."""
        self._ask("clipped", n)

    def delay(self, seconds: float, n: int = 1) -> None:
        """The next n buffer transfers are answered this much later, in the computer's time."""
        with self._lock:
            self._delays_s += [seconds] * n

    def vanish(self, seconds: float | None = None) -> None:
        """Disappear from network and ether now; return after this time, or with `return_`."""
        self._cancel_comeback()
        self._connections.vanish()
        if seconds is not None:
            self._comeback = threading.Timer(seconds, self._connections.return_)
            self._comeback.daemon = True
            self._comeback.start()

    def return_(self) -> None:
        """End a disappearance now; does nothing if there is none."""
        self._cancel_comeback()
        self._connections.return_()

    def close(self) -> None:
        """Let a disappearance that is under way never end by itself."""
        self._cancel_comeback()

    def take(self, fault: Fault) -> bool:
        """True if this fault is due now; it then counts as done."""
        with self._lock:
            due = self._coming[fault] > 0
            if due:
                self._coming[fault] -= 1
            return due

    def take_delay_s(self) -> float:
        """Delay of the transfer that begins now, s; 0 without a fault."""
        with self._lock:
            return self._delays_s.pop(0) if self._delays_s else 0.0

    def _ask(self, fault: Fault, n: int) -> None:
        with self._lock:
            self._coming[fault] += n

    def _cancel_comeback(self) -> None:
        if self._comeback is not None:
            self._comeback.cancel()
            self._comeback = None
