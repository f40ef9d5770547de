"""Threads: what the user and the operating system say counts."""

import os
import subprocess
import sys

import pytest

from hil.system.threads import thread_count, usable_cores

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)


def said_by(code: str, **environment: str) -> str:
    """What a fresh interpreter prints that knows no thread variables but these."""
    inherited = {k: v for k, v in os.environ.items() if "THREADS" not in k and "OMP" not in k}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout.strip()


@needs_affinity
def test_the_affinity_mask_limits_cores_and_threads():
    code = (
        "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
        "from hil.system.threads import thread_count, usable_cores\n"
        "print(usable_cores(), thread_count('auto'))"
    )
    assert said_by(code) == "1 1"


@pytest.mark.parametrize(
    ("said", "threads"), [("3", 3), ("5,2", 5), (" 4 ", 4), ("0", None), ("many", None), ("", None)]
)
def test_omp_num_threads_is_taken_for_what_it_says(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert thread_count("auto") == (threads or usable_cores())
    assert thread_count(7) == 7


def test_waiting_threads_sleep_unless_the_user_wants_otherwise():
    code = (
        "import hil, os; print(os.environ['OMP_WAIT_POLICY'], os.environ['OPENBLAS_NUM_THREADS'])"
    )
    assert said_by(code) == "PASSIVE 1"
    assert said_by(code, OMP_WAIT_POLICY="ACTIVE", OPENBLAS_NUM_THREADS="2") == "ACTIVE 2"


@pytest.mark.slow
def test_the_wait_policy_stands_before_torch_is_loaded():
    code = (
        "import sys, cloud.finetuning.finetuner, os\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    assert said_by(code) == "PASSIVE True"
