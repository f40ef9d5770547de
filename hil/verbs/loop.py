"""The loop, in one process or several, and what belongs to a run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from hil.settings import Settings, load_settings
from hil.verbs.options import DEFAULT_CONFIG, ConfigOption, SetOption
from hil.verbs.terminal import console_of_terminal, finish, progress_bar, watcher

if TYPE_CHECKING:
    from hil.loop.rounds import Watcher

app = typer.Typer()


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Of an edge that has nothing else: torch is not asked for.")
    ] = None,
) -> None:
    """Is this bench usable? All findings at once, each with its cure; exit code 2 if something is
    broken."""
    from hil.lab.check import check_bench

    console = Console(soft_wrap=True)
    findings = check_bench(config, sets or [], bundle=bundle)
    for finding in findings:
        mark = "[green]ok[/]     " if finding.ok else "[red]broken[/] "
        console.print(f"{mark}[bold]{finding.subject}[/]: ", end="")
        console.print(finding.text, markup=False, highlight=False)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(2)


@app.command()
def run(
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds (run.rounds).")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder that run folders are made in (run.out).")
    ] = None,
) -> None:
    """The closed loop: a line a round, then a table and report.html."""
    extra = [f"run.rounds={rounds}"] if rounds is not None else []
    extra += [f"run.out={json.dumps(out)}"] if out is not None else []
    from hil.loop.rounds import run as run_loop

    _run(run_loop, load_settings(config, [*(sets or []), *extra]))


@app.command()
def cloud(config: ConfigOption = DEFAULT_CONFIG, sets: SetOption = None) -> None:
    """The cloud's half of the loop: joined to `hil edge` by the radio and the broker of hil.toml
    alone."""
    from hil.loop.cloud_process import run_cloud

    _run(run_cloud, load_settings(config, sets or []))


@app.command()
def edge(
    bundle: Annotated[Path, typer.Option(help="Folder that `hil provision` wrote.")],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    state: Annotated[Path, typer.Option(help="Folder for what is installed.")] = Path(
        ".cache/edge-state"
    ),
) -> None:
    """The edge's half of the loop: listens and installs until it is told to end (SIGINT, SIGTERM).
    Needs no torch."""
    settings = load_settings(config, sets or [])
    from hil.loop.edge_process import run_edge

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run_edge(settings, bundle, state)


@app.command("demo-pluto")
def demo_pluto(
    config: ConfigOption = Path("configs/demo_pluto.toml"),
    sets: SetOption = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds (run.rounds).")] = None,
) -> None:
    """Both halves on this machine, over a broker and two emulated Plutos; exit code 2 if an update
    did not arrive."""
    settings = load_settings(
        config, [*(sets or []), *([f"run.rounds={rounds}"] if rounds is not None else [])]
    )
    from hil.lab.two_machines import demo_pluto as demonstrate
    from hil.lab.two_machines import table_of

    console = console_of_terminal()
    demo = demonstrate(
        settings, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)
    )
    console.print(table_of(demo))
    if demo.complaints:
        console.print(*demo.complaints, sep="\n", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(2)


def _run(loop: Callable[[Settings, Watcher], Path], settings: Settings) -> None:
    """A loop with its lines, its table and its report."""
    console = console_of_terminal()
    try:
        with progress_bar(console) as progress:
            folder = loop(settings, watcher(settings, progress))
    except KeyboardInterrupt:
        print(
            "hil: interrupted; the rounds that were finished are in the run's folder",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    finish(folder, console)


@app.command()
def provision(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
) -> None:
    """The edge bundle: quantised GGUF, score sets and probe; an edge needs nothing else."""
    settings = load_settings(config, sets or [])
    from hil.loop.provision import provision as write

    bundle = write(settings, folder)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{bundle.folder}: base {bundle.model.spec.identity[:12]}…, {bundle.quant}: "
        f"{bundle.model.types}"
    )
    for name, score_set in bundle.score_sets.items():
        kind = (
            f"{len(score_set.questions)} questions"
            if score_set.questions
            else f"{len(score_set.chunks)} texts"
        )
        console.print(f"  score set {name}: {kind}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run folders; several are compared.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; report.html in the first run's folder.")
    ] = None,
) -> None:
    """Tables and plots of one run, or of several side by side: one HTML file that opens offline."""
    from hil.reporting.report import terminal_table, write_report
    from hil.reporting.run_folder import read_run

    loaded = [read_run(folder) for folder in runs]
    path = out or runs[0] / "report.html"
    write_report(loaded, path)
    console = console_of_terminal()
    for one in loaded:
        console.print(terminal_table(one))
    console.print(f"report: {path}", soft_wrap=True, highlight=False)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    form: Annotated[Literal["peft", "gguf"], typer.Option("--format", help="What to write.")],
    out: Annotated[
        Path | None, typer.Option(help="Target; RUN/export-peft/ or RUN/export.gguf.")
    ] = None,
) -> None:
    """The update that the edge holds at the end of a run, as a PEFT folder or as a GGUF for
    llama-server --lora."""
    from hil.loop.export import export_run

    path = export_run(run_folder, form, out)
    Console().print(str(path), soft_wrap=True, highlight=False)
