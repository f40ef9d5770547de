"""`hil check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import DEFAULT_CONFIG, ConfigOption, SetOption


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Check an edge device that has nothing but this bundle of `hil provision`; "
            "PyTorch is then not asked for.",
        ),
    ] = None,
) -> None:
    """Look whether this bench can run an experiment.

    Looks at configuration, libraries, disk, base model, text, llama.cpp, broker, radio and
    calibration. Everything that is broken is listed at once, each with its cure.

    Exit code: 0 if all is well, 2 if something is broken.
    """
    from hil.lab.check import check_bench
    from hil.verbs.console.endings import BENCH
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.waits_shown():
        findings = check_bench(config, sets or [], bundle=bundle)
    for finding in findings:
        screen.say(f"{'ok' if finding.ok else 'broken':<8}{finding.subject}: {finding.text}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(BENCH)
