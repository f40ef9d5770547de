"""`hil export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    form: Annotated[Literal["peft", "gguf"], typer.Option("--format", help="What to write.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Where; else export-peft/ or export.gguf in the run's folder."
        ),
    ] = None,
) -> None:
    """Write a run's last update for PEFT or llama.cpp.

    That is the update that the edge holds at the end of the run. peft is a folder for
    PeftModel.from_pretrained; gguf is a file for llama-server --lora. The path that was written
    is printed on stdout.

    Exit codes: 0 fine; 1 a bug; 2 not a run's folder, or its edge holds no update.
    """
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    screen.wait("loading PyTorch and transformers ...")
    from hil.loop.export import export_run

    with screen.waits_shown():
        path = export_run(run_folder, form, out)
    screen.show_lines([str(path)])
