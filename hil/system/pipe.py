"""Messages over a pair of pipes, with a deadline on every byte: a JSON header and raw bytes behind
it."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

Header = dict[str, Any]

_LENGTHS = struct.Struct(">II")  # bytes of the header, bytes of the blob


class Pipe:
    """One end of a two-way message pipe; not safe for several threads at once.

    Args:
        read_fd, write_fd: file descriptors; they become non-blocking and stay the caller's to
            close.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def send(self, header: Header, blob: bytes = b"", *, timeout_s: float | None = None) -> None:
        """Write one message; None waits for ever. Raises TimeoutError, or BrokenPipeError if the
        other end is gone."""
        text = json.dumps(header).encode()
        rest = memoryview(_LENGTHS.pack(len(text), len(blob)) + text + blob)
        deadline_s = _deadline(timeout_s)
        while rest:
            _wait(self._write_fd, select.POLLOUT, deadline_s)
            rest = rest[os.write(self._write_fd, rest) :]

    def receive(self, *, timeout_s: float | None = None) -> tuple[Header, bytes]:
        """The next message; None waits for ever. Raises TimeoutError, or EOFError if the other end
        is gone."""
        deadline_s = _deadline(timeout_s)
        n_header, n_blob = _LENGTHS.unpack(self._read(_LENGTHS.size, deadline_s))
        header = json.loads(self._read(n_header, deadline_s))
        return header, self._read(n_blob, deadline_s)

    def _read(self, n_bytes: int, deadline_s: float | None) -> bytes:
        parts = bytearray()
        while len(parts) < n_bytes:
            _wait(self._read_fd, select.POLLIN, deadline_s)
            part = os.read(self._read_fd, n_bytes - len(parts))
            if not part:
                raise EOFError("the other end of the pipe is closed")
            parts += part
        return bytes(parts)


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _wait(fd: int, event: int, deadline_s: float | None) -> None:
    poll = select.poll()
    poll.register(fd, event)
    left_ms = None if deadline_s is None else max(0.0, 1000 * (deadline_s - time.monotonic()))
    if not poll.poll(left_ms):
        raise TimeoutError("the other end of the pipe does not answer")
