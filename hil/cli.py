"""Verbs → functions. A verb's package is imported when the verb runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hil.config import Settings, load_settings
from hil.contract import HilError

if TYPE_CHECKING:
    from hil.loop import Watcher

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
bench_app = typer.Typer(no_args_is_help=True, help="Measure speed and size.")
app.add_typer(bench_app, name="bench")

ConfigOption = Annotated[Path, typer.Option("--config", help="The experiment, a TOML file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; repeatable.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures into this file, too.")]

WorkersOption = Annotated[int, typer.Option(min=0, help="Processes; 0 = one a core.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="A short form, minutes: few and short streams.")]

_DEFAULT_CONFIG = Path("hil.toml")
_CONTROLLER_CONFIG = Path("configs/controller.toml")
_QUICK_STREAMS = (
    "streams.train=2",
    "streams.select=1",
    "streams.report=2",
    "streams.seeds=1",
    "streams.rounds=3",
    "streams.steps=20",
    "streams.items=24",
    'streams.domains=["jargon40", "jargon150"]',
)


@app.callback()
def _hil() -> None:
    """Testbed for communication-aware remote fine-tuning: cloud, radio and a quantised edge model in one loop."""


@app.command()
def check(config: ConfigOption = _DEFAULT_CONFIG, sets: SetOption = None) -> None:
    """Is this bench usable? All findings at once, each with its cure; exit code 2 if something is broken."""
    from hil.check import check_bench

    console = Console(soft_wrap=True)
    findings = check_bench(config, sets or [])
    for finding in findings:
        mark = "[green]ok[/]     " if finding.ok else "[red]broken[/] "
        console.print(f"{mark}[bold]{finding.subject}[/]: ", end="")
        console.print(finding.text, markup=False, highlight=False)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(2)


@app.command()
def run(
    config: ConfigOption = _DEFAULT_CONFIG,
    sets: SetOption = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds (run.rounds).")] = None,
    out: Annotated[str | None, typer.Option(help="Folder that run folders are made in (run.out).")] = None,
) -> None:
    """The closed loop: a line a round, then a table and report.html."""
    extra = [f"run.rounds={rounds}"] if rounds is not None else []
    extra += [f"run.out={json.dumps(out)}"] if out is not None else []
    settings = load_settings(config, [*(sets or []), *extra])
    from hil.loop import run as run_loop

    console = _console()
    try:
        with _progress(console) as progress:
            folder = run_loop(settings, _watcher(settings, progress))
    except KeyboardInterrupt:
        print("hil: interrupted; the rounds that were finished are in the run's folder", file=sys.stderr)
        raise typer.Exit(130) from None
    _finish(folder, console)


@app.command()
def train(
    learners: Annotated[
        list[str] | None, typer.Argument(metavar="[LEARNER]…", help="ours, ppo, airllm, airllm-published; all of them.")
    ] = None,
    config: ConfigOption = _CONTROLLER_CONFIG,
    sets: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder; one that was begun is gone on with.")] = Path("runs/train"),
    steps: Annotated[int | None, typer.Option(min=1, help="Environment steps; else as each learner needs.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of each learner (streams.seeds).")] = None,
    workers: WorkersOption = 0,
    quick: QuickOption = False,
) -> None:
    """Train the controller: streams, fitted tables, learners; the weights end in OUT/LEARNER.safetensors."""
    settings = load_settings(config, [*(sets or []), *(_QUICK_STREAMS if quick else ())])
    from hil.learners import kinds_of
    from hil.train import train as train_learners

    kinds = kinds_of(learners or [])
    console = _console()
    with _progress(console) as progress:
        entries = train_learners(
            settings,
            kinds,
            out,
            steps=min(steps or 2_000, 2_000) if quick else steps,
            seeds=min(seeds or settings.streams.seeds, 1 if quick else 1000),
            workers=workers,
            on_progress=_counter(progress),
        )
    for kind in kinds:
        best = max((e for e in entries if e["learner"] == kind), key=lambda e: e["value"])
        console.print(
            f"{kind}: {out / f'{kind}.safetensors'}, seed {best['seed']} at step {best['step']}: "
            f"excess {-best['reward']:.4f} nats at {best['mbit']:.3f} Mbit a round",
            highlight=False,
            soft_wrap=True,
        )


@app.command(name="eval")
def evaluate(
    policies: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="SPEC", help='"kind,key=value", "name = file.py:Class"; repeatable.'),
    ] = None,
    channels: Annotated[
        list[str] | None, typer.Option("--channel", metavar="NAME", help="Of the SNR; repeatable.")
    ] = None,
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", metavar="SCOPE", help="Of the budget: round, episode.")
    ] = None,
    config: ConfigOption = _CONTROLLER_CONFIG,
    sets: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder; what is finished in it is not done again.")] = Path("runs/eval"),
    streams: Annotated[int | None, typer.Option(min=1, help="Unseen streams (streams.report).")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Training seeds (streams.seeds).")] = None,
    seeds_per_stream: Annotated[int, typer.Option(min=0, help="How many of them each stream gets; 0 = all.")] = 0,
    score_on: Annotated[
        Literal["cloud", "edge"], typer.Option(help="What scores: merged or quantised model.")
    ] = "cloud",
    training: Annotated[Path | None, typer.Option(help="training.jsonl of `hil train`, to draw beside.")] = None,
    workers: WorkersOption = 0,
    quick: QuickOption = False,
) -> None:
    """Compare policies on unseen streams: results.parquet, results.json and report.html."""
    settings = load_settings(config, [*(sets or []), *(_QUICK_STREAMS if quick else ())])
    from hil.evaluate import evaluate_verb

    console = _console()
    with _progress(console) as progress:
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
            on_progress=_counter(progress),
        )
    console.print(table)
    console.print(f"report: {report}", soft_wrap=True, highlight=False)


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Folder for the recording; one that holds none yet.")],
    config: ConfigOption = _DEFAULT_CONFIG,
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
    console = _console()
    console.print(comparison(replayed))
    console.print(verdict(replayed), highlight=False, soft_wrap=True, markup=False)
    if any(each.differences for each in replayed):
        raise typer.Exit(2)


@app.command()
def provision(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    config: ConfigOption = _DEFAULT_CONFIG,
    sets: SetOption = None,
) -> None:
    """The edge bundle: quantised GGUF, score sets and probe; an edge needs nothing else."""
    settings = load_settings(config, sets or [])
    from hil.provision import provision as write

    bundle = write(settings, folder)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{bundle.folder}: base {bundle.model.spec.identity[:12]}…, {bundle.quant}: {bundle.model.types}")
    for name, score_set in bundle.score_sets.items():
        kind = f"{len(score_set.questions)} questions" if score_set.questions else f"{len(score_set.chunks)} texts"
        console.print(f"  score set {name}: {kind}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders; several are compared.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; report.html in the first run's folder.")] = None,
) -> None:
    """Tables and plots of one run, or of several side by side: one HTML file that opens offline."""
    from hil.report import terminal_table, write_report
    from hil.runlog import read_run

    loaded = [read_run(folder) for folder in runs]
    path = out or runs[0] / "report.html"
    write_report(loaded, path)
    console = _console()
    for one in loaded:
        console.print(terminal_table(one))
    console.print(f"report: {path}", soft_wrap=True, highlight=False)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    form: Annotated[Literal["peft", "gguf"], typer.Option("--format", help="What to write.")],
    out: Annotated[Path | None, typer.Option(help="Target; RUN/export-peft/ or RUN/export.gguf.")] = None,
) -> None:
    """The update that the edge holds at the end of a run, as a PEFT folder or as a GGUF for llama-server --lora."""
    from hil.export import export_run

    path = export_run(run_folder, form, out)
    Console().print(str(path), soft_wrap=True, highlight=False)


@bench_app.command("edge")
def bench_edge(config: ConfigOption = _DEFAULT_CONFIG, sets: SetOption = None, json_path: JsonOption = None) -> None:
    """Swap time under load, scoring speed, memory of the llama.cpp process."""
    settings = load_settings(config, sets or [])
    from cloud.base_model import open_base_model
    from edge_device.bench import bench

    figures = bench(open_base_model(settings.model.base).folder, quant=settings.edge.quant)
    _print_figures(figures)
    if json_path:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@bench_app.command("link")
def bench_link(
    json_path: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="A short form, about a minute.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for link.json and link.html.")] = Path("runs/bench"),
    only: Annotated[list[str] | None, typer.Option(metavar="STUDY", help="One study; repeatable.")] = None,
    workers: WorkersOption = 0,
) -> None:
    """The modem and the link against their bars: figures with intervals, curves, one page."""
    from hil.link_bench.bench import bar_table, measure, write_json

    console = _console()
    with _progress(console) as progress:
        done = measure(quick=quick, out_dir=out, only=only or [], workers=workers, on_progress=_counter(progress))
    console.print(bar_table(done))
    if json_path:
        write_json(done, json_path)


@bench_app.command("controller")
def bench_controller(
    config: ConfigOption = _CONTROLLER_CONFIG,
    sets: SetOption = None,
    json_path: JsonOption = None,
    random_states: Annotated[int, typer.Option(min=1, help="States that the allocator is checked on.")] = 1_000_000,
) -> None:
    """Environment steps a second, time of a plan, forward passes a second, infeasible plans of random states."""
    settings = load_settings(config, sets or [])
    import torch

    from hil.controller_bench import bench

    torch.set_num_threads(1)
    figures = bench(settings, random_states=random_states)
    _print_figures(figures)
    if json_path:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Entry point: a HilError is one line and exit code 2."""
    # Small matrices lose by BLAS threads, and figures must not depend on their number.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Both end a run in order, also where a script's "&" made the shell ignore the first for us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except HilError as error:
        print(f"hil: {error}", file=sys.stderr)
        sys.exit(2)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# ---------------------------------------------------------------------------------------------- output


def _console() -> Console:
    """The terminal as it is; on a pipe wide enough for the table."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _counter(progress: Progress) -> Callable[[int, int, str], None]:
    """Draws (done, total, what was done last); a line each where there is no terminal to draw on."""
    task = progress.add_task("starting", total=None)

    def on_progress(done: int, total: int, what: str) -> None:
        progress.update(task, completed=done, total=total, description=what)
        if progress.disable:
            progress.console.print(f"{done}/{total}  {what}", highlight=False, markup=False, soft_wrap=True)

    return on_progress


def _watcher(settings: Settings, progress: Progress) -> Watcher:
    from hil.loop import Watcher

    steps, rounds = settings.finetune.steps, settings.run.rounds
    task = progress.add_task("setting up", total=rounds * steps)
    console = progress.console

    def on_stage(round_id: int, stage: str) -> None:
        progress.update(task, description=f"round {round_id + 1} of {rounds}: {stage}")

    def on_round(row: Mapping[str, Any]) -> None:
        console.print(_round_line(row), highlight=False, markup=False, soft_wrap=True)

    return Watcher(on_stage=on_stage, on_step=lambda: progress.advance(task), on_round=on_round)


def _round_line(row: Mapping[str, Any]) -> str:
    """What one round came to, in one line."""
    ranks = [value for key, value in row.items() if key.startswith("plan.rank.")]
    numbers = [rank for rank in ranks if isinstance(rank, int)]
    mean_rank = f"{sum(numbers) / len(numbers):4.1f}" if numbers else "keep"
    labels = row["edge.score"] is not None and row["edge.score"] == row["edge.score"]
    if labels:
        score = f"score {100 * row['edge.base_score']:5.1f} → {100 * row['edge.score']:5.1f} %"
        gain = f"{100 * row['edge.gain']:+5.1f} ± {100 * row['edge.gain_std_error']:.1f}"
    else:
        score = f"loss  {row['edge.base_loss_nats_per_token']:5.2f} → {row['edge.loss_nats_per_token']:5.2f}  "
        gain = f"{row['edge.gain']:+5.2f} ± {row['edge.gain_std_error']:.2f}"
    reason = f" ({row['edge.reason']})" if row["edge.reason"] else ""
    return (
        f"{row['round.id']:3d}  {row['text.domain']:<12} SNR {row['channel.snr_db']:5.1f} dB  "
        f"budget {row['budget.bits'] / 1e3:6.0f} kbit  mean rank {mean_rank}  "
        f"on air {row['link.bits_on_air'] / 1e3:6.0f} kbit in {row['link.airtime_s']:5.2f} s  "
        f"{row['edge.status']}{reason}  {score}  gain {gain}  [{row['timing.round_s']:.1f} s]"
    )


def _finish(folder: Path, console: Console) -> None:
    from hil.report import terminal_table, write_report
    from hil.runlog import read_run

    finished = read_run(folder)
    write_report([finished], folder / "report.html")
    console.print(terminal_table(finished))
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


def _print_figures(figures: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key, value in figures.items():
        console.print(f"{key:<44} {value:.4g}" if isinstance(value, float) else f"{key:<44} {value}")


if __name__ == "__main__":
    main()
