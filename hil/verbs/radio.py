"""The radio: its calibration, recordings, emulated Plutos, faults."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from hil.settings import load_settings
from hil.verbs.options import DEFAULT_CONFIG, ConfigOption, JsonOption, QuickOption, SetOption
from hil.verbs.terminal import console_of_terminal, counter, progress_bar

app = typer.Typer()


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Folder for the recording; one that holds none yet.")],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    payload: Annotated[
        Path | None, typer.Option(help="File to deliver; else random bytes.")
    ] = None,
    n_bytes: Annotated[int, typer.Option("--bytes", help="How many random bytes.")] = 100_000,
) -> None:
    """One sounding and one delivery over the radio of hil.toml, as a SigMF recording that can be
    replayed."""
    settings = load_settings(config, sets or [])
    from hil.lab.recording_session import payload_of, random_payload, summary
    from hil.lab.recording_session import record as record_session

    recorded = record_session(
        settings, out, payload_of(payload) if payload else random_payload(settings, n_bytes)
    )
    Console(highlight=False, soft_wrap=True).print(summary(recorded), markup=False)


@app.command()
def replay(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A recording, or a folder of one link's recordings."),
    ],
) -> None:
    """A recorded session again, from its samples: the same bytes and the same report, or exit code
    2."""
    from hil.lab.recording_session import comparison, replay_all, verdict

    replayed = replay_all(path)
    console = console_of_terminal()
    console.print(comparison(replayed))
    console.print(verdict(replayed), highlight=False, soft_wrap=True, markup=False)
    if any(each.differences for each in replayed):
        raise typer.Exit(2)


@app.command()
def calibrate(
    what: Annotated[Literal["snr", "gain", "cfo", "all"], typer.Argument(help="What is measured.")],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    quick: QuickOption = False,
    reference_dbm: Annotated[
        float | None,
        typer.Option(help="Level at the receiver that a power meter showed: gives dBm for dBFS."),
    ] = None,
) -> None:
    """Measure this bench: noise, gains, oscillators, SNR two ways, the switching points of the
    schemes."""
    settings = load_settings(config, sets or [])
    from hil.lab.calibrate import calibrate_settings

    console = console_of_terminal()
    with progress_bar(console) as progress:
        done = calibrate_settings(
            settings,
            what,
            quick=quick,
            reference_dbm=reference_dbm,
            on_progress=counter(progress),
            on_line=lambda line: progress.console.print(
                line, highlight=False, markup=False, soft_wrap=True
            ),
        )
    console.print(f"records: {done.file}\nreport: {done.report}", soft_wrap=True, highlight=False)
    if done.flags:
        raise typer.Exit(2)


@app.command("emulate-pluto")
def emulate_pluto(
    nodes: Annotated[int, typer.Option(min=1, max=16, help="How many.")] = 2,
    ports: Annotated[
        list[int] | None, typer.Option("--port", help="TCP port of the next one; else a free one.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    free_running: Annotated[
        bool, typer.Option(help="As fast as the clients read, not in real time.")
    ] = False,
) -> None:
    """Plutos in software on 127.0.0.1, with the channel of hil.toml between them; prints their
    URIs, a line each."""
    settings = load_settings(config, sets or [])
    from hil.lab.emulate import emulate_plutos

    emulate_plutos(settings, nodes, ports=ports or [], real_time=not free_running)


@app.command()
def chaos(
    faults: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of moments, payloads and air.")] = 0,
    json_path: JsonOption = None,
) -> None:
    """Radio faults in mid delivery, over emulated Plutos; exit code 2 if one is not got over."""
    from hil.lab.chaos import run_chaos, table_of

    console = console_of_terminal()
    with progress_bar(console) as progress:
        outcome = run_chaos(faults, seed, counter(progress))
    console.print(table_of(outcome))
    if json_path:
        json_path.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")
    if outcome.complaints:
        console.print(*outcome.complaints, sep="\n", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(2)
