"""Training learners on fitted tables: knots, answers, checkpoints, and what is kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloud.policies.airllm import AirLlmPolicy, PpoRankPolicy
from cloud.policies.paced import PacedAllocator
from hil.contract import BaseSpec, ConfigError, RankPolicy
from hil.learning import train as training
from hil.learning.environment import synthetic_tables
from hil.learning.learners import Kind, kinds_of, make_learner
from hil.learning.runners import SurrogateRunner
from hil.learning.tables import fitted_table
from hil.learning.train import TrainJob
from hil.settings import Settings

SETTINGS = Settings()


@pytest.fixture
def _invented(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = synthetic_tables()
    monkeypatch.setattr(training, "_table", lambda settings, seed: tables[seed % len(tables)])
    monkeypatch.setattr(training, "RATE_EPISODES", 10)


def job(folder: Path, kind: Kind, steps: int) -> TrainJob:
    return TrainJob(settings=SETTINGS, kind=kind, seed=0, steps=steps, folder=folder)


def answers(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.usefixtures("_invented")
@pytest.mark.parametrize(("kind", "steps"), [("ours", 6000), ("ppo", 3000)])
def test_a_learner_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, kind: Kind, steps: int
) -> None:
    whole, parted = job(tmp_path / "whole", kind, steps), job(tmp_path / "parted", kind, steps)
    training._run_learner(whole)
    learner = make_learner(
        kind, [training._table(SETTINGS, i) for i in range(SETTINGS.streams.train)], SETTINGS, 0
    )
    # as after a kill: half of the answers are there, and the checkpoint of the last of them
    lines = (tmp_path / "whole" / "history.jsonl").read_text().splitlines(keepends=True)
    for line in lines[1 : len(lines) // 2]:
        learner.advance(max(1, steps // training.RATES))
        assert learner.steps == json.loads(line)["step"]
    parted.folder.mkdir()
    (parted.folder / "history.jsonl").write_text("".join(lines[: len(lines) // 2]))
    learner.save(parted.folder / "checkpoint.safetensors")
    training._run_learner(parted)
    assert answers(parted.folder) == answers(whole.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("_invented")
def test_every_kind_ends_in_weights_that_its_policy_plans_with(tmp_path: Path) -> None:
    policies: dict[str, Callable[..., RankPolicy]] = {
        "ours": partial(PacedAllocator, pace="learnt"),
        "ppo": PpoRankPolicy,
        "airllm": AirLlmPolicy,
        "airllm-published": AirLlmPolicy,
    }
    for kind, policy in policies.items():
        training._run_learner(job(tmp_path / kind, kind, 200))
        runner = SurrogateRunner(synthetic_tables(), SETTINGS)
        result = runner.run(
            policy(weights=str(tmp_path / kind / "best.safetensors")).plan(runner.reset(0))
        )
        assert result.feasible


def test_the_best_answer_is_kept_but_of_airllm_the_last() -> None:
    values = {
        "ppo": ([0.1, 0.3, 0.2], [0.25, 0.25, 0.29]),
        "airllm": ([0.9, 0.5, 0.1], [0.0, 0.3, 0.2]),
    }
    lines = []
    for learner, seeds in values.items():
        for seed, answered in enumerate(seeds):
            for step, value in enumerate(answered):
                lines.append({"learner": learner, "seed": seed, "step": step, "value": value})
    chosen = training.chosen_entries(lines)
    assert {learner: (e["seed"], e["step"], e["value"]) for learner, e in chosen.items()} == {
        "ppo": (0, 1, 0.3),
        "airllm": (1, 2, 0.2),
    }


class _Scripted:
    """Learner whose weights are the number of its steps."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int) -> None:
        self.steps += steps

    def save(self, path: Path) -> None:
        path.write_text(str(self.steps))

    save_weights = load = save


@pytest.mark.usefixtures("_invented")
@pytest.mark.parametrize(("kind", "kept"), [("ppo", 1), ("airllm", 3)])
def test_the_weights_on_the_disk_are_those_of_the_answer_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, kept: int
) -> None:
    values = (0.1, 0.4, 0.2, 0.3)

    def rated(learner: _Scripted) -> dict[str, float]:
        return {"reward": 0.0, "mbit": 1.0, "feasible": 1.0, "value": values[learner.steps]}

    monkeypatch.setattr(training, "make_learner", lambda *_: _Scripted())
    monkeypatch.setattr(training, "rater", lambda *_: rated)
    assert training._run_learner(job(tmp_path, kind, 3)) == values[kept]
    assert (tmp_path / "best.safetensors").read_text() == str(kept)


@pytest.mark.slow
@pytest.mark.usefixtures("_invented")
def test_the_default_learner_beats_chance_from_its_first_step(tmp_path: Path) -> None:
    # The allocator does the work before anything is learnt; random ranks brought down to the budget
    # are far behind.
    training._run_learner(job(tmp_path, "ours", 200))
    assert answers(tmp_path)[0]["reward"] > 2 / 3 * training._rate_random(SETTINGS)["reward"]


def test_a_folder_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    training._claim(tmp_path, SETTINGS)
    training._claim(tmp_path, SETTINGS)
    other = SETTINGS.model_copy(
        update={"budget": SETTINGS.budget.model_copy(update={"airtime_s": 1.0})}
    )
    with pytest.raises(ConfigError, match="begun with other settings"):
        training._claim(tmp_path, other)


def test_an_unknown_learner_is_named() -> None:
    with pytest.raises(ConfigError, match="'our' is unknown; choose from ours, ppo"):
        kinds_of(["our"])


def test_knots_bring_back_the_curve_that_the_losses_follow() -> None:
    # A stream whose real excess loss is the square root of what the curvature predicts.
    table = synthetic_tables()[0]
    base = np.sqrt(table.sent_kfac[:, :, 0].sum(axis=1, dtype=np.float64))
    stream = SimpleNamespace(
        spec=BaseSpec(identity="0" * 64, module_shapes=table.module_shapes),
        n_rounds=table.n_rounds,
        base_losses=base,
        full_losses=np.zeros(table.n_rounds),
        **{
            key: getattr(table, key)
            for key in (
                *(
                    "module_shapes",
                    "texts",
                    "spectra",
                    "sent_kfac",
                    "sent_energy",
                    "kept_kfac",
                    "kept_energy",
                ),
                *("base_scores", "full_scores", "trial_missing", "trial_excess"),
            )
        },
    )

    class Scorer:
        def score(self, round_id: int, held_round: Any, held_rank: Any) -> tuple[float, float]:
            lacks = [
                table.kept_kfac[t, m, r, round_id]
                if r and t >= 0
                else table.sent_kfac[round_id, m, 0]
                for m, (t, r) in enumerate(zip(held_round, held_rank, strict=True))
            ]
            return 0.5, float(np.sqrt(np.sum(lacks, dtype=np.float64)))

    fitted, correlation = fitted_table(stream, Scorer(), coefficient_bits=8, seed=0)  # type: ignore[arg-type]
    assert correlation.min() > 0.999
    knots = fitted.knots
    assert (np.diff(knots.missing) > 0).all()
    assert (np.diff(knots.excess) >= 0).all()
    assert np.allclose(knots.excess, np.sqrt(knots.missing), atol=1e-3)
    assert replace(fitted, knots=table.knots).full_losses.sum() == 0
