"""Benchmarks: speed and size, and the modem against its bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hil.settings import load_settings
from hil.verbs.options import (
    CONTROLLER_CONFIG,
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    SetOption,
    WorkersOption,
)
from hil.verbs.terminal import console_of_terminal, counter, print_figures, progress_bar

app = typer.Typer(no_args_is_help=True, help="Measure speed and size.")


@app.command("edge")
def bench_edge(
    config: ConfigOption = DEFAULT_CONFIG, sets: SetOption = None, json_path: JsonOption = None
) -> None:
    """Swap time under load, scoring speed, memory of the llama.cpp process."""
    settings = load_settings(config, sets or [])
    from cloud.model.base_model import open_base_model
    from hil.benchmarks.edge import bench

    figures = bench(open_base_model(settings.model.base).folder, quant=settings.edge.quant)
    print_figures(figures)
    if json_path:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@app.command("link")
def bench_link(
    json_path: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="A short form, about a minute.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for link.json and link.html.")] = Path(
        "runs/bench"
    ),
    only: Annotated[
        list[str] | None, typer.Option(metavar="STUDY", help="One study; repeatable.")
    ] = None,
    workers: WorkersOption = 0,
) -> None:
    """The modem and the link against their bars: figures with intervals, curves, one page."""
    from hil.benchmarks.link.bench import bar_table, measure, write_json

    console = console_of_terminal()
    with progress_bar(console) as progress:
        done = measure(
            quick=quick,
            out_dir=out,
            only=only or [],
            workers=workers,
            on_progress=counter(progress),
        )
    console.print(bar_table(done))
    if json_path:
        write_json(done, json_path)


@app.command("controller")
def bench_controller(
    config: ConfigOption = CONTROLLER_CONFIG,
    sets: SetOption = None,
    json_path: JsonOption = None,
    random_states: Annotated[
        int, typer.Option(min=1, help="States that the allocator is checked on.")
    ] = 1_000_000,
) -> None:
    """Environment steps a second, time of a plan, forward passes a second, infeasible plans of
    random states."""
    settings = load_settings(config, sets or [])
    import torch

    from hil.benchmarks.controller import bench

    torch.set_num_threads(1)
    figures = bench(settings, random_states=random_states)
    print_figures(figures)
    if json_path:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@app.command("pluto")
def bench_pluto(json_path: JsonOption = None) -> None:
    """Driver and emulated Plutos: samples a second through the whole stack, and how true SNR and
    offsets are."""
    from hil.benchmarks.pluto import bench

    console = console_of_terminal()
    with progress_bar(console) as progress:
        figures = bench(counter(progress))
    print_figures(figures)
    if json_path:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
