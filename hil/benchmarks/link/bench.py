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

from hil.benchmarks.link import acquisition, coding, sessions, speeds
from hil.benchmarks.link.bars import Bar, number
from hil.benchmarks.link.report import write_report
from hil.benchmarks.link.speed import machine
from hil.benchmarks.link.study import Job, Study, run_job
from hil.contract import ConfigError
from hil.reporting.text_table import TextTable
from hil.system.workers import run_jobs

OnProgress = Callable[[int, int, str], None]
"""(done, total, what was done last)."""

_TIMEOUT_S = 1800.0


STUDIES: Final[Mapping[str, Study]] = {
    "detection": Study(acquisition.detection_tasks, acquisition.detection_bars),
    "false-alarms": Study(acquisition.false_alarm_tasks, acquisition.false_alarm_bars),
    "snr": Study(acquisition.snr_tasks, acquisition.snr_bars),
    "genie": Study(coding.genie_tasks, coding.genie_bars),
    "chain": Study(coding.chain_tasks, coding.chain_bars),
    "harsh": Study(coding.harsh_tasks, coding.harsh_bars),
    "chase": Study(coding.chase_tasks, coding.chase_bars),
    "fades": Study(sessions.fade_tasks, sessions.fade_bars),
    "delivery": Study(sessions.delivery_tasks, sessions.delivery_bars),
    "sessions": Study(sessions.session_tasks, sessions.session_bars),
    "goodput": Study(sessions.goodput_tasks, sessions.goodput_bars),
    "repair": Study(sessions.repair_tasks, sessions.repair_bars),
    "speed": Study(speeds.speed_tasks, speeds.speed_bars, alone=True),
}
"""The studies by name, in the order of the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBench:
    """What a run of the bench came to.

    Attributes:
        bars: one line each, in the order of the studies.
        curves: points of the plots, by study; plain values.
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
    jobs: dict[bool, list[Job]] = {False: [], True: []}
    for name in chosen:
        tasks = STUDIES[name].tasks(quick)
        results[name] = [None] * len(tasks)
        jobs[STUDIES[name].alone] += [Job(name, k, task) for k, task in enumerate(tasks)]
    total, done = sum(map(len, results.values())), 0
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


def bar_table(done: LinkBench) -> TextTable:
    """Every bar with its verdict, for the terminal."""
    where = done.machine
    load = "idle" if where["idle"] else "NOT idle: timings are worth little"
    rows: list[tuple[str, str]] = []
    for bar in done.bars:
        rows.append((bar.verdict, f"{bar.study}: {bar.name}"))
        rows.append(("", _figures(bar)))
    return TextTable(
        title=f"link bench, {'short' if done.quick else 'long'} form, {done.took_s:.0f} s; "
        f"{where['cores']} cores of {where['cpu']}, load average {where['load_average']} ({load})",
        heads=("verdict", "figure"),
        rows=rows,
        notes=("SNR: Es/N0 per used subcarrier, in dB; intervals: 95 %",),
        text_columns=("verdict", "figure"),
    )


def short_of(done: LinkBench) -> list[str]:
    """The figures that miss their bar. Timings count on an idle machine only."""
    timed = {name for name, study in STUDIES.items() if study.alone and not done.machine["idle"]}
    return [
        f"{bar.study}: {bar.name}"
        for bar in done.bars
        if bar.verdict == "short" and bar.study not in timed
    ]


def _figures(bar: Bar) -> str:
    """A bar's figure with its interval, what it rests on, and its bounds."""
    low, high = bar.estimate.low, bar.estimate.high
    interval = f" [{number(low)}, {number(high)}]" if low == low and high == high else ""
    unit = f" {bar.unit}" if bar.unit else ""
    sign = "≥" if bar.higher else "≤"
    bounds = [
        f"{name} {sign} {number(bound)}"
        for name, bound in (("bar", bar.bar), ("reach", bar.reach))
        if bound is not None
    ]
    figure = f"{number(bar.estimate.figure)}{interval}{unit}"
    return "; ".join([figure, *bounds, f"{bar.trials:,} {bar.of}"])
