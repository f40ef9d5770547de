"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line, exit code 130, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hil.reporting.run_folder import read_run

ROOT = Path(__file__).parents[3]
LIMIT_S = 120


@pytest.fixture
def start():
    """Starts `hil run` in a process group of its own, its output on pipes."""
    started = []

    def run(*options):
        process = subprocess.Popen(
            [sys.executable, "-m", "hil.cli", "run", *options],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            process_group=0,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "delay_s"),
    [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.1), (signal.SIGINT, 0.4), (signal.SIGHUP, 1.0)],
)
def test_while_importing(start, small, tmp_path, number, delay_s):
    process = start(*small(tmp_path, "run.rounds=5000"))
    assert process.stderr.readline().startswith("hil run: ")
    time.sleep(delay_s)  # somewhere among the imports
    os.killpg(process.pid, number)  # as a terminal does it: to the whole group
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "Traceback" not in out + errors
    assert "Exception ignored" not in errors
    if number != signal.SIGHUP:  # then nobody is there to read it
        assert errors.splitlines()[-1] == "hil: interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_mid_run(start, small, tmp_path, number):
    process = start(*small(tmp_path, "run.rounds=5000"))
    named = process.stdout.readline()
    lines = iter(process.stdout.readline, "")
    first = next(line for line in lines if line.lstrip().startswith("0 jargon40"))
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=LIMIT_S)
    [folder] = tmp_path.iterdir()
    assert named == f"run folder: {folder}\n"
    assert first
    assert process.returncode == 130
    assert "Traceback" not in errors
    run = read_run(folder)
    assert run.outcome == "interrupted"
    assert len(run.rows) >= 1
    assert (folder / "report.html").stat().st_size > 50_000
    if number != signal.SIGHUP:
        assert str(folder) in errors
        assert errors.splitlines()[-1] == "hil: interrupted"
    assert children
    deadline = time.monotonic() + LIMIT_S
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, "a child process is left"
        time.sleep(0.05)


def test_a_run_under_nohup_does_not_hear_the_terminal_go():
    code = (
        "import os, signal, sys, hil.cli\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "sys.argv = ['hil', '--version']\n"
        "try: hil.cli.main()\n"
        "finally: os.kill(os.getpid(), signal.SIGHUP); print('still here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.endswith("still here\n")
