"""A broker of one's own: Mosquitto on a free port of this machine, with a password, ended by its
process id."""

from __future__ import annotations

import contextlib
import getpass
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hil.system.helper_processes import find_program, free_port

USER, PASSWORD = "bench", "only-for-this-test"
START_LIMIT_S = 5.0


class Broker:
    """One Mosquitto without persistence: killed, it forgets everything."""

    def __init__(self, folder: Path, executable: str, password_tool: str) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.secret = folder / "secret"
        self.secret.write_text(f"{USER}\n{PASSWORD}\n")
        self.secret.chmod(0o600)
        self._executable = executable
        self._log = folder / "log.txt"
        self._config = folder / "mosquitto.conf"
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        subprocess.run(
            [password_tool, "-b", passwords, USER, PASSWORD],
            check=True,
            capture_output=True,
            timeout=10,
        )
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
            f"user {getpass.getuser()}\npersistence false\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._executable, "-c", self._config], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1),
            ):
                return
            time.sleep(0.02)
        self.kill()
        pytest.fail(
            f"mosquitto does not listen on port {self.port}: {self._log.read_text()[-500:]}"
        )

    def kill(self) -> None:
        """As a power cut does it."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=5)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@pytest.fixture(scope="session")
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Broker]]:
    """Starts brokers, and ends them with the tests."""
    executable, password_tool = map(find_program, ("mosquitto", "mosquitto_passwd"))
    if executable is None or password_tool is None:
        pytest.skip("needs the MQTT broker Mosquitto 2: apt-get install mosquitto")
    brokers: list[Broker] = []

    def start() -> Broker:
        brokers.append(Broker(tmp_path_factory.mktemp("broker"), executable, password_tool))
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.kill()


@pytest.fixture(scope="session")
def broker(start_broker: Callable[[], Broker]) -> Broker:
    """A broker for all tests that leave it alive."""
    return start_broker()
