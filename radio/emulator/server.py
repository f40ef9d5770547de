"""The network side: one listener per emulated Pluto on 127.0.0.1, one thread per connection."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Sequence
from typing import Any, Final, Self

from hil.contract import DeviceError
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether
from radio.emulator.faults import Faults
from radio.emulator.front_end import NodeSpec
from radio.emulator.node import Node
from radio.emulator.session import Session

_HOST: Final = "127.0.0.1"
_ACCEPT_SLICE_S: Final = 0.02
_STOP_PATIENCE_S: Final = 10.0


class NodeServer:
    """Listens for the clients of one node."""

    def __init__(self, ether: Ether, index: int, port: int) -> None:
        self.faults = Faults(self)
        self.node = Node(ether, index, self.faults)
        self._sessions: dict[Session, threading.Thread] = {}
        self._sessions_lock = threading.Lock()
        self._presence = threading.Lock()
        self._present = threading.Event()
        self._stopped = False
        self._socket = _bound(port)
        self.port: int = self._socket.getsockname()[1]
        self._acceptor: threading.Thread | None = None

    def start(self) -> None:
        """Let clients in."""
        with self._presence:
            self._appear()

    def stop(self) -> None:
        """End every connection and the listener; nothing brings the node back."""
        self.faults.close()
        with self._presence:
            self._stopped = True
            self._disappear()

    def cut(self) -> None:
        """End every connection; returns when their devices are free again."""
        with self._sessions_lock:
            sessions = dict(self._sessions)
        for session in sessions:
            session.cut()
        for thread in sessions.values():
            thread.join(_STOP_PATIENCE_S)

    def vanish(self) -> None:
        """End every connection and refuse new ones; the port stays reserved, the radio falls
        silent."""
        with self._presence:
            if self._present.is_set():
                self._disappear()
                self._socket = _bound(self.port)
                self.node.silence()

    def return_(self) -> None:
        """Listen again on the same port."""
        with self._presence:
            if not self._present.is_set() and not self._stopped:
                self.node.restore()
                self._appear()

    def _appear(self) -> None:
        self._socket.listen()
        self._socket.settimeout(_ACCEPT_SLICE_S)
        self._present.set()
        self._acceptor = threading.Thread(target=self._accept, name=self.node.serial, daemon=True)
        self._acceptor.start()

    def _disappear(self) -> None:
        self._present.clear()
        if self._acceptor is not None:
            self._acceptor.join(_STOP_PATIENCE_S)
        self._socket.close()
        self.cut()

    def _accept(self) -> None:
        while self._present.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                continue  # nobody came in this slice, or he left again
            connection.setblocking(True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._begin(Session(connection, self.node))

    def _begin(self, session: Session) -> None:
        def serve() -> None:
            try:
                session.run()
            finally:
                with self._sessions_lock:
                    del self._sessions[session]

        thread = threading.Thread(target=serve, name=f"{self.node.serial} session", daemon=True)
        with self._sessions_lock:
            self._sessions[session] = thread
            thread.start()


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise DeviceError(
            f"emulated Pluto: port {port} of {_HOST} cannot be had ({error.strerror}); use another"
        ) from None
    return listener


@functools.cache
def _load_kernels() -> None:
    """Have the kernels loaded or compiled before a client waits: in real time its first buffers
    would overflow."""
    ether = Ether([NodeSpec(ppm=1.0), NodeSpec()], clock=VirtualTime(), seed=0)
    ether.open_tx(0, 1, 1, True).push(b"\0\x40\0\0", None, lambda: False)
    ether.open_rx(1, 1024, 1).read(None, lambda: False)


class EmulatedPlutos:
    """Plutos in software, each behind the libiio network protocol; a context manager.

    Attributes:
        ether: that they share.
        nodes: one per radio of the ether.
        faults: one per node.
        uris: one per node, for adi.Pluto(uri): "ip:127.0.0.1:<port>".
    """

    def __init__(self, ether: Ether, *, ports: Sequence[int] = ()) -> None:
        """Plutos for all radios of an ether.

        Args:
            ether: their air.
            ports: TCP ports, one per node; nodes beyond them get a free one, as those with port 0
                do.

        Raises:
            DeviceError: a port that is taken.
        """
        self.ether = ether
        self._servers: list[NodeServer] = []
        try:
            for index in range(len(ether.nodes)):
                self._servers.append(
                    NodeServer(ether, index, ports[index] if index < len(ports) else 0)
                )
        except DeviceError:
            self._stop()
            raise
        self.nodes: tuple[Node, ...] = tuple(server.node for server in self._servers)
        self.faults: tuple[Faults, ...] = tuple(server.faults for server in self._servers)
        self.uris: tuple[str, ...] = tuple(f"ip:{_HOST}:{server.port}" for server in self._servers)

    def __enter__(self) -> Self:
        _load_kernels()
        for server in self._servers:
            server.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        for server in self._servers:
            server.stop()
