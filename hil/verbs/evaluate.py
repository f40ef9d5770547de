"""`hil eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hil.verbs.console.options import (
    CONTROLLER_CONFIG,
    QUICK_STREAMS,
    ConfigOption,
    QuickOption,
    SetOption,
    WorkersOption,
    read_settings,
)

_PoliciesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="SPEC",
        help='A policy to compare: "kind,key=value", or your own as "name = file.py:Class". '
        "May be repeated; else all that ship.",
    ),
]
_ChannelsOption = Annotated[
    list[str] | None,
    typer.Option("--channel", metavar="NAME", help="How the SNR moves. May be repeated."),
]
_ScenariosOption = Annotated[
    Path | None,
    typer.Option("--scenarios", metavar="FILE", help="Channels of your own, a TOML table each."),
]
_ScopesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        metavar="SCOPE",
        help="The budget's scope: round, episode. Repeatable.",
    ),
]
_OutOption = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Where results go; what is finished there is kept."),
]
_StreamsOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Streams of text; else streams.report."),
]
_SeedsOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Training seeds; else streams.seeds.")
]
_SeedsPerStreamOption = Annotated[
    int, typer.Option(metavar="N", min=0, help="Seeds that each stream gets; 0 = all.")
]
_ScoreOnOption = Annotated[
    Literal["cloud", "edge"],
    typer.Option(help="Score the cloud's merged model, or the edge's quantised one."),
]
_TrainingOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="training.jsonl of `hil train`, to draw beside."),
]


def evaluate(
    policies: _PoliciesOption = None,
    channels: _ChannelsOption = None,
    scenarios: _ScenariosOption = None,
    scopes: _ScopesOption = None,
    config: ConfigOption = CONTROLLER_CONFIG,
    sets: SetOption = None,
    out: _OutOption = Path("runs/eval"),
    streams: _StreamsOption = None,
    seeds: _SeedsOption = None,
    seeds_per_stream: _SeedsPerStreamOption = 0,
    score_on: _ScoreOnOption = "cloud",
    training: _TrainingOption = None,
    workers: WorkersOption = 0,
    quick: QuickOption = False,
) -> None:
    """Compare policies on texts that are new to them.

    Every policy meets the same streams, seeds and channels. Writes results.parquet, results.json
    and report.html.

    Exit codes: 0 fine; 1 a bug; 2 the configuration is broken; 130 interrupted (start again with
    the same DIR to go on).
    """
    settings = read_settings(config, [*(sets or []), *(QUICK_STREAMS if quick else ())])
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    screen.wait("loading PyTorch and transformers ...")
    from hil.evaluation.evaluate import evaluate_verb

    with screen.at_work("training the first stream") as bar:
        report, tables = evaluate_verb(
            settings,
            policies=policies or [],
            channels=channels or [],
            scenario_file=scenarios,
            scopes=scopes or [],
            out_dir=out,
            streams=streams,
            seeds=seeds,
            seeds_per_stream=seeds_per_stream,
            score_on=score_on,
            training=training,
            workers=workers,
            quick=quick,
            on_progress=bar.count,
        )
    for table in tables:
        screen.show(table)
    screen.file("report", report)
