"""Emulated Plutos in a process of their own, and libiio's command line tools as their clients."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

PATIENCE_S = 90
RX, TX = "cf-ad9361-lpc", "cf-ad9361-dds-core-lpc"
SERVE = [sys.executable, "-m", "hil.cli", "emulate-pluto", "--nodes", "2", "--free-running"]

needs_tools = pytest.mark.skipif(
    shutil.which("iio_info") is None, reason="needs Debian's libiio-utils"
)


def _end(server: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    server.send_signal(number)
    try:
        return server.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.communicate()
        raise


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    server = subprocess.Popen(SERVE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        _, errors = _end(server, signal.SIGTERM)
    assert errors == "hil emulate-pluto: starting software Plutos ...\n"
    assert server.returncode == 0


def _tool(*words: str, data: bytes | None = None) -> bytes:
    done = subprocess.run(words, input=data, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout


@pytest.mark.slow
@needs_tools
def test_iio_info_lists_everything_without_an_error(uri: str) -> None:
    listing = _tool("iio_info", "-u", uri).decode()
    assert "ERROR" not in listing
    assert "hw_model: emulated" in listing
    assert listing.count("buffer capable") == 2
    for line in (
        "voltage0:  (input, index: 0, format: le:S12/16>>0)",
        "altvoltage3: TX1_Q_F2 (output)",
    ):
        assert line in listing


@pytest.mark.slow
@needs_tools
def test_iio_attr_reads_and_writes(uri: str) -> None:
    _tool("iio_attr", "-u", uri, "-c", "-o", "ad9361-phy", "RX_LO", "frequency", "868000000")
    read = _tool("iio_attr", "-u", uri, "-c", "-o", "ad9361-phy", "RX_LO", "frequency")
    assert int(read) == pytest.approx(868e6, abs=8)
    _tool("iio_attr", "-u", uri, "-d", "ad9361-phy", "ensm_mode", "fdd")
    assert _tool("iio_attr", "-u", uri, "-D", "ad9361-phy", "loopback").strip() == b"0"


@pytest.mark.slow
@needs_tools
def test_iio_readdev_and_iio_writedev_stream(uri: str) -> None:
    received = np.frombuffer(
        _tool("iio_readdev", "-u", uri, "-b", "4096", "-s", "65536", RX), "<i2"
    )
    assert len(received) == 2 * 65536
    assert 0 < abs(received.astype(int)).max() <= 2048
    one_channel = _tool("iio_readdev", "-u", uri, "-b", "4096", "-s", "8192", RX, "voltage1")
    assert len(one_channel) == 2 * 8192
    _tool("iio_writedev", "-u", uri, "-b", "4096", "-s", "16384", TX, data=bytes(4 * 16384))
