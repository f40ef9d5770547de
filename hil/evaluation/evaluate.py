"""Policies side by side: the same streams, seeds, air and budgets for each, scored by real forward
passes.

The grid is policies x channels x streams x training seeds x scopes of the budget. A stream is
trained once at r_max and kept; one worker process takes one (stream, training seed) with everything
that is run on it, so that policies share the scores of equal states. What a worker has finished
lies in `parts` and is not computed again by the same command.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cloud.policies.registry import make_policy
from hil.contract import ConfigError
from hil.evaluation.grid import (
    CHANNELS,
    FIRST_STREAM,
    POLICIES,
    QUICK_CHANNELS,
    QUICK_POLICIES,
    SCOPES,
    Channel,
    Contestant,
    Scope,
    cell_settings,
    contestant,
    fingerprint,
    scenarios,
)
from hil.evaluation.grid import channels as named_channels
from hil.evaluation.job import Job, named, work
from hil.evaluation.report import (
    read_evaluation,
    read_histories,
    terminal_summary,
    write_evaluation_report,
)
from hil.evaluation.statistics import History
from hil.evaluation.summary import read_rows, summarise
from hil.evaluation.trained_stream import OpenBench, ScoreOn, open_stream_bench
from hil.radio_kinds.channel_files import sources
from hil.reporting.text_table import TextTable
from hil.settings import Settings, to_toml
from hil.system.workers import run_jobs

_PLAN_STEP_S: Final = 2.0
"""A step within a plan takes no longer: a tenth of it on one core for the model that ships."""
_PACKAGES: Final = (
    "hil-lora-testbed",
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "peft",
    "pyarrow",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is compared on what.

    Attributes:
        contestants: policies to compare, at least one, each with a name of its own.
        channels: channels to compare them on, at least one, each with a name of its own.
        streams: text seeds.
        train_seeds: seeds that the streams are trained from.
        seeds_per_stream: number of training seeds that each stream gets, in turn; 0 = all.
        scopes: scopes of the airtime budget, "round" or "episode".
        reference: name of the contestant that the others are paired with; "" = the first.
        score_on: "cloud": the merged model; "edge": the quantised model in llama.cpp.
    """

    contestants: Sequence[Contestant]
    channels: Sequence[Channel]
    streams: Sequence[int]
    train_seeds: Sequence[int]
    scopes: Sequence[Scope] = ("round",)
    seeds_per_stream: int = 0
    reference: str = ""
    score_on: ScoreOn = "cloud"

    def __post_init__(self) -> None:
        for what in ("contestants", "channels", "streams", "train_seeds", "scopes"):
            keys = [getattr(one, "name", one) for one in getattr(self, what)]
            if not keys or len(set(keys)) < len(keys):
                raise ConfigError(
                    f"{what} of an evaluation: {keys}; needs at least one, and each only once"
                )
        if self.reference and self.reference not in [c.name for c in self.contestants]:
            raise ConfigError(
                f"reference policy {self.reference!r} is not compared; add it or name another"
            )

    @property
    def units(self) -> list[tuple[int, int]]:
        """Every stream with each of its training seeds."""
        n = len(self.train_seeds)
        k = min(self.seeds_per_stream or n, n)
        units = []
        for i, one in enumerate(self.streams):
            units += [(one, self.train_seeds[(i + j) % n]) for j in range(k)]
        return units

    @property
    def episodes(self) -> int:
        """Number of episodes that all policies together run on one unit."""
        return (
            sum(len(one.members) for one in self.contestants)
            * len(self.channels)
            * len(self.scopes)
        )


# --------------------------------------------------------------------------------- the command line


def evaluate_verb(
    settings: Settings,
    *,
    policies: Sequence[str],
    channels: Sequence[str],
    scenario_file: Path | None,
    scopes: Sequence[str],
    out_dir: Path,
    streams: int | None,
    seeds: int | None,
    seeds_per_stream: int,
    score_on: ScoreOn,
    training: Path | None,
    workers: int,
    quick: bool,
    on_progress: Callable[[int, int, str], None],
) -> tuple[Path, list[TextTable]]:
    """`hil eval`: the report, and its tables for the terminal.

    Args:
        settings: the experiment.
        policies, channels, scopes: as they are written; none = those of a full or a quick
            evaluation.
        scenario_file: file of channels that take the place of those that ship.
        out_dir: folder of the results, as in `evaluate`.
        streams, seeds: how many; None = what [streams] says.
        seeds_per_stream, score_on: as in Grid.
        training: a training.jsonl to draw beside.
        workers, on_progress: as in `evaluate`.
        quick: the short form.
    Raises:
        ConfigError: one of them cannot be.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigError(f"scope {scope!r} of the budget: choose from {', '.join(SCOPES)}")
    known = scenarios(scenario_file, settings) if scenario_file else CHANNELS
    usual = list(QUICK_CHANNELS) if quick and not scenario_file else list(known)
    grid = Grid(
        contestants=[
            contestant(text) for text in policies or (QUICK_POLICIES if quick else POLICIES)
        ],
        channels=named_channels(channels or usual, known),
        streams=range(FIRST_STREAM, FIRST_STREAM + (streams or settings.streams.report)),
        train_seeds=range(seeds or settings.streams.seeds),
        scopes=[
            scope for scope in SCOPES if scope in (scopes or (SCOPES[:1] if quick else SCOPES))
        ],
        seeds_per_stream=seeds_per_stream,
        score_on=score_on,
    )
    histories = read_histories(training) if training else []
    report = evaluate(
        settings, grid, out_dir, workers=workers, histories=histories, on_progress=on_progress
    )
    _, results = read_evaluation(out_dir)
    return report, terminal_summary(results)


# ----------------------------------------------------------------------------------- the evaluation


def evaluate(
    settings: Settings,
    grid: Grid,
    out_dir: Path,
    *,
    workers: int = 0,
    timeout_s: float = 3600.0,
    histories: Sequence[History] = (),
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    open_bench: OpenBench = open_stream_bench,
) -> Path:
    """Run the grid and write results.parquet (a row a round), results.json and report.html.

    Args:
        settings: the experiment; channels and scopes change their own keys of it.
        grid: what is compared on what.
        out_dir: made when missing; `parts` in it holds what is finished.
        workers: processes; 0 = one a core.
        timeout_s: deadline of one (stream, training seed), its training included; steps within a
            plan add to it.
        histories: the learners' training, for the report.
        on_progress: (jobs done, all jobs, what was done last).
        open_bench: makes the bench of a stream; a function that other processes can import.
    Returns:
        The report.
    Raises:
        HilError: a policy failed (its name is in the message), or a worker died or missed the
            deadline.
        KeyboardInterrupt: after every worker has ended.
    """
    parts = out_dir / "parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"evaluation folder {out_dir}: {error.strerror}; choose another place"
        ) from error
    jobs, wanted = _jobs(settings, grid, parts, open_bench)
    missing = [job for job in jobs if job.parts]
    _check_contestants(missing)
    if missing and grid.score_on == "edge":
        from hil.evaluation.edge_scorer import edge_model

        edge_model(settings)  # made once, before the workers all look for it
    done = len(jobs) - len(missing)
    on_progress(done, len(jobs), "found")

    def count(job: Job, _: None) -> None:
        nonlocal done
        done += 1
        on_progress(done, len(jobs), f"stream {job.stream}, seed {job.train_seed}")

    timeout_s += _planning_s(settings, grid)
    run_jobs(work, missing, workers=workers, timeout_s=timeout_s, on_done=count)
    pq.write_table(_joined(wanted), out_dir / "results.parquet")
    return _write_results(settings, grid, out_dir, histories)


def _planning_s(settings: Settings, grid: Grid) -> float:
    """Time that one job's steps within its plans take at most."""
    of_a_stream = settings.streams.steps * settings.streams.rounds
    return settings.finetune.plan_share * of_a_stream * grid.episodes * _PLAN_STEP_S


def _write_results(
    settings: Settings, grid: Grid, out_dir: Path, histories: Sequence[History]
) -> Path:
    """results.json and report.html beside the rows; the report."""
    rows = read_rows(out_dir / "results.parquet")
    results = {
        **_facts(settings, grid),
        **summarise(rows, grid.reference or grid.contestants[0].name),
    }
    (out_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report = out_dir / "report.html"
    write_evaluation_report(rows, results, report, histories)
    return report


def _check_contestants(jobs: Sequence[Job]) -> None:
    """Make each policy that is still to run once: a missing file is to be known before streams are
    trained."""
    missing: dict[str, Contestant] = {}
    for job in jobs:
        missing |= {one.name: one for one, _ in job.parts}
    for one in missing.values():
        for member in one.members:
            with named(one.name, ""):
                make_policy(member)


def _jobs(
    settings: Settings, grid: Grid, folder: Path, open_bench: OpenBench
) -> tuple[list[Job], list[Path]]:
    """All jobs, each with the parts that are missing, and all parts in the order of the grid."""
    prints = [contestant.fingerprint() for contestant in grid.contestants]
    common = (
        [dataclasses.astuple(c) for c in grid.channels],
        grid.scopes,
        grid.score_on,
        _version(),
        _channel_sources(settings, grid),
    )
    jobs, wanted = [], []
    for stream, seed in grid.units:
        paths = [
            folder / f"{fingerprint(settings, *common, stream, seed, c.name, p)}.parquet"
            for c, p in zip(grid.contestants, prints, strict=True)
        ]
        pairs = zip(grid.contestants, paths, strict=True)
        jobs.append(
            Job(
                settings=settings,
                stream=stream,
                train_seed=seed,
                channels=tuple(grid.channels),
                scopes=tuple(grid.scopes),
                score_on=grid.score_on,
                parts=tuple((contestant, path) for contestant, path in pairs if not path.exists()),
                open_bench=open_bench,
            )
        )
        wanted += paths
    return jobs, wanted


def _joined(parts: Sequence[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(part) for part in parts], promote_options="default")


def _facts(settings: Settings, grid: Grid) -> dict[str, Any]:
    """What the evaluation was, for results.json."""
    return {
        "settings": to_toml(settings),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
        "score_on": grid.score_on,
        "streams": list(grid.streams),
        "train_seeds": list(grid.train_seeds),
        "seeds_per_stream": grid.seeds_per_stream,
        "members": {
            c.name: [m.model_dump(mode="json") for m in c.members] for c in grid.contestants
        },
        "channel_overrides": {c.name: dict(c.overrides) for c in grid.channels},
        "channel_sources": _channel_sources(settings, grid),
    }


def _channel_sources(settings: Settings, grid: Grid) -> dict[str, Any]:
    """Where each channel comes from, files with their hashes."""
    return {
        channel.name: sources(cell_settings(settings, channel, grid.scopes[0]).simulated_radio)
        for channel in grid.channels
    }


def _version(package: str = "hil-lora-testbed") -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
