"""The bench of the radio: every study's trials over a few processes, their figures against the
bars.

A trial's randomness comes from its study's name and its place there alone, so that figures do not
depend on the number of processes, nor on which other studies run beside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from hil.benchmarks.link import acquisition, coding
from hil.benchmarks.link import sessions as session
from hil.benchmarks.link.bars import Bar, number
from hil.benchmarks.link.report import write_report
from hil.benchmarks.link.speed import machine
from hil.benchmarks.link.study import Job, Study, run_job
from hil.contract import ConfigError
from hil.system.workers import run_jobs

OnProgress = Callable[[int, int, str], None]
"""(done, total, what was done last)."""

_TIMEOUT_S = 1800.0
_COLOURS = {
    "met": "green",
    "reach met": "green",
    "short": "red",
    "reach missed": "yellow",
    "measured": "default",
}


STUDIES: Final[Mapping[str, Study]] = {
    "detection": Study(acquisition.detection_tasks, acquisition.detection_bars),
    "false-alarms": Study(acquisition.false_alarm_tasks, acquisition.false_alarm_bars),
    "snr": Study(acquisition.snr_tasks, acquisition.snr_bars),
    "genie": Study(coding.genie_tasks, coding.genie_bars),
    "chain": Study(coding.chain_tasks, coding.chain_bars),
    "harsh": Study(coding.harsh_tasks, coding.harsh_bars),
    "chase": Study(coding.chase_tasks, coding.chase_bars),
    "fades": Study(session.fade_tasks, session.fade_bars),
    "delivery": Study(session.delivery_tasks, session.delivery_bars),
    "sessions": Study(session.session_tasks, session.session_bars),
    "goodput": Study(session.goodput_tasks, session.goodput_bars),
    "repair": Study(session.repair_tasks, session.repair_bars),
    "speed": Study(session.speed_tasks, session.speed_bars, alone=True),
}
"""By name, in the order of the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBench:
    """What a run of the bench came to.

    Attributes:
        bars: one line each, in the order of the studies.
        curves: what plots are drawn from, by study; plain values.
        machine: CPU, cores, load average when the bench began.
        quick: the short form.
        took_s: wall-clock time.
    """

    bars: tuple[Bar, ...]
    curves: Mapping[str, Any]
    machine: Mapping[str, Any]
    quick: bool
    took_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bench": "link",
            "snr": "Es/N0 per used subcarrier, dB",
            "quick": self.quick,
            "took_s": round(self.took_s, 1),
            "machine": dict(self.machine),
            "bars": [bar.as_json() for bar in self.bars],
            "curves": self.curves,
        }


def measure(
    *,
    quick: bool,
    out_dir: Path | None = None,
    only: Sequence[str] = (),
    workers: int = 0,
    on_progress: OnProgress = lambda done, total, what: None,
) -> LinkBench:
    """Measure, and write link.json and link.html into out_dir.

    Args:
        quick: a short form, about a minute: few trials, wide intervals.
        out_dir: made if it is not there; None: nothing is written.
        only: names of studies; all of them if empty.
        workers: processes; 0 = one a core. Timings are always taken with one process alone.
        on_progress: called after every job.

    Raises:
        ConfigError: for an unknown study, or a directory that cannot be written.
    """
    unknown = sorted(set(only) - set(STUDIES))
    if unknown:
        raise ConfigError(
            f"bench link --only {', '.join(unknown)}: studies are {', '.join(STUDIES)}"
        )
    chosen = [name for name in STUDIES if not only or name in only]
    began_s, where = time.monotonic(), machine()
    results = _results(chosen, quick, workers, on_progress)
    bars: list[Bar] = []
    curves: dict[str, Any] = {}
    for name in chosen:
        study_bars, study_curves = STUDIES[name].summarise(results)
        bars += study_bars
        curves[name] = study_curves
    done = LinkBench(
        bars=tuple(bars),
        curves=curves,
        machine=where,
        quick=quick,
        took_s=time.monotonic() - began_s,
    )
    if out_dir is not None:
        _write(done, out_dir)
    return done


def _results(
    chosen: Sequence[str], quick: bool, workers: int, on_progress: OnProgress
) -> dict[str, list[Any]]:
    """Results by study, in the order of its tasks; a stage may look at those before it."""
    results: dict[str, list[Any]] = {}
    together = [(name, task) for name in chosen for task in STUDIES[name].tasks(quick)]
    total, done = len(together), 0
    numbers = dict.fromkeys(chosen, 0)
    jobs: dict[bool, list[Job]] = {False: [], True: []}
    for name, task in together:
        jobs[STUDIES[name].alone].append(Job(name, numbers[name], task))
        numbers[name] += 1
        results.setdefault(name, []).append(None)
    for alone, waiting in jobs.items():
        # the longest first, so that no process is left waiting for one that began late
        waiting.sort(key=lambda job: -job.task.weight)

        def keep(job: Job, result: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            results[job.study][job.number] = result
            on_progress(done, total, job.study)

        run_jobs(
            run_job, waiting, workers=1 if alone else workers, timeout_s=_TIMEOUT_S, on_done=keep
        )
    return results


def _write(done: LinkBench, out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_json(done, out_dir / "link.json")
    except OSError as error:
        raise ConfigError(
            f"bench link: {out_dir}: {error.strerror}; choose another folder"
        ) from error
    write_report(done.as_json(), out_dir / "link.html")


def write_json(done: LinkBench, path: Path) -> None:
    """All figures and curves as one JSON file."""
    path.write_text(json.dumps(done.as_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def bar_table(done: LinkBench) -> Table:
    """One line a bar, for the terminal."""
    kind = "short form" if done.quick else "long form"
    where = done.machine
    load = (
        f"load average {where['load_average']} "
        f"({'idle' if where['idle'] else 'NOT idle: timings are worth little'})"
    )
    table = Table(
        title=f"link bench, {kind}, {done.took_s:.0f} s, {where['cores']} cores of "
        f"{where['cpu']}, {load}",
        title_justify="left",
    )
    for head in ("figure of", "figure [95 %]", "trials", "bar", "reach", "verdict"):
        table.add_column(
            head,
            justify="left" if head in ("figure of", "verdict") else "right",
            no_wrap=head != "figure of",
        )
    for bar in done.bars:
        low, high = bar.estimate.low, bar.estimate.high
        interval = f" [{number(low)}, {number(high)}]" if low == low and high == high else ""
        sign = "≥" if bar.higher else "≤"
        bounds = [
            "" if bound is None else f"{sign} {number(bound)}" for bound in (bar.bar, bar.reach)
        ]
        colour = _COLOURS[bar.verdict]
        table.add_row(
            f"{bar.study}: {bar.name}",
            f"{number(bar.estimate.figure)}{interval} {bar.unit}".rstrip(),
            f"{bar.trials:,} {bar.of}",
            *bounds,
            f"[{colour}]{bar.verdict}[/]",
        )
    return table
