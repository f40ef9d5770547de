"""Jobs run in processes with one thread each, and whatever happens none of them stays behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hil.contract import ConfigError, DeviceError
from hil.system.workers import run_jobs

ROOT = Path(__file__).parents[3]


def told(word: str) -> tuple[str, int, str | None]:
    if word == "wrong":
        raise ConfigError("that word is wrong")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return word.upper(), os.getpid(), os.environ.get("OMP_NUM_THREADS")


def wait_forever(mark: str) -> None:
    Path(mark).touch()
    time.sleep(120)


def _wait_for(mark: Path) -> None:
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_every_job_is_done_elsewhere_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = {}
    run_jobs(
        told, ["a", "b", "c"], workers=2, on_done=lambda job, result: found.update({job: result})
    )
    assert {job: result[0] for job, result in found.items()} == {"a": "A", "b": "B", "c": "C"}
    assert os.getpid() not in {result[1] for result in found.values()}
    assert {result[2] for result in found.values()} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    run_jobs(told, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "error", "message"),
    [("wrong", ConfigError, "that word is wrong"), ("die", DeviceError, "a worker process died")],
)
def test_an_error_comes_back_and_ends_the_others(
    word: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_jobs(told, [word, "a"], workers=1)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_ctrl_c_ends_the_workers(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def interrupt() -> None:
        _wait_for(mark)
        os.kill(os.getpid(), signal.SIGINT)

    # what was started by a shell's "&" ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_jobs(wait_forever, [str(mark)], workers=1)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def test_a_deadline_ends_the_workers(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no worker finished a job within 0\.1 s"):
        run_jobs(wait_forever, [str(tmp_path / "mark")], workers=1, timeout_s=0.1)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from hil.system.workers import run_jobs\nfrom tests.hil.system.test_workers import "
        "wait_forever\n"
        f"if __name__ == '__main__':\n    run_jobs(wait_forever, [{str(mark)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, script])
    _wait_for(mark)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(10)
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
