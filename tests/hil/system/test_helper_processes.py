"""Programs beside an experiment: their lines, their ends, and that nothing of them stays behind."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hil.system.helper_processes import (
    HelperError,
    HelperProcess,
    free_port,
    mosquitto,
    wait_for_port,
)

LIMIT_S = 60.0


def python(code: str, tmp_path: Path) -> HelperProcess:
    return HelperProcess("a helper", [sys.executable, "-c", code], tmp_path / "log")


def soon() -> float:
    return time.monotonic() + LIMIT_S


def test_lines_come_as_they_are_written_and_the_end_is_waited_for(tmp_path: Path) -> None:
    with python(
        "import time\nfor n in range(3): print('line', n, flush=True); time.sleep(0.05)", tmp_path
    ) as helper:
        assert helper.wait_for_line(soon()) == "line 0"
        assert list(helper.relay(soon())) == ["line 1", "line 2"]


def test_a_failing_program_is_named_with_its_last_words(tmp_path: Path) -> None:
    with (
        python("import sys\nprint('one'); sys.exit('the reason')", tmp_path) as helper,
        pytest.raises(HelperError, match=r"^a helper ended with status 1: the reason$"),
    ):
        list(helper.relay(soon()))


def test_a_deadline_and_a_neighbour_that_dies_end_the_wait(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    with python(sleep, tmp_path) as helper, pytest.raises(HelperError, match="missed its deadline"):
        list(helper.relay(time.monotonic() + 0.2))
    neighbour = HelperProcess(
        "the neighbour", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "other"
    )
    with (
        python(sleep, tmp_path) as helper,
        neighbour,
        pytest.raises(HelperError, match="the neighbour ended with status 3"),
    ):
        list(helper.relay(soon(), [neighbour]))


@pytest.mark.slow
def test_nothing_is_left_when_the_block_ends_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what the program has started itself, and does not end."""
    monkeypatch.setattr("hil.system.helper_processes._KILL_S", 0.5)
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    started: list[psutil.Process] = []

    def fail(helper: HelperProcess) -> None:
        started.append(psutil.Process(int(helper.wait_for_line(soon()))))
        raise KeyError

    with pytest.raises(KeyError), python(code, tmp_path) as helper:
        fail(helper)
    [grandchild] = started
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    with (
        pytest.raises(HelperError, match="1 of its processes had to be killed"),
        python(code, tmp_path) as helper,
    ):
        helper.wait_for_line(soon())


def test_a_broker_of_ones_own(tmp_path: Path, start_broker: Any) -> None:
    port = free_port()
    with mosquitto(port, tmp_path) as broker:
        wait_for_port(broker, port, soon())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1.0)
