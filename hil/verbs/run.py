"""`hil run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    RequireOption,
    RoundsOption,
    SetOption,
    read_settings,
)


def run(
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    rounds: RoundsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the run's folder is made; else the key run.out."),
    ] = None,
    require: RequireOption = "delivered>=1",
) -> None:
    """Run the experiment: cloud, radio and edge in one process.

    In each round the cloud fine-tunes a LoRA adapter, the controller chooses how many singular
    vectors of each layer to send, the update crosses the radio, and the edge installs and scores
    it. You see one line a round; report.html in the run's folder has the plots. Ctrl-C ends the
    run and still writes the report.

    Exit codes: 0 fine; 1 a bug; 2 the bench or its configuration is broken; 3 the run missed what
    --require asks for; 130 interrupted.
    """
    from hil.reporting.verdict import parse_requirement

    required = parse_requirement(require)
    settings = read_settings(config, sets, rounds=rounds, out=out)
    from hil.verbs.console.terminal import Screen

    Screen().wait("loading PyTorch and transformers ...")
    from hil.loop.rounds import run as run_loop
    from hil.verbs.console.watched_run import run_watched

    run_watched(run_loop, settings, required)
