"""The controller: train and eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hil.settings import load_settings
from hil.verbs.options import (
    CONTROLLER_CONFIG,
    QUICK_STREAMS,
    ConfigOption,
    QuickOption,
    SetOption,
    WorkersOption,
)
from hil.verbs.terminal import console_of_terminal, counter, progress_bar

app = typer.Typer()


@app.command()
def train(
    learners: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LEARNER]…", help="ours, ppo, airllm, airllm-published; all of them."
        ),
    ] = None,
    config: ConfigOption = CONTROLLER_CONFIG,
    sets: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder; one that was begun is gone on with.")] = Path(
        "runs/train"
    ),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Environment steps; else as each learner needs.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each learner (streams.seeds).")
    ] = None,
    workers: WorkersOption = 0,
    quick: QuickOption = False,
) -> None:
    """Train the controller: streams, fitted tables, learners; the weights end in
    OUT/LEARNER.safetensors."""
    settings = load_settings(config, [*(sets or []), *(QUICK_STREAMS if quick else ())])
    from hil.learning.learners import kinds_of
    from hil.learning.train import chosen_entries
    from hil.learning.train import train as train_learners

    kinds = kinds_of(learners or [])
    console = console_of_terminal()
    with progress_bar(console) as progress:
        entries = train_learners(
            settings,
            kinds,
            out,
            steps=min(steps or 2_000, 2_000) if quick else steps,
            seeds=min(seeds or settings.streams.seeds, 1 if quick else 1000),
            workers=workers,
            on_progress=counter(progress),
        )
    chosen_of = chosen_entries(entries)
    for kind in kinds:
        chosen = chosen_of[kind]
        console.print(
            f"{kind}: {out / f'{kind}.safetensors'}, seed {chosen['seed']} at step "
            f"{chosen['step']}: "
            f"excess {-chosen['reward']:.4f} nats at {chosen['mbit']:.3f} Mbit a round",
            highlight=False,
            soft_wrap=True,
        )


@app.command(name="eval")
def evaluate(
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="SPEC", help='"kind,key=value", "name = file.py:Class"; repeatable.'
        ),
    ] = None,
    channels: Annotated[
        list[str] | None, typer.Option("--channel", metavar="NAME", help="Of the SNR; repeatable.")
    ] = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="Of the budget: round, episode."),
    ] = None,
    config: ConfigOption = CONTROLLER_CONFIG,
    sets: SetOption = None,
    out: Annotated[
        Path, typer.Option(help="Folder; what is finished in it is not done again.")
    ] = Path("runs/eval"),
    streams: Annotated[
        int | None, typer.Option(min=1, help="Unseen streams (streams.report).")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Training seeds (streams.seeds).")
    ] = None,
    seeds_per_stream: Annotated[
        int, typer.Option(min=0, help="How many of them each stream gets; 0 = all.")
    ] = 0,
    score_on: Annotated[
        Literal["cloud", "edge"], typer.Option(help="What scores: merged or quantised model.")
    ] = "cloud",
    training: Annotated[
        Path | None, typer.Option(help="training.jsonl of `hil train`, to draw beside.")
    ] = None,
    workers: WorkersOption = 0,
    quick: QuickOption = False,
) -> None:
    """Compare policies on unseen streams: results.parquet, results.json and report.html."""
    settings = load_settings(config, [*(sets or []), *(QUICK_STREAMS if quick else ())])
    from hil.evaluation.evaluate import evaluate_verb

    console = console_of_terminal()
    with progress_bar(console) as progress:
        report, table = evaluate_verb(
            settings,
            policies=policies or [],
            channels=channels or [],
            scopes=scopes or [],
            out_dir=out,
            streams=streams,
            seeds=seeds,
            seeds_per_stream=seeds_per_stream,
            score_on=score_on,
            training=training,
            workers=workers,
            quick=quick,
            on_progress=counter(progress),
        )
    console.print(table)
    console.print(f"report: {report}", soft_wrap=True, highlight=False)
