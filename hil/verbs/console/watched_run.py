"""A closed loop on the console: its folder, its waits, a line a round, totals, report, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hil.verbs.console.endings import BUG, INTERRUPTED, MISSED, bench_line, bug_line, complain
from hil.verbs.console.terminal import Bar, Screen

if TYPE_CHECKING:
    from hil.loop.rounds import Watcher
    from hil.reporting.run_folder import Run
    from hil.reporting.verdict import Term
    from hil.settings import Settings

    Loop = Callable[[Settings, Watcher], Path]


def run_watched(loop: Loop, settings: Settings, required: tuple[Term, ...]) -> None:
    """Run a loop, show it, write its report, and judge it.

    Args:
        loop: runs all rounds; returns the run's folder.
        settings: the run's settings.
        required: what the run must reach.
    Raises:
        HilError: the bench is broken.
        typer.Exit: the run was interrupted, met a bug, or missed what was required.
    """
    screen = Screen()
    folders: list[Path] = []
    steps = settings.finetune.steps + settings.finetune.plan_steps
    try:
        with screen.at_work("opening the bench", total=settings.run.rounds * steps) as bar:
            loop(settings, _watcher(screen, bar, folders, settings.run.rounds, steps))
    except KeyboardInterrupt:
        _interrupted(screen, folders)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if bench_line(error) is not None or not folders:
            raise
        complain(bug_line(error, folders[0] / "log.txt"))
        raise typer.Exit(BUG) from None
    _judge(screen, _finish(screen, folders[0]), required)


def _watcher(screen: Screen, bar: Bar, folders: list[Path], rounds: int, steps: int) -> Watcher:
    """Shows a run in the bar, and prints a line for each round."""
    from hil.loop.rounds import Watcher

    def on_start(folder: Path) -> None:
        folders.append(folder)
        screen.file("run folder", folder)

    def on_stage(round_id: int, stage: str) -> None:
        bar.describe(f"round {round_id} ({round_id + 1} of {rounds}): {stage}")

    def on_round(row: Mapping[str, Any]) -> None:
        if row["round.id"] == 0:
            screen.show_head()
        screen.show_round(row)
        bar.reach((row["round.id"] + 1) * steps)  # a round that sends nothing takes fewer steps

    return Watcher(
        on_start=on_start,
        on_text_note=lambda note: screen.say(f"text: {note}"),
        on_stage=on_stage,
        on_step=bar.advance,
        on_round=on_round,
    )


def _interrupted(screen: Screen, folders: list[Path]) -> None:
    """Leave a report of the rounds that were finished, and name the folder."""
    if not folders:
        return
    complain(f"stopped; the rounds that were finished are in {folders[0]}")
    _finish(screen, folders[0])


def _finish(screen: Screen, folder: Path) -> Run:
    """Show the run's totals and write its report; the run as its folder holds it."""
    from hil.reporting.report import write_report
    from hil.reporting.run_folder import read_run
    from hil.reporting.totals import totals_table

    run = read_run(folder)
    screen.wait("drawing the report ...")
    write_report([run], folder / "report.html")
    screen.show(totals_table(run))
    screen.file("report", folder / "report.html")
    return run


def _judge(screen: Screen, run: Run, required: tuple[Term, ...]) -> None:
    from hil.reporting.verdict import missed

    found = missed(required, run.rows)
    for line in found:
        screen.say(f"missed: {line}")
    if found:
        raise typer.Exit(MISSED)
