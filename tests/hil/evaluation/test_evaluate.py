"""The grid is complete and fair, what is finished is not done again, and no process stays
behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.policies.baselines import LargestUniform
from hil.contract import ConfigError
from hil.evaluation.evaluate import Grid, _facts, _jobs, evaluate
from hil.evaluation.grid import (
    CHANNELS,
    POLICIES,
    QUICK_POLICIES,
    Channel,
    Contestant,
    cell_settings,
    channels,
    contestant,
    fingerprint,
    scenarios,
)
from hil.evaluation.job import rank_column, trace_seed, work
from hil.evaluation.summary import Rows, chosen, read_rows
from hil.learning.runners import SurrogateRunner
from hil.settings import Settings, parse_settings
from hil.settings.policy import FixedPolicy, OursPolicy, RandomPolicy
from tests.hil.evaluation.invented_bench import invented_table, open_invented

ROOT = Path(__file__).parents[3]
SETTINGS = Settings()
COUNTING = """
from pathlib import Path
from hil.contract import KEEP, HilError, RankPlan

class Counting:
    name = "counting"

    def __init__(self):
        with open({log!r}, "a") as log:
            log.write("made\\n")
        self.rounds = 0

    def plan(self, obs):
        assert self.rounds == obs.round_id, "it remembers another episode"
        self.rounds += 1
        return RankPlan(ranks=dict.fromkeys(obs.module_shapes, KEEP))

class Failing(Counting):
    def plan(self, obs):
        raise HilError("out of ideas")
"""


def grid_of(*policies: str, **changes: Any) -> Grid:
    base = Grid(
        contestants=[contestant(policy) for policy in policies],
        channels=channels(["5 dB", "varying"]),
        streams=[7, 8],
        train_seeds=[0, 1],
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of policies that note every object made of them."""
    folder = tmp_path_factory.mktemp("policy")
    (folder / "counting.py").write_text(COUNTING.format(log=str(folder / "log.txt")))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, counting: Path) -> tuple[Path, list[str]]:
    """The folder of an evaluation of three policies, and its progress."""
    folder = tmp_path_factory.mktemp("evaluation")
    grid = grid_of(
        "largest",
        "adalora,rank=8",
        f"idle = {counting}/counting.py:Counting",
        scopes=("round", "episode"),
    )
    lines: list[str] = []

    def note(done: int, total: int, what: str) -> None:
        lines.append(f"{done}/{total} {what}")

    report = evaluate(
        SETTINGS, grid, folder, workers=2, on_progress=note, open_bench=open_invented, timeout_s=60
    )
    assert report == folder / "report.html"
    return folder, lines


@pytest.fixture(scope="module")
def rows(finished: tuple[Path, list[str]]) -> Rows:
    return read_rows(finished[0] / "results.parquet")


@pytest.mark.slow
def test_every_cell_of_the_grid_has_its_rounds(
    finished: tuple[Path, list[str]], rows: Rows
) -> None:
    cells = zip(
        *(rows[c] for c in ("policy", "channel", "scope", "stream", "train_seed", "round")),
        strict=True,
    )
    assert len(set(cells)) == len(rows["policy"]) == 3 * 2 * 2 * 2 * 2 * 4
    assert finished[1][0] == "0/4 found"
    assert sorted(finished[1][1:])[-1].startswith("4/4 stream")
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["reference"] == "largest"
    assert "numpy" in results["versions"]
    assert (finished[0] / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_all_policies_meet_the_same_air(rows: Rows) -> None:
    seen: dict[tuple[Any, ...], set[float]] = {}
    for key in zip(
        *(rows[c] for c in ("channel", "stream", "train_seed", "round", "snr_db")), strict=True
    ):
        seen.setdefault(key[:-1], set()).add(key[-1])
    assert all(len(values) == 1 for values in seen.values())
    assert set(chosen(rows, channel="5 dB")["snr_db"]) == {5.0}
    of_unit = {}
    for stream in (7, 8):
        for seed in (0, 1):
            part = chosen(
                rows,
                policy="idle",
                channel="varying",
                scope="round",
                stream=stream,
                train_seed=seed,
            )
            of_unit[stream, seed] = tuple(part["snr_db"])
    assert len(set(of_unit.values())) == 4  # a trace of its own for each


@pytest.mark.slow
def test_the_rows_are_what_a_runner_says(rows: Rows) -> None:
    walk = {
        "kind": "gauss_markov",
        "mean": 5.0,
        "std": 6.0,
        "correlation": 0.7,
        "low": -5.0,
        "high": 15.0,
    }
    settings = parse_settings({"radio": {"channel": {"snr_db": walk}}}, source="test")
    table = invented_table(8, 1)
    runner, policy = SurrogateRunner([table], settings), LargestUniform()
    obs = runner.reset(trace_seed(8, 1, "varying"))
    mine = chosen(rows, policy="largest", channel="varying", scope="round", stream=8, train_seed=1)
    for i in range(4):
        result = runner.run(policy.plan(obs))
        assert mine["payload_bits"][i] == result.payload_bits
        assert mine["parameters"][i] == result.parameters
        assert mine["loss_nats"][i] == result.loss_nats
        assert mine["excess_nats"][i] == pytest.approx(result.loss_nats - table.full_losses[i])
        assert mine["total_rank"][i] == sum(r for r in result.ranks.values() if r != "keep")
        assert mine["rank.1.up"][i] == result.ranks["model.layers.1.mlp.up_proj"]
        if runner.observation is not None:
            obs = runner.observation


@pytest.mark.slow
def test_a_stream_of_another_method_is_measured_against_the_same_anchor(rows: Rows) -> None:
    own, lora = (
        chosen(rows, policy=p, stream=7, train_seed=0, channel="5 dB", scope="round")
        for p in ("adalora, rank=8", "largest")
    )
    assert np.array_equal(own["full_loss_nats"], lora["full_loss_nats"])
    assert np.allclose(own["excess_nats"], own["loss_nats"] - invented_table(7, 0).full_losses)
    assert not np.array_equal(own["domain"], lora["domain"]) or not np.array_equal(
        own["loss_nats"], lora["loss_nats"]
    )


@pytest.mark.slow
def test_a_policy_is_made_for_each_episode_and_what_is_finished_stays(
    finished: tuple[Path, list[str]], rows: Rows, counting: Path
) -> None:
    made = (counting / "log.txt").read_text().count("made")
    assert made == 1 + 2 * 2 * 2 * 2  # once to see that it can be; streams, seeds, channels, scopes
    grid = grid_of(
        f"idle = {counting}/counting.py:Counting",
        "largest",
        "greedy",
        scopes=("round", "episode"),
        reference="largest",
    )
    before = {part: part.stat().st_mtime_ns for part in (finished[0] / "parts").iterdir()}
    evaluate(SETTINGS, grid, finished[0], workers=1, open_bench=open_invented, timeout_s=60)
    assert (counting / "log.txt").read_text().count("made") == made
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert len(list((finished[0] / "parts").iterdir())) == len(before) + 4
    again = read_rows(finished[0] / "results.parquet")
    assert list(dict.fromkeys(again["policy"])) == ["idle", "largest", "greedy"]
    for column in ("loss_nats", "snr_db"):
        assert np.array_equal(
            chosen(again, policy="largest")[column], chosen(rows, policy="largest")[column]
        )


@pytest.mark.slow
def test_a_policy_that_fails_is_named_and_nothing_stays_behind(
    tmp_path: Path, counting: Path
) -> None:
    grid = grid_of("largest", f"bad one = {counting}/counting.py:Failing")
    with pytest.raises(
        Exception, match=r"policy 'bad one' on 5 dB, stream \d, seed \d: out of ideas"
    ):
        evaluate(SETTINGS, grid, tmp_path, workers=1, open_bench=open_invented, timeout_s=60)
    assert not multiprocessing.active_children()
    assert list((tmp_path / "parts").glob("*.parquet"))  # the other one's rows are kept


# ----------------------------------------------------------------------------------------- the grid


def test_contestants_as_they_are_written(tmp_path: Path) -> None:
    assert contestant("fixed,rank=4") == Contestant(
        "fixed, rank=4", (FixedPolicy(kind="fixed", rank=4),)
    )
    assert contestant("dice = random,seed=[3,4]") == Contestant(
        "dice", (RandomPolicy(kind="random", seed=3), RandomPolicy(kind="random", seed=4))
    )
    for seed in (1, 0):
        (tmp_path / f"w{seed}").write_bytes(bytes([seed]))
    found = contestant(f"ours,pace=learnt,weights={tmp_path}/w*")
    assert found.members == tuple(
        OursPolicy(pace="learnt", weights=f"{tmp_path}/w{seed}") for seed in (0, 1)
    )
    before = found.fingerprint()
    (tmp_path / "w1").write_bytes(b"others")
    assert found.fingerprint() != before
    assert contestant("adalora,rank=3").training == ("adalora", 3)
    assert found.training == ("lora", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("greedi", "greedi"),
        ("fixed", "rank is missing"),
        ("fixed,rank=0", "greater than or equal to 1"),
        ("fixed,rank", "has no value"),
        ("ours,pace=learnt,weights=/nowhere/*.pt", "no file matches"),
        ("largest,rank=3", "unknown key"),
    ],
)
def test_contestants_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contestant(text)


def test_a_missing_policy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.py: No such file"):
        contestant(f"{tmp_path}/mine.py:Mine").fingerprint()


def test_the_default_contestants_can_be_compared() -> None:
    grid = grid_of(*POLICIES)
    assert {one.members[0].kind for one in grid.contestants} >= {
        "adalora",
        "eva",
        "ppo",
        "airllm",
        "ours",
        "random",
    }
    assert [len(one.members) for one in grid.contestants if one.name == "random"] == [5]
    assert set(QUICK_POLICIES) < set(POLICIES)


def test_streams_take_their_seeds_in_turn() -> None:
    grid = grid_of("largest", streams=[10, 11, 12], train_seeds=[0, 1, 2, 3])
    assert len(grid.units) == 12
    two = dataclasses.replace(grid, seeds_per_stream=2)
    assert two.units == [(10, 0), (10, 1), (11, 1), (11, 2), (12, 2), (12, 3)]


def test_grids_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="only once"):
        grid_of("largest", "largest")
    with pytest.raises(ConfigError, match="at least one"):
        grid_of("largest", streams=[])
    with pytest.raises(ConfigError, match="'ours' is not compared"):
        grid_of("largest", reference="ours")
    with pytest.raises(ConfigError, match="choose from -5 dB, 0 dB"):
        channels(["25 dB"])


def test_a_channel_changes_its_own_keys_only() -> None:
    changed = cell_settings(SETTINGS, CHANNELS["-5 dB"], "episode")
    expected = SETTINGS.model_dump()
    expected["radio"]["channel"]["snr_db"] = {"kind": "constant", "value": -5.0}
    expected["budget"]["scope"] = "episode"
    assert changed.model_dump() == expected
    with pytest.raises(ConfigError, match=r"unknown key radio\.chanel\.snr_db"):
        cell_settings(SETTINGS, Channel("odd", {"radio.chanel.snr_db": 3.0}), "round")
    with pytest.raises(ConfigError, match="channel 'loud'"):
        cell_settings(SETTINGS, Channel("loud", {"radio.channel.snr_db": 99.0}), "round")


def test_the_key_of_a_part_follows_what_matters() -> None:
    def changed(**data: Any) -> str:
        return fingerprint(parse_settings(data, source="test"), "part")

    assert changed() == changed(run={"name": "other"}) == changed(control={"timeout_s": 5.0})
    assert changed() != changed(budget={"airtime_s": 0.3})
    assert changed() != changed(streams={"items": 32})
    assert changed() != fingerprint(Settings(), "another part")


def test_a_policy_that_cannot_be_made_is_known_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("class Broken: pass\n")
    grid = grid_of("largest", f"mine = {tmp_path}/broken.py:Broken")
    with pytest.raises(ConfigError, match=r"policy 'mine': .*needs an attribute name"):
        evaluate(SETTINGS, grid, tmp_path / "out", open_bench=open_invented)
    assert not list((tmp_path / "out" / "parts").iterdir())


def test_columns_of_ranks() -> None:
    assert rank_column("model.layers.11.self_attn.q_proj") == "rank.11.q"
    assert rank_column("model.decoder.layers.0.fc1") == "rank.0.fc1"


SCENARIOS = """
["quiet lab"]
snr_db = 18.0

["bus ride"]
snr_db = {{ kind = "csv", path = "{path}", column = "snr_db", at_end = "loop" }}

[jammer]
snr_db = 12.0
interferer = {{ kind = "burst", inr_db = 10.0, period_s = 0.01, duty = 0.1 }}
"""


def test_channels_of_a_scenario_file_are_compared_and_named(tmp_path: Path) -> None:
    trace, path = tmp_path / "walk.csv", tmp_path / "mine.toml"
    trace.write_text("snr_db\n3\n-2\n9\n")
    path.write_text(SCENARIOS.format(path=trace))
    known = scenarios(path, SETTINGS)
    assert list(known) == ["quiet lab", "bus ride", "jammer"]
    grid = grid_of("largest", channels=list(known.values()), streams=[7], train_seeds=[0])

    [job], [part] = _jobs(SETTINGS, grid, tmp_path, open_invented)
    work(job)
    rows = read_rows(part)
    expected = {
        "quiet lab": [18.0] * 4,
        "bus ride": [3.0, -2.0, 9.0, 3.0],
        "jammer": [12.0 - 10 * np.log10(2)] * 4,
    }
    for name, snr_db in expected.items():
        assert chosen(rows, channel=name)["snr_db"] == pytest.approx(snr_db)
    digest = hashlib.sha256(trace.read_bytes()).hexdigest()
    source = _facts(SETTINGS, grid)["channel_sources"]["bus ride"]["snr_db"]
    assert source == {"kind": "csv", "file": str(trace), "sha256": digest}
    assert _jobs(SETTINGS, grid, tmp_path, open_invented)[0][0].parts == ()
    trace.write_text("snr_db\n4\n")  # another file is another channel
    assert _jobs(SETTINGS, grid, tmp_path, open_invented)[0][0].parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no channel in it; write \[NAME\]"),
        ("x = 3", r"x must be a table; write \[x\]"),
        ("[x]\npreset = 'harsh'", r"\[x\] preset: an evaluation works by snr_db and interferer"),
        ("[x]\nsnr = 3", r"\[x\] snr: an evaluation works by"),
        ("[x]\nsnr_db = 99", r"channel 'x': radio\.channel\.snr_db = 99: must stay within"),
        ("[x]\nsnr_db = {kind='csv', path='no.csv', column='s'}", r"no\.csv: No such file"),
        ("[x", r"not a TOML file"),
    ],
)
def test_a_scenario_that_cannot_be_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        scenarios(path, SETTINGS)
    assert "\n" not in str(caught.value)
