"""What a person sees while something runs: console, progress, a line a round, the table at the
end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hil.settings import Settings

if TYPE_CHECKING:
    from hil.loop.rounds import Watcher


def console_of_terminal() -> Console:
    """The terminal as it is; on a pipe wide enough for the table."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def progress_bar(console: Console) -> Progress:
    """A bar with an estimate of what is left; nothing where there is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def counter(progress: Progress) -> Callable[[int, int, str], None]:
    """Draws (done, total, what was done last); a line each where there is no terminal to draw
    on."""
    task = progress.add_task("starting", total=None)

    def on_progress(done: int, total: int, what: str) -> None:
        progress.update(task, completed=done, total=total, description=what)
        if progress.disable:
            progress.console.print(
                f"{done}/{total}  {what}", highlight=False, markup=False, soft_wrap=True
            )

    return on_progress


def watcher(settings: Settings, progress: Progress) -> Watcher:
    """Shows a run in the bar, and prints a line for each round."""
    from hil.loop.rounds import Watcher

    steps, rounds = settings.finetune.steps + settings.finetune.plan_steps, settings.run.rounds
    task = progress.add_task("setting up", total=rounds * steps)
    console = progress.console

    def on_stage(round_id: int, stage: str) -> None:
        progress.update(task, description=f"round {round_id + 1} of {rounds}: {stage}")

    def on_round(row: Mapping[str, Any]) -> None:
        progress.update(
            task, completed=(row["round.id"] + 1) * steps
        )  # a round that sends nothing takes fewer
        console.print(round_line(row), highlight=False, markup=False, soft_wrap=True)

    return Watcher(on_stage=on_stage, on_step=lambda: progress.advance(task), on_round=on_round)


def round_line(row: Mapping[str, Any]) -> str:
    """What one round came to, in one line."""
    ranks = [value for key, value in row.items() if key.startswith("plan.rank.")]
    numbers = [rank for rank in ranks if isinstance(rank, int)]
    mean_rank = f"{sum(numbers) / len(numbers):4.1f}" if numbers else "keep"
    labels = row["edge.score"] is not None and row["edge.score"] == row["edge.score"]
    if labels:
        score = f"score {100 * row['edge.base_score']:5.1f} → {100 * row['edge.score']:5.1f} %"
        gain = f"{100 * row['edge.gain']:+5.1f} ± {100 * row['edge.gain_std_error']:.1f}"
    else:
        score = (
            f"loss  {row['edge.base_loss_nats_per_token']:5.2f} → "
            f"{row['edge.loss_nats_per_token']:5.2f}  "
        )
        gain = f"{row['edge.gain']:+5.2f} ± {row['edge.gain_std_error']:.2f}"
    reason = f" ({row['edge.reason']})" if row["edge.reason"] else ""
    return (
        f"{row['round.id']:3d}  {row['text.domain']:<12} SNR {row['channel.snr_db']:5.1f} dB  "
        f"budget {row['budget.bits'] / 1e3:6.0f} kbit  mean rank {mean_rank}  "
        f"on air {row['link.bits_on_air'] / 1e3:6.0f} kbit in {row['link.airtime_s']:5.2f} s  "
        f"{row['edge.status']}{reason}  {score}  gain {gain}  [{row['timing.round_s']:.1f} s]"
    )


def finish(folder: Path, console: Console) -> None:
    """The finished run's table, and its report."""
    from hil.reporting.report import terminal_table, write_report
    from hil.reporting.run_folder import read_run

    finished = read_run(folder)
    write_report([finished], folder / "report.html")
    console.print(terminal_table(finished))
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


def print_figures(figures: Mapping[str, Any]) -> None:
    """One figure a line."""
    console = Console(highlight=False, soft_wrap=True)
    for key, value in figures.items():
        console.print(
            f"{key:<44} {value:.4g}" if isinstance(value, float) else f"{key:<44} {value}"
        )
