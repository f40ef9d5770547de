"""`hil bench`: one verb for each part that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import (
    CONTROLLER_CONFIG,
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    SetOption,
    WorkersOption,
    read_settings,
    write_json,
)

app = typer.Typer(
    help="Measure how fast and how good the parts are.",
    rich_markup_mode=None,
)


@app.command("link")
def bench_link(
    json_path: JsonOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few trials and wide intervals, about a minute.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where link.json and link.html are written.")
    ] = Path("runs/bench"),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STUDY", help="Only this study. May be repeated."),
    ] = None,
    workers: WorkersOption = 0,
) -> None:
    """Measure the modem and the link against their bars.

    Finding bursts, SNR measurement, error rates of every scheme, deliveries and speed, each with
    a 95 % interval and the bar that it has to reach.

    Exit codes: 0 all bars met; 1 a bug; 2 an unknown study; 3 a bar missed (bars of speed count
    on an idle machine only); 130 interrupted.
    """
    from hil.benchmarks.link.bench import bar_table, measure, short_of
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.at_work("measuring the first figures") as bar:
        done = measure(
            quick=quick, out_dir=out, only=only or [], workers=workers, on_progress=bar.count
        )
    screen.show(bar_table(done))
    screen.file("report", out / "link.html")
    write_json(json_path, done.as_json())
    missed = short_of(done)
    for figure in missed:
        screen.say(f"missed: {figure}")
    if missed:
        raise typer.Exit(MISSED)


@app.command("edge")
def bench_edge(
    config: ConfigOption = DEFAULT_CONFIG, sets: SetOption = None, json_path: JsonOption = None
) -> None:
    """Measure the edge's speed and memory.

    Time to change the update, scoring speed, memory of llama.cpp.

    Exit codes: 0 fine; 1 a bug; 2 the model or its configuration is broken; 130 interrupted.
    """
    settings = read_settings(config, sets)
    from cloud.model.base_model import open_base_model
    from hil.benchmarks.edge import bench
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.waits_shown():
        figures = bench(open_base_model(settings.model.base).folder, quant=settings.edge.quant)
    screen.figures(figures)
    write_json(json_path, figures)


@app.command("training")
def bench_training(
    config: ConfigOption = DEFAULT_CONFIG, sets: SetOption = None, json_path: JsonOption = None
) -> None:
    """Measure a training step, alone and beside other work.

    Seconds a step, the median of nine: with nothing else running, and beside one and four
    processes that each want a core. Run it on an idle machine.

    Exit codes: 0 fine; 1 a bug; 2 the model or its configuration is broken; 130 interrupted.
    """
    settings = read_settings(config, sets)
    from hil.benchmarks.training import bench
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.at_work("loading the model") as bar:
        figures = bench(settings, bar.count)
    screen.figures(figures)
    write_json(json_path, figures)


@app.command("controller")
def bench_controller(
    config: ConfigOption = CONTROLLER_CONFIG,
    sets: SetOption = None,
    json_path: JsonOption = None,
    random_states: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="States that the allocator's plans are checked on."),
    ] = 1_000_000,
) -> None:
    """Measure the controllers' speed.

    Plans and environment steps a second, and how many plans are over their budget.

    Exit codes: 0 fine; 1 a bug; 2 the configuration is broken; 3 a plan was over its budget;
    130 interrupted.
    """
    settings = read_settings(config, sets)
    import torch

    from hil.benchmarks.controller import bench
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    torch.set_num_threads(1)
    screen = Screen()
    with screen.waits_shown():
        figures = bench(settings, random_states=random_states)
    screen.figures(figures)
    write_json(json_path, figures)
    if figures["allocator.random_states.infeasible"]:
        screen.say("missed: the allocator made plans over their budget")
        raise typer.Exit(MISSED)


@app.command("pluto")
def bench_pluto(json_path: JsonOption = None) -> None:
    """Measure the Pluto driver over emulated Plutos.

    Samples a second, and the errors of the measured SNR and of the offsets.

    Exit codes: 0 fine; 1 a bug; 2 a library is missing or broken; 130 interrupted.
    """
    from hil.benchmarks.pluto import bench
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.at_work("measuring the first figures") as bar:
        figures = bench(bar.count)
    screen.figures(figures)
    write_json(json_path, figures)
