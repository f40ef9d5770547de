"""The broker's address, its credentials and what keeps one from reaching it.

No MQTT library is needed, so that a configuration can be checked without one.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

from hil.contract import ControlError


def parse_url(url: str) -> tuple[str, int]:
    """Host and port of ``mqtt://host[:port]``; the port is 1883 unless given.

    Raises:
        ControlError: another scheme, TLS, credentials in the URL, no host, a bad port, anything
            behind it.
    """
    try:
        parts = urlsplit(url)
        port = 1883 if parts.port is None else parts.port
    except ValueError as error:
        raise ControlError(f"control url: {error}; write mqtt://host:port") from None
    if "@" in parts.netloc:  # first, and without the URL: it would print a password
        raise ControlError(
            "control url: holds credentials; put user and password into the secrets file"
        )
    if parts.scheme in ("mqtts", "ssl", "wss"):
        raise ControlError(
            f"{url}: TLS is not spoken here; use mqtt:// in a network of your own or through a "
            "tunnel"
        )
    if parts.scheme != "mqtt":
        raise ControlError(f"{url}: scheme {parts.scheme!r} is not known; write mqtt://host:port")
    if (
        not parts.hostname
        or port == 0
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ControlError(
            f"{url}: write mqtt://host:port, with a port of 1 to 65535 and nothing behind it"
        )
    return parts.hostname, port


def read_secret(path: Path) -> tuple[str, str]:
    """User name and password from a file: a line each, or ``user:password`` on one line.

    A file that every user of the machine may read is refused, as ssh does with its keys; its group
    may read it.

    Raises:
        ControlError: no such file, readable by all, empty, not of that form.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            lines = file.read(4096).decode("utf-8").splitlines()
    except OSError as error:
        raise ControlError(
            f"secrets file {path}: {error.strerror}; make one with user and password"
        ) from None
    except UnicodeDecodeError:
        raise ControlError(
            f"secrets file {path}: not UTF-8 text; write user and password, a line each"
        ) from None
    if os.name == "posix" and mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ControlError(
            f"secrets file {path}: open to every user (mode {stat.S_IMODE(mode):o}); chmod 600 it"
        )
    while lines and not lines[-1]:
        lines.pop()
    fields = lines[0].split(":", 1) if len(lines) == 1 else lines
    if len(fields) != 2 or not all(fields):
        raise ControlError(
            f"secrets file {path}: wants user and password, a line each or as user:password on one"
        )
    return fields[0], fields[1]


def explain(error: OSError | UnicodeError) -> str:
    """Reason and cure for a TCP connection that could not be made."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return "host not found; check its name"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there; start the broker or check the port"
    if isinstance(error, TimeoutError):
        return "no answer; check the address and firewalls"
    return f"{error.strerror or error}; check the network"
