"""Independent jobs over a few processes, one thread each; whatever happens, no process is left
behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from hil.contract import DeviceError
from hil.system.threads import usable_cores

_THREAD_LIMITS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_GRACE_S: Final = 5.0  # for a worker that was told to end, before it is killed

Job = TypeVar("Job")
Done = TypeVar("Done")


def run_jobs(
    function: Callable[[Job], Done],
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    timeout_s: float = 3600.0,
    on_done: Callable[[Job, Done], None] = lambda job, done: None,
) -> None:
    """Run function(job) for every job, each in one of a few processes that compute with one thread.

    Args:
        function: a function in a module that other processes can import.
        jobs: the jobs in the order in which they begin; each can be pickled.
        workers: number of processes; 0 = one for each core of the affinity mask.
        timeout_s: longest time in which no job at all comes to its end.
        on_done: called here with every job and its result, in the order in which they end.
    Raises:
        HilError: a job raised it; or DeviceError when a worker died or the deadline was missed.
        KeyboardInterrupt: after every worker has ended.
    """
    if not jobs:
        return
    before = set(multiprocessing.active_children())
    with _one_thread_each():
        context = multiprocessing.get_context("spawn")
        count = min(workers or usable_cores(), len(jobs))
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare_worker)
        try:
            waiting = {pool.submit(function, job): job for job in jobs}
            while waiting:
                done, _ = wait(waiting, timeout=timeout_s, return_when=FIRST_COMPLETED)
                for future in _checked(done, timeout_s):
                    on_done(waiting.pop(future), future.result())
            pool.shutdown()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end(set(multiprocessing.active_children()) - before)
            raise


def _prepare_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="parent-watch", daemon=True).start()


def _checked(done: set[Future[Done]], timeout_s: float) -> set[Future[Done]]:
    if not done:
        raise DeviceError(
            f"no worker finished a job within {timeout_s:g} s; raise the deadline or make jobs "
            "smaller"
        )
    for future in done:
        if isinstance(error := future.exception(), BrokenProcessPool):
            raise DeviceError(
                "a worker process died, as a rule for want of memory; use fewer workers"
            ) from error
    return done


def _end(processes: set[Any]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join(_GRACE_S)
    # the pool's own thread may be the one that reaped a worker: join() then returns before that
    # thread has noted it
    until_s = time.monotonic() + _GRACE_S
    while processes & set(multiprocessing.active_children()) and time.monotonic() < until_s:
        time.sleep(0.01)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children started in here compute with one thread each: libraries read this when they are
    imported."""
    before = {name: os.environ.get(name) for name in _THREAD_LIMITS}
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
