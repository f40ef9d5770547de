"""How many cores this process may compute on, as the user and the operating system say."""

from __future__ import annotations

import os
from typing import Literal


def usable_cores() -> int:
    """Number of cores in this process's affinity mask, ≥ 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(asked: int | Literal["auto"]) -> int:
    """Number of threads for one computation, ≥ 1.

    Args:
        asked: a number, or "auto": what OMP_NUM_THREADS says, else one thread a usable core.
    """
    if asked != "auto":
        return asked
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(said) if said.isdecimal() and int(said) > 0 else usable_cores()
