"""`hil train`: streams → fitted tables → learners, several seeds side by side → the weights that a
policy loads.

A stream is trained once and kept; a learner then needs a look-up a step. Every so often each
learner is asked, on streams that it does not learn from, what its plans leave missing; the best
answer's weights are the ones kept (of AirLLM the last). All of it can be stopped and taken up again
in the same folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.model.base_model import open_base_model
from cloud.policies.paced import PACE_ACTIONS
from cloud.streams.scorer import MergedModel
from hil.contract import ConfigError
from hil.learning.environment import RankVectorEnv
from hil.learning.learners import STEPS, TRANSLATIONS, Kind, make_learner, scoped
from hil.learning.stream_table import StreamTable
from hil.learning.tables import cached_table
from hil.settings import Settings, to_toml
from hil.system.workers import run_jobs

SELECT_SEED: Final = 1000
"""Text seeds: streams to train on count from 0, to select on from here; evaluation_grid says which
to report on."""

RATE_EPISODES: Final = 100
"""Episodes of one answer, the same ones every time."""
RATES: Final = 25
"""Answers a learner is asked for over its training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableJob:
    """One stream to be trained and fitted."""

    settings: Settings
    text_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One learner from one seed.

    Attributes:
        steps: environment steps in all.
        folder: its files: checkpoint.safetensors, history.jsonl, best.safetensors.
    """

    settings: Settings
    kind: Kind
    seed: int
    steps: int
    folder: Path


def train(
    settings: Settings,
    kinds: Sequence[Kind],
    out_dir: Path,
    *,
    steps: int | None = None,
    seeds: int = 1,
    workers: int = 0,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """Train learners, each from several seeds, and keep the best weights of each kind as
    <kind>.safetensors.

    Args:
        settings: the experiment; its channel, budget and streams are what is learnt on.
        kinds: which learners.
        out_dir: made when missing; what is finished in it is not done again, what was begun goes
            on.
        steps: environment steps of each learner; None = as many as each kind needs (STEPS).
        seeds: learner seeds 0, 1, ...
        workers: processes; 0 = one a core.
        on_progress: (jobs done, all jobs, what was done last).
    Returns:
        The lines of training.jsonl, which the report of an evaluation draws: learner, seed, step,
        reward (minus the mean excess loss in nats per token on the streams to select on), mbit
        (mean payload of a round), seconds.
    Raises:
        ConfigError: the folder was made with other settings.
        HilError: a stream cannot be trained.
    """
    _claim(out_dir, settings)
    tables = [
        TableJob(settings=settings, text_seed=seed)
        for seed in (*_train_seeds(settings), *_select_seeds(settings))
    ]
    runs = _train_jobs(settings, kinds, out_dir, steps, seeds)
    total, done = len(tables) + len(runs), 0

    def count(what: str) -> None:
        nonlocal done
        done += 1
        on_progress(done, total, what)

    on_progress(0, total, "streams")
    run_jobs(
        _make_table,
        tables,
        workers=workers,
        on_done=lambda job, _: count(f"stream {job.text_seed}"),
    )
    reference: list[dict[str, Any]] = []
    run_jobs(_rate_random, [settings], workers=1, on_done=lambda _, entry: reference.append(entry))
    run_jobs(
        _run_learner, runs, workers=workers, on_done=lambda job, value: count(_line(job, value))
    )
    return reference + _collect(runs, reference, out_dir)


def _train_jobs(
    settings: Settings, kinds: Sequence[Kind], out_dir: Path, steps: int | None, seeds: int
) -> list[TrainJob]:
    """A job for each seed of each learner, seed by seed."""
    jobs = []
    for seed in range(seeds):
        jobs += [
            TrainJob(
                settings=settings,
                kind=kind,
                seed=seed,
                steps=steps or STEPS[kind],
                folder=out_dir / f"{kind}-{seed}",
            )
            for kind in kinds
        ]
    return jobs


def _line(job: TrainJob, value: float) -> str:
    return f"{job.kind}, seed {job.seed}: value {value:+.4f}"


def _claim(out_dir: Path, settings: Settings) -> None:
    """Make the folder, or see that it belongs to this very training."""
    mark = out_dir / "config.toml"
    wanted = to_toml(settings)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if mark.exists() and mark.read_text(encoding="utf-8") != wanted:
            raise ConfigError(
                f"training folder {out_dir}: begun with other settings; choose another --out"
            )
        mark.write_text(wanted, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"training folder {out_dir}: {error.strerror}; choose another --out"
        ) from error


def _train_seeds(settings: Settings) -> range:
    return range(settings.streams.train)


def _select_seeds(settings: Settings) -> range:
    return range(SELECT_SEED, SELECT_SEED + settings.streams.select)


# -------------------------------------------------------------------------------------- in a worker


_open_base = cache(open_base_model)


@cache
def _merged(name: str, max_tokens: int) -> MergedModel:
    return MergedModel(_open_base(name), max_tokens=max_tokens)


def _table(settings: Settings, text_seed: int) -> StreamTable:
    name, max_tokens = settings.model.base, settings.finetune.max_tokens
    return cached_table(
        settings, text_seed, base=_open_base(name), model=lambda: _merged(name, max_tokens)
    )


def _make_table(job: TableJob) -> None:
    _table(job.settings, job.text_seed)


def _run_learner(job: TrainJob) -> float:
    """Train to the end from wherever the folder stands; the value of the weights kept."""
    job.folder.mkdir(parents=True, exist_ok=True)
    tables = [_table(job.settings, seed) for seed in _train_seeds(job.settings)]
    select = [_table(job.settings, seed) for seed in _select_seeds(job.settings)]
    checkpoint, lines = job.folder / "checkpoint.safetensors", job.folder / "history.jsonl"
    learner = make_learner(job.kind, tables, job.settings, job.seed)
    answer = rater(job.kind, select, job.settings)
    history: list[dict[str, Any]] = []
    if checkpoint.exists() and lines.exists():
        learner.load(checkpoint)
        history = [
            entry
            for line in lines.read_text().splitlines()
            if (entry := json.loads(line))["step"] <= learner.steps
        ]
    board = _board(job.folder)
    start_s = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    while not history or learner.steps < job.steps:
        if history:
            learner.advance(max(1, job.steps // RATES))
        entry = {
            "learner": job.kind,
            "seed": job.seed,
            "step": learner.steps,
            **answer(learner),
        }
        entry["seconds"] = time.perf_counter() - start_s
        history.append(entry)
        if kept_entry(history) is entry:
            learner.save_weights(job.folder / "best.safetensors")
        board(entry)
        learner.save(checkpoint)
        lines.write_text("".join(json.dumps(e) + "\n" for e in history), encoding="utf-8")
    return float(kept_entry(history)["value"])


def kept_entry(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line of one seed whose weights are kept: the best; of AirLLM the last, as the paper
    selects none."""
    if history[-1]["learner"].startswith("airllm"):
        return history[-1]
    return max(history, key=lambda entry: entry["value"])


class _Random:
    """Rank vectors drawn uniformly, for the value that learning starts from."""

    def __init__(self, modules: int) -> None:
        self._rng, self._modules = np.random.default_rng(0), modules

    def act(self, state: NDArray[np.float32]) -> NDArray[np.floating]:
        """Whatever the state."""
        return self._rng.uniform(-1.0, 1.0, (len(state), self._modules))


def _rate_random(settings: Settings) -> dict[str, Any]:
    """The line of training.jsonl for random ranks brought down to the budget."""
    select = [_table(settings, seed) for seed in _select_seeds(settings)]
    found = rater("ppo", select, settings)(_Random(len(select[0].module_shapes)))
    return {"learner": "random feasible", "seed": 0, "step": 0, **found, "seconds": 0.0}


class Actor(Protocol):
    """All that an answer needs of a learner."""

    def act(self, state: NDArray[np.float32]) -> NDArray[np.floating]:
        """Actions without exploration."""
        ...


def rater(
    kind: Kind, tables: Sequence[StreamTable], settings: Settings
) -> Callable[[Actor], dict[str, float]]:
    """Tells what a learner's plans leave missing on streams it does not learn from, without
    exploration.

    Returns:
        Of a learner: reward: minus the mean excess loss of a round, nats per token; mbit: mean
        payload sent in a round;
        feasible: share of plans within the budget; value: what the best answer is chosen by, the
            reward. The default
        policy learns for a shared budget, so its value is `episode_reward`, the reward there; its
        other figures are of a budget for each round, like those of the other learners, where it
        plans at the price that was set.
    """
    as_set = _rate(_AsSet(), kind, tables, scoped(settings, "round")) if kind == "ours" else None

    def answer(learner: Actor) -> dict[str, float]:
        if as_set is None:
            found = _rate(learner, kind, tables, settings)
            return {**found, "value": found["reward"]}
        paced = _rate(learner, kind, tables, scoped(settings, "episode"))["reward"]
        return {**as_set, "episode_reward": paced, "value": paced}

    return answer


class _AsSet:
    """Share and price as they are where nothing is learnt."""

    def act(self, state: NDArray[np.float32]) -> NDArray[np.floating]:
        """Whatever the state."""
        return np.zeros((len(state), PACE_ACTIONS))


def _rate(
    learner: Actor, kind: Kind, tables: Sequence[StreamTable], settings: Settings
) -> dict[str, float]:
    """Means over RATE_EPISODES episodes, the same ones every time."""
    venv = RankVectorEnv(RATE_EPISODES, tables=tables, settings=settings, **TRANSLATIONS[kind])
    state, _ = venv.reset(seed=SELECT_SEED)
    told: list[dict[str, Any]] = []
    ended = False
    while not ended:
        state, _, terminated, _, info = venv.step(learner.act(state).astype(np.float32))
        ended = bool(terminated.all())
        told.append(info["final_info"] if ended else info)
    return {
        "reward": -float(np.mean([one["excess_nats"] for one in told])),
        "mbit": 1e-6
        * float(np.mean([np.where(one["feasible"], one["payload_bits"], 0) for one in told])),
        "feasible": float(np.mean([one["feasible"] for one in told])),
    }


def _board(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Writes an entry to TensorBoard where that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return lambda entry: None
    writer = SummaryWriter(str(folder))

    def write(entry: dict[str, Any]) -> None:
        for key in ("reward", "mbit", "feasible", "value"):
            writer.add_scalar(key, entry[key], entry["step"])
        writer.flush()

    return write


def _collect(
    runs: Sequence[TrainJob], reference: Sequence[dict[str, Any]], out_dir: Path
) -> list[dict[str, Any]]:
    """training.jsonl of all learners, and the weights of the best seed of each kind."""
    lines: list[dict[str, Any]] = []
    for job in runs:
        lines += [
            json.loads(line) for line in (job.folder / "history.jsonl").read_text().splitlines()
        ]
    text = "".join(json.dumps(e) + "\n" for e in (*reference, *lines))
    (out_dir / "training.jsonl").write_text(text, encoding="utf-8")
    folders: dict[tuple[str, int], Path] = {(job.kind, job.seed): job.folder for job in runs}
    for kind, entry in chosen_entries(lines).items():
        shutil.copyfile(
            folders[kind, entry["seed"]] / "best.safetensors", out_dir / f"{kind}.safetensors"
        )
    return lines


def chosen_entries(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Learner → the line of its best seed's weights, which become OUT/<learner>.safetensors.

    Args:
        lines: entries of training.jsonl, those of one seed in the order of its steps.
    """
    histories: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in lines:
        histories.setdefault((line["learner"], line["seed"]), []).append(line)
    chosen: dict[str, dict[str, Any]] = {}
    for (learner, _), history in histories.items():
        kept = kept_entry(history)
        if learner not in chosen or kept["value"] > chosen[learner]["value"]:
            chosen[learner] = kept
    return chosen
