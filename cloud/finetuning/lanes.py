"""Parts of one computation side by side, each in a thread of its own.

Two threads that compute half a batch each wait for one another once a step. Two threads within
every product of matrices wait thousands of times a step, which costs most where other programs use
the same cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import torch

LANES: Final = 2
"""Parts of a batch, whatever the number of threads: so one thread and two give equal bits."""

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class Lanes:
    """Computes the parts of a batch, or several batches, side by side in threads.

    Args:
        threads: number of threads, ≥ 1. Those beyond LANES work within the parts.
        device: the model's device; on a GPU one part follows another.

    Attributes:
        count: parts into which a batch is worth cutting, 1 or LANES.
    """

    def __init__(self, threads: int, device: torch.device) -> None:
        on_cpu = device.type == "cpu"
        self.count = LANES if on_cpu else 1
        torch.set_num_threads(max(1, threads // self.count))
        self._pool = ThreadPoolExecutor(LANES, "lane") if on_cpu and threads > 1 else None

    def each(self, compute: Callable[[_Part], _Result], parts: Iterable[_Part]) -> list[_Result]:
        """What `compute` gives for each part, in their order; gradients are on or off as for the
        caller."""
        if self._pool is None:
            return [compute(part) for part in parts]
        call = partial(_with_gradients, torch.is_grad_enabled(), compute)
        return list(self._pool.map(call, parts))


def _with_gradients(on: bool, compute: Callable[[_Part], _Result], part: _Part) -> _Result:
    # Whether gradients are recorded is a state of the thread.
    with torch.set_grad_enabled(on):
        return compute(part)
