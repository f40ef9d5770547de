"""How long a training step takes, alone and beside other work on the same cores."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cloud.finetuning.finetuner import FineTuner
from cloud.model.base_model import open_base_model
from cloud.text.loading import load_domains
from cloud.text.sources import DomainSampler
from hil.settings import Settings
from hil.system.threads import thread_count, usable_cores

STEPS: Final = 9
"""Steps of one figure, which is their median."""
_WARM_UP_STEPS: Final = 3
_BUSY_LOOPS: Final = (0, 1, 4)


def bench(settings: Settings, on_progress: Callable[[int, int, str], None]) -> dict[str, float]:
    """Seconds a training step, the median of nine, beside 0, 1 and 4 busy processes.

    Every figure trains on the same examples of the first domain, so that only the company differs.

    Args:
        settings: model, text and [finetune]; its steps are not used.
        on_progress: called with figures done, figures in all, and what is measured.
    Returns:
        "threads" and "cores", and by number of busy processes "step_s" and, beside others,
        "slowdown", the ratio to the figure without.
    Raises:
        ModelError, TextError: as for a run with these settings.
    """
    base = open_base_model(settings.model.base)
    tuner = FineTuner(base, settings.model, settings.finetune, settings.run.seed)
    limit = base.token_limit(settings.finetune.max_tokens)
    domains, stream = load_domains(settings.text, settings.run.seed, limit)
    sampler = DomainSampler(domains[stream[0]], settings.run.seed)
    batch = settings.finetune.batch
    tuner.train(sampler.draw(_WARM_UP_STEPS * batch))
    examples = sampler.draw(STEPS * batch)
    figures: dict[str, float] = {
        "threads": thread_count(settings.finetune.threads),
        "cores": usable_cores(),
    }
    for done, loops in enumerate(_BUSY_LOOPS):
        on_progress(done, len(_BUSY_LOOPS), f"beside {loops} busy processes")
        steps = _StepTimes()
        with _busy(loops):
            steps.start()
            tuner.train(examples, steps.note)
        figures[f"step_s_beside_{loops}"] = statistics.median(steps.seconds)
        if loops:
            alone_s = figures["step_s_beside_0"]
            figures[f"slowdown_beside_{loops}"] = figures[f"step_s_beside_{loops}"] / alone_s
    on_progress(len(_BUSY_LOOPS), len(_BUSY_LOOPS), "done")
    return figures


class _StepTimes:
    """Seconds between one step's end and the next one's."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last_s = 0.0

    def start(self) -> None:
        self._last_s = time.perf_counter()

    def note(self) -> None:
        now_s = time.perf_counter()
        self.seconds.append(now_s - self._last_s)
        self._last_s = now_s


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    """So many processes that each keep a core busy, until the block ends."""
    command = [sys.executable, "-c", "while True: pass"]
    with ExitStack() as stack:
        for _ in range(loops):
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
        yield
