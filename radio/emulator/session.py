"""One connection of the network protocol: a client's commands, and what it holds."""

from __future__ import annotations

import errno
import select
import socket
from typing import Final

from radio.emulator import attributes, protocol
from radio.emulator.clock import Cancelled
from radio.emulator.context import VERSION
from radio.emulator.node import Node, ReceiveBuffer, SendBuffer
from radio.emulator.protocol import RefusedError

_READ_AHEAD_BYTES: Final = 1 << 16
_HUNG_UP: Final = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
"""Events of poll for a connection whose other side is gone, also while bytes of it are still
unread."""


class Session:
    """One connection: reads commands, answers them, and frees what it holds when it ends."""

    def __init__(self, connection: socket.socket, node: Node) -> None:
        self._connection = connection
        self._node = node
        self._reader = connection.makefile("rb", buffering=_READ_AHEAD_BYTES)
        self._buffers: dict[str, ReceiveBuffer | SendBuffer] = {}
        self._hang_up = select.poll()
        self._hang_up.register(connection, _HUNG_UP)

    def run(self) -> None:
        """Serve until the client leaves or the connection is cut."""
        try:
            while self._serve_line():
                pass
        except (OSError, EOFError, Cancelled):
            return  # the client is gone; the device is freed below
        finally:
            for buffer in self._buffers.values():
                self._node.close(buffer)
            self._reader.close()
            self._connection.close()

    def cut(self) -> None:
        """End the connection from another thread."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself

    def _serve_line(self) -> bool:
        line = self._reader.readline(protocol.MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            if line:
                self._send(protocol.integer(-errno.EINVAL))
            return False
        try:
            command = protocol.parse(line)
            if isinstance(command, protocol.Exit):
                return False
            if command is not None:
                self._answer(command)
        except RefusedError as refusal:
            self._send(protocol.integer(-refusal.errno))
        return True

    def _answer(self, command: protocol.Command) -> None:
        node = self._node
        match command:
            case protocol.Print():
                self._send(protocol.document(node.xml))
            case protocol.Version():
                self._send(b"%d.%d.%s\n" % (VERSION[0], VERSION[1], VERSION[2].encode("ascii")))
            case protocol.Timeout(milliseconds):
                node.timeout_s = milliseconds / 1000 or None
                self._send(protocol.integer(0))
            case protocol.Read(name):
                self._send(protocol.text(node.read_attribute(name)))
            case protocol.Write(name, size):
                self._write_attribute(name, size)
            case protocol.GetTrigger(device):
                attributes.device(device)
                raise RefusedError(errno.ENOENT)
            case _:
                self._answer_buffer(command)

    def _answer_buffer(self, command: protocol.Command) -> None:
        match command:
            case protocol.Open(device):
                self._open(device, command)
            case protocol.Close(device):
                self._node.close(self._held(device))
                del self._buffers[attributes.device(device).name]
                self._send(protocol.integer(0))
            case protocol.SetBuffersCount(device, count):
                self._node.set_kernel_buffers(device, count)
                self._send(protocol.integer(0))
            case protocol.ReadBuffer(device, size):
                self._read_buffer(self._held(device), size)
            case protocol.WriteBuffer(device, size):
                self._write_buffer(self._held(device), size)

    def _open(self, device: str, command: protocol.Open) -> None:
        name = attributes.device(device).name
        if name in self._buffers:
            raise RefusedError(errno.EBUSY)
        self._buffers[name] = self._node.open(command)
        self._send(protocol.integer(0))

    def _held(self, device: str) -> ReceiveBuffer | SendBuffer:
        name = attributes.device(device).name
        if name not in self._buffers:
            raise RefusedError(errno.ENXIO)
        return self._buffers[name]

    def _write_attribute(self, name: protocol.AttributeName, size: int) -> None:
        value = self._receive(size, keep=size <= protocol.MAX_ATTRIBUTE_BYTES)
        if len(value) != size:
            raise RefusedError(errno.EINVAL)
        self._node.write_attribute(name, value)
        self._send(protocol.integer(size))

    def _read_buffer(self, buffer: ReceiveBuffer | SendBuffer, size: int) -> None:
        if not isinstance(buffer, ReceiveBuffer) or size < 1:
            raise RefusedError(errno.EINVAL)
        mask: int | None = buffer.mask
        while size:
            data = buffer.read(self._gone)[:size]
            self._connection.sendall(protocol.samples_header(len(data), mask))
            self._connection.sendall(data)
            size -= len(data)
            mask = None

    def _write_buffer(self, buffer: ReceiveBuffer | SendBuffer, size: int) -> None:
        if (
            not isinstance(buffer, SendBuffer)
            or not 0 < size <= buffer.size
            or size % protocol.SAMPLE_BYTES
        ):
            raise RefusedError(errno.EINVAL)
        self._send(protocol.integer(0))
        buffer.write(self._receive(size), self._gone)
        self._send(protocol.integer(size))

    def _receive(self, size: int, keep: bool = True) -> bytes:
        """Exactly `size` bytes from the client; nothing of them unless they are to be kept."""
        if keep:
            data: bytes = self._reader.read(size)
            if len(data) < size:
                raise EOFError
            return data
        while size:
            chunk = self._reader.read(min(size, _READ_AHEAD_BYTES))
            if not chunk:
                raise EOFError
            size -= len(chunk)
        return b""

    def _gone(self) -> bool:
        return bool(self._hang_up.poll(0))

    def _send(self, data: bytes) -> None:
        self._connection.sendall(data)
