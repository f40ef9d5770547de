"""The page of an evaluation says what the rows hold, opens offline and survives hostile names."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hil.contract import ConfigError
from hil.evaluation.plots import pareto_front, ranks_plot, training_plot
from hil.evaluation.report import (
    read_evaluation,
    read_histories,
    terminal_summary,
    write_evaluation_report,
)
from hil.evaluation.statistics import History
from hil.evaluation.summary import read_rows, summarise

POLICIES = {
    "largest": 1.0,
    "<b>greedy & co": 0.5,
    "none": 0.0,
}  # name → share of the reference's bits
CHANNELS = {"0 dB": 20_000, "5 dB": 60_000, "10 dB": 180_000, "15 dB": 400_000}
HOSTILE = "<b>greedy & co"


def made_up_rows(scopes: tuple[str, ...] = ("round", "episode")) -> list[dict[str, Any]]:
    """The same excess loss for every policy on a channel, greedy for half the bits, "none" sends
    nothing."""
    rng = np.random.default_rng(0)
    offset = rng.normal(0, 0.02, 6)
    rows = []
    for policy, share in POLICIES.items():
        for channel, bits in CHANNELS.items():
            for scope in scopes:
                for stream in range(6):
                    for round_id in range(4):
                        excess = 0.5 if share == 0 else 3 - np.log10(bits) / 2 + offset[stream]
                        rows.append(
                            {
                                "policy": policy,
                                "policy_seed": 0,
                                "channel": channel,
                                "scope": scope,
                                "stream": stream,
                                "train_seed": 0,
                                "round": round_id,
                                "domain": ("jargon", "mixed")[round_id // 2],
                                "snr_db": 5.0,
                                "payload_bits": int(share * bits),
                                "parameters": int(share * bits / 10),
                                "airtime_s": 0.1,
                                "budget_bits": bits,
                                "feasible": policy != "largest" or round_id > 0,
                                "delivered": share > 0,
                                "score": 0.5 + 0.1 * share,
                                "loss_nats": 1 + excess,
                                "excess_nats": excess,
                                "total_rank": 6,
                                "kept_modules": 0,
                                "rank.0.q": 1,
                                "rank.0.up": 2,
                                "rank.1.q": 3,
                                "rank.1.up": 0,
                            }
                        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    pq.write_table(pa.Table.from_pylist(made_up_rows()), folder / "results.parquet")
    results = summarise(read_rows(folder / "results.parquet"), "largest")
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def _entry(entries: list[dict[str, Any]], **where: str) -> dict[str, Any]:
    (found,) = [
        entry for entry in entries if all(entry[key] == value for key, value in where.items())
    ]
    return found


@pytest.mark.slow
def test_the_summary_holds_what_the_rows_hold(folder: Path) -> None:
    _, results = read_evaluation(folder)
    cell = _entry(results["cells"], policy="largest", channel="5 dB", scope="round")
    assert cell["payload_bits"] == [60_000, 60_000, 60_000]
    assert cell["infeasible"] == [0.25, 0.25, 0.25]
    mean, low, high = cell["excess_nats"]
    assert low < mean < high
    difference = _entry(results["differences"], policy=HOSTILE, channel="10 dB", scope="episode")
    assert difference["payload_bits"] == [-90_000, -90_000, -90_000]
    assert difference["excess_nats"] == [0, 0, 0]  # paired: the streams' own level is gone
    over_all = _entry(results["differences"], policy=HOSTILE, channel="all", scope="round")
    assert over_all["payload_bits"][0] == -np.mean(list(CHANNELS.values())) / 2
    assert over_all["score"] == pytest.approx([-0.05, -0.05, -0.05])


@pytest.mark.slow
def test_half_the_bits_at_equal_loss_is_a_half(folder: Path) -> None:
    _, results = read_evaluation(folder)
    own = [
        e["ratio"]
        for e in results["equal_loss"]
        if e["policy"] == HOSTILE and e["scope"] == "round"
    ]
    assert len(own) == 3
    for mean, low, high in own:
        assert (mean, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert all(e["ratio"] is None for e in results["equal_loss"] if e["policy"] == "none")


def test_the_seeds_of_a_policy_are_averaged_round_by_round(tmp_path: Path) -> None:
    rows = made_up_rows(("round",))
    # One seed sends half of the reference's bits, the other one and a half times as many.
    own = [row for row in rows if row["policy"] == HOSTILE]
    more = [{**row, "policy_seed": 1, "payload_bits": 3 * row["payload_bits"]} for row in own]
    pq.write_table(pa.Table.from_pylist(rows + more), tmp_path / "results.parquet")
    results = summarise(read_rows(tmp_path / "results.parquet"), "largest")
    for channel in (*CHANNELS, "all"):
        difference = _entry(results["differences"], policy=HOSTILE, channel=channel)
        assert difference["payload_bits"] == [0, 0, 0]
        assert difference["excess_nats"] == pytest.approx([0, 0, 0], abs=1e-12)
    losses = [row["excess_nats"] for row in rows if row["policy"] == "largest"]
    ratios = [entry for entry in results["equal_loss"] if entry["policy"] == HOSTILE]
    assert len(ratios) == 3
    for entry in ratios:
        assert entry["ratio"] == pytest.approx([1, 1, 1])
        assert min(losses) < entry["excess_nats"] < max(losses)


class _Page(HTMLParser):
    """Tags, what they refer to, and the cells of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


@pytest.mark.slow
def test_the_page_is_whole_and_opens_offline(folder: Path, tmp_path: Path) -> None:
    rows, results = read_evaluation(folder)
    histories = [
        History("ppo", seed, (0, 100, 200), (-1.0, -0.5, -0.4 + seed / 10)) for seed in range(2)
    ]
    write_evaluation_report(rows, results, tmp_path / "one.html", histories)
    text = (tmp_path / "one.html").read_text()
    page = _Page(text)
    assert page.tags.count("svg") == 2 * 3 + 1
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert "<b>greedy" not in text
    line = next(row for row in page.rows if row[:2] == ["5 dB", "largest"])
    assert line[2] == "60.0 [60.0, 60.0]"
    assert line[4:] == ["60.0 [60.0, 60.0]", "6000 [6000, 6000]", "25.0 [25.0, 25.0]"]
    assert ["none", "–", "–", "–"] in page.rows
    assert any(row[0] == HOSTILE and row[1:] == ["0.50 [0.50, 0.50]"] * 3 for row in page.rows)
    assert ["ppo", "1", "-1.0000", "-0.3000", "-0.5750", "200"] in page.rows
    write_evaluation_report(rows, results, tmp_path / "two.html", histories)
    assert (tmp_path / "two.html").read_text() == text


@pytest.mark.slow
def test_ranks_are_shown_by_layer_and_kind(folder: Path) -> None:
    plot = ranks_plot(read_rows(folder / "results.parquet"))
    assert plot is not None
    panel = plot.figure.axes[0]
    assert np.array_equal(
        np.asarray(panel.collections[0].get_array()), [[1, 3], [2, 0]]
    )  # kinds down, layers along
    assert [label.get_text() for label in panel.get_yticklabels()] == ["q", "up"]


def test_the_front_holds_what_nothing_beats() -> None:
    assert pareto_front([3, 1, 2, 2, 4], [1, 5, 4, 3, 1]) == [1, 3, 0]
    assert pareto_front([], []) == []


def test_learners_are_averaged_over_their_common_steps() -> None:
    plot = training_plot([History("a", 0, (0, 10), (0, 1)), History("a", 1, (0, 20), (0, 4))])
    assert plot is not None
    (mean,) = [line for line in plot.figure.axes[0].lines if line.get_label() == "a"]
    steps, reward = mean.get_data()
    assert np.asarray(steps)[-1] == 10
    assert np.asarray(reward)[-1] == pytest.approx((1 + 2) / 2)
    assert training_plot([]) is None


@pytest.mark.slow
def test_the_terminal_shows_every_policy_on_every_channel(folder: Path) -> None:
    _, results = read_evaluation(folder)
    tables = terminal_summary(results)
    assert len(tables) == 2 * len(CHANNELS)
    assert [len(table.rows) for table in tables] == [len(POLICIES)] * len(tables)
    lines = []
    for table in tables:
        lines += table.lines(80)
    assert max(map(len, lines)) <= 80
    [title] = {line for line in lines if line == "15 dB, airtime a budget for each round"}
    row = lines[lines.index(title) :]
    assert any(re.match(r"<b>greedy( & co)? +55\.0 +", line) for line in row)
    assert any("[+0.0000,+0.0000]" in line for line in row)


def test_training_histories_are_read_or_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    answers = [("ppo", 3, 0, -1.0), ("ours", 0, 0, -0.5), ("ppo", 3, 10, 0.5)]
    lines = [
        json.dumps({"learner": a, "seed": b, "step": c, "reward": d, "mbit": 0.1})
        for a, b, c, d in answers
    ]
    path.write_text("\n".join(lines) + "\n")
    assert read_histories(path) == [
        History("ppo", 3, (0.0, 10.0), (-1.0, 0.5)),
        History("ours", 0, (0.0,), (-0.5,)),
    ]
    path.write_text("\n".join([*lines, '{"learner": "ppo"}']))
    with pytest.raises(ConfigError, match="line 4: not a line of a training"):
        read_histories(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_histories(tmp_path / "none.jsonl")


def test_a_folder_that_is_no_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"results\.json"):
        read_evaluation(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"results\.parquet"):
        read_evaluation(tmp_path)
