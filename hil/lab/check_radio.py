"""Radios and their libraries, looked for by other processes with a deadline: libiio can hang."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterable

from hil.contract import DeviceError

PYLIBIIO = "0.25"
"""The last release that speaks to the libiio 0.x that Debian ships."""
_DEADLINE_S = 10.0
_CONTEXT_LINE = re.compile(r"^\t(hw_model|hw_serial|fw_version): (.*)$", re.MULTILINE)


def libraries() -> str:
    """Versions of libiio, pylibiio and pyadi-iio.

    Raises:
        DeviceError: one is missing, or two do not fit; with what to type.
    """
    if ctypes.util.find_library("iio") is None:
        raise DeviceError("libiio is not installed; type: apt-get install libiio0 libiio-utils")
    versions = {}
    for name in ("pylibiio", "pyadi-iio"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise DeviceError(
                f"{name} is not installed; type: pip install 'hil-lora-testbed[pluto]'"
            ) from None
    if not versions["pylibiio"].startswith("0."):
        raise DeviceError(
            f"pylibiio {versions['pylibiio']} refuses libiio {libiio_version()}; type: pip "
            f"install pylibiio=={PYLIBIIO}"
        )
    return f"libiio {libiio_version()}, " + ", ".join(
        f"{name} {version}" for name, version in versions.items()
    )


def libiio_version() -> str:
    """Version of the installed libiio, "?" where iio_info cannot tell it."""
    found = re.search(r"Library version: (\S+)", _iio_info("-S", "usb"))
    return found.group(1) if found else "?"


def usb_contexts() -> list[str]:
    """Radios on USB, a line each: "usb:1.2.5: ..."; networks are not searched.

    Raises:
        DeviceError: iio_info is missing or does not answer.
    """
    lines = (line.strip() for line in _iio_info("-S", "usb").splitlines())
    return [line for line in lines if "[usb:" in line]


def describe(uri: str) -> dict[str, str]:
    """hw_model, hw_serial and fw_version of the radio at a URI.

    Raises:
        DeviceError: nothing answers there, or no ADALM-Pluto.
    """
    text = _iio_info("-u", uri)
    found = dict(_CONTEXT_LINE.findall(text))
    if "ad9361-phy" not in text or len(found) < 3:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "no answer")
        raise DeviceError(
            f"no ADALM-Pluto at {uri} ({last.strip()}); check the cable, try ping or iio_info -S "
            "usb"
        )
    return found


def radios(uris: Iterable[str]) -> str:
    """Description of every configured radio, in one line.

    Raises:
        DeviceError: one of them does not answer.
    """
    lines = []
    for uri in dict.fromkeys(uris):
        found = describe(uri)
        lines.append(
            f"{uri}: {found['hw_model']}, serial {found['hw_serial']}, firmware "
            f"{found['fw_version']}"
        )
    return "; ".join(lines)


def _iio_info(*arguments: str) -> str:
    program = shutil.which("iio_info")
    if program is None:
        raise DeviceError("iio_info is not installed; type: apt-get install libiio-utils")
    command = [program, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"`{' '.join(['iio_info', *arguments])}` has not answered within {_DEADLINE_S:g} s; "
            "restart the radio"
        ) from None
    return done.stdout + done.stderr
