"""Programs that an experiment starts beside itself, each ended by its process id, none left
behind."""

from __future__ import annotations

import getpass
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from hil.contract import ControlError, HilError

_END_S: Final = 60.0
_KILL_S: Final = 10.0
_POLL_S: Final = 0.05
_PATH: Final = (
    "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin:/opt/homebrew/bin"
)


class HelperError(HilError):
    """A program beside the experiment failed, or did not end."""


class HelperProcess:
    """One program, started by `with` and ended with it: told to end, then killed, with all that it
    had started.

    Args:
        name: the program's name in messages.
        command: the program and its arguments.
        log: file for its standard error.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._name, self._command, self._log = name, list(command), log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                # Ctrl-C in a terminal is for the parent, which ends this one in its turn
                process_group=0,
            )
        self._reader = threading.Thread(target=self._read, name=self._name, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line.rstrip("\n"))

    def check(self) -> None:
        """Raise HelperError if it has ended: nobody told it to."""
        code = self._process.poll()
        if code is not None:
            raise HelperError(f"{self._name} ended with status {code}: {self._last_words()}")

    def wait_for_line(self, deadline: float) -> str:
        """The next line of its output. Raises HelperError when it ends before, or none comes by the
        deadline."""
        for line in self.relay(deadline):
            return line
        raise HelperError(f"{self._name} ended without a word")

    def relay(self, deadline: float, beside: Sequence[HelperProcess] = ()) -> Iterator[str]:
        """The lines of its output as they come, until it has ended well.

        Args:
            deadline: time.monotonic() by which it must have ended.
            beside: other processes, which must run meanwhile.
        Raises:
            HelperError: it failed or missed the deadline, or one beside it ended.
        """
        while self._reader.is_alive() or not self._lines.empty():
            try:
                yield self._lines.get(timeout=_POLL_S)
            except queue.Empty:
                for other in beside:
                    other.check()
            if time.monotonic() > deadline:
                raise HelperError(f"{self._name} missed its deadline: {self._last_words()}")
        if self._process.wait(_END_S) != 0:
            self.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it. Raises HelperError if it, or a process of its own, had to be killed."""
        family = _family(self._process.pid)
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_KILL_S)
        _, left = psutil.wait_procs(family, timeout=_KILL_S)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=_KILL_S)
        self._reader.join(_KILL_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if kind is None and (left or self._process.returncode == -9):
            raise HelperError(
                f"{self._name} did not end by itself, {len(left)} of its processes had to be killed"
            )

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "no message"


def find_program(name: str) -> str | None:
    """Path of an installed program, also where servers are kept; None if there is none."""
    return shutil.which(name) or shutil.which(name, path=_PATH)


def hil_command(*arguments: str) -> list[str]:
    """A verb of this program, for the interpreter that runs now."""
    return [sys.executable, "-m", "hil.cli", *arguments]


def mosquitto(port: int, folder: Path) -> HelperProcess:
    """A broker of one's own: this machine only, no password, nothing kept.

    Args:
        port: a free port of 127.0.0.1; see free_port.
        folder: folder of its configuration and log.
    Raises:
        ControlError: Mosquitto is not installed.
    """
    program = find_program("mosquitto")
    if program is None:
        raise ControlError(
            "the MQTT broker Mosquitto 2 is not installed; type: apt-get install mosquitto"
        )
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser "
        f"{getpass.getuser()}\n",
        encoding="utf-8",
    )
    return HelperProcess("mosquitto", [program, "-c", str(config)], folder / "mosquitto.log")


def wait_for_port(process: HelperProcess, port: int, deadline: float) -> None:
    """Return when a process listens on a port of 127.0.0.1. Raises HelperError."""
    while True:
        process.check()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise HelperError(
                    f"nothing listens on port {port} of 127.0.0.1; see if another program has it"
                ) from None
            time.sleep(_POLL_S)
        else:
            return


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _family(pid: int) -> list[psutil.Process]:
    """All that a process has started, and what that has started."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found
