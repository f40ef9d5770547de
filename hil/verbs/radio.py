"""The radio: record and replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hil.config import load_settings
from hil.terminal import console_of_terminal
from hil.verbs.options import DEFAULT_CONFIG, ConfigOption, SetOption

app = typer.Typer()


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Folder for the recording; one that holds none yet.")],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    payload: Annotated[Path | None, typer.Option(help="File to deliver; else random bytes.")] = None,
    n_bytes: Annotated[int, typer.Option("--bytes", help="How many random bytes.")] = 100_000,
) -> None:
    """One sounding and one delivery over the radio of hil.toml, as a SigMF recording that can be replayed."""
    settings = load_settings(config, sets or [])
    from hil.recording_session import payload_of, random_payload, summary
    from hil.recording_session import record as record_session

    recorded = record_session(settings, out, payload_of(payload) if payload else random_payload(settings, n_bytes))
    Console(highlight=False, soft_wrap=True).print(summary(recorded), markup=False)


@app.command()
def replay(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A recording, or a folder of one link's recordings.")],
) -> None:
    """A recorded session again, from its samples: the same bytes and the same report, or exit code 2."""
    from hil.recording_session import comparison, replay_all, verdict

    replayed = replay_all(path)
    console = console_of_terminal()
    console.print(comparison(replayed))
    console.print(verdict(replayed), highlight=False, soft_wrap=True, markup=False)
    if any(each.differences for each in replayed):
        raise typer.Exit(2)
