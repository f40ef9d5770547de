"""Reports are complete, honest about what is missing, safe against hostile names, and open
offline."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.lines import Line2D
from scipy import stats

from hil.contract import ConfigError
from hil.reporting.comparison import comparison_plot, differences, differences_table
from hil.reporting.figure_style import BLUE, INK
from hil.reporting.plots import gain_half_width, run_plots, score_kinds, short_names
from hil.reporting.report import write_report
from hil.reporting.run_folder import Run, Value
from hil.reporting.totals import summary, totals_table

PROJECTIONS = (
    "self_attn.q",
    "self_attn.k",
    "self_attn.v",
    "self_attn.o",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
)
MODULES = [
    f"model.layers.{i // len(PROJECTIONS)}.{PROJECTIONS[i % len(PROJECTIONS)]}_proj"
    for i in range(4 * len(PROJECTIONS))
]
CONFIG = (
    '[run]\nname = "demo"\nseed = 7\n\n[policy]\nkind = "greedy"\n\n[model]\nbase = "default"\n'
)


def made_up_run(n_rounds: int, *, seed: int = 7, name: str = "demo", block: int = 6) -> Run:
    """A run with the figures of a plausible one: three label domains and one of plain text, some
    refused rounds."""
    rng = np.random.default_rng(seed)
    rows = [
        _row(i, rng, ("films", "products", "asyncio+http", "places")[i // block % 4])
        for i in range(n_rounds)
    ]
    manifest = {
        "name": name,
        "outcome": "finished",
        "policy": "greedy",
        "model": "default (4 layers, 3.2 M parameters)",
        "seeds": {"run": seed},
        "started_utc": "2026-03-01T12:00:00Z",
        "finished_utc": "2026-03-01T12:09:30Z",
        "git": {"sha": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "simulated": ["the air: fading, noise and frequency offset, in baseband samples"],
        "emulated": [],
        "versions": {"python": "3.11.9", "numpy": "2.4.6"},
    }
    return Run(
        folder=Path("runs/20260301T120000Z-demo"), config_toml=CONFIG, manifest=manifest, rows=rows
    )


def _row(i: int, rng: np.random.Generator, domain: str) -> dict[str, Value]:
    snr = 14 + 7 * math.sin(i / 4) + rng.normal(0, 0.4)
    budget_bits = int(2.1e5 * max(snr + 2, 3) / 12)
    nothing, lost = i % 11 == 9, i % 13 == 7
    ranks: dict[str, int | str] = {}
    for j, module in enumerate(MODULES):
        rank = int(np.clip(rng.normal(4 + budget_bits / 1.1e5 - 0.12 * j, 1.6), 0, 16))
        ranks[module] = "keep" if nothing or rng.random() < 0.12 else rank
    payload = 0 if nothing else 900 + 84 * sum(r for r in ranks.values() if isinstance(r, int))
    blocks = math.ceil(8 * payload / 8448 * 1.1)
    airtime = 0.004 + blocks * 0.006 * 14 / max(snr, 4) * (2.2 if lost else 1)
    mcs = "QPSK 1/2" if snr < 10 else "16QAM 3/4" if snr < 16 else "64QAM 5/6"
    text_set = domain == "asyncio+http"
    base_loss, gain = (3.41, 0.16) if text_set else (0.66, 0.11)
    grown = (gain * (1 - math.exp(-(i % 6 + 2) / 2))) + rng.normal(0, 0.008)
    return {
        "round.id": i,
        "text.domain": domain,
        "text.lexical_entropy_bits": 8.1 + (0.7 if text_set else 0) + rng.normal(0, 0.08),
        "text.lexical_entropy": 0.74,
        "text.oov_rate": (0.11 if text_set else 0.03) + rng.normal(0, 0.003),
        "text.pieces_per_word": 1.31,
        "finetune.steps": 20,
        "finetune.loss_nats": base_loss - grown,
        "channel.snr_db": snr + rng.normal(0, 0.25),
        "channel.snr_std_db": 0.25,
        "channel.age_s": 0.02,
        "channel.cfo_hz": 800 + rng.normal(0, 10),
        "channel.bandwidth_hz": 1.5e6,
        "channel.airtime_share": 1.0,
        "channel.block_error_rate": 0.0,
        "channel.goodput_bps": math.nan if i == 0 else 9e5,
        "truth.snr_db": snr,
        "truth.cfo_hz": 800.0,
        "budget.airtime_s": 0.25,
        "budget.bits": budget_bits,
        "policy.name": "greedy",
        **{f"plan.rank.{module}": rank for module, rank in ranks.items()},
        "payload.bytes": payload,
        "payload.sha256": "" if nothing else f"{i:064x}",
        "payload.parameters": 10 * payload,
        "payload.predicted_airtime_s": airtime * 0.95,
        "link.delivered": not lost and not nothing,
        "link.reason": "deadline of 0.25 s passed" if lost else "",
        "link.payload_bytes": payload,
        "link.airtime_s": 0.002 if nothing else airtime,
        "link.elapsed_s": airtime + 0.03,
        "link.bits_on_air": blocks * 12000,
        "link.header_bits_on_air": 2000,
        "link.bursts_sent": 4,
        "link.bursts_lost": 0,
        "link.blocks_sent": blocks,
        "link.blocks_lost": blocks // 3 if lost else int(rng.random() < 0.3),
        f"link.blocks_by_mcs.{mcs}": blocks,
        "link.snr_db": math.nan if nothing else snr + rng.normal(0, 0.15),
        "link.snr_std_db": math.nan if nothing else 0.15,
        "link.evm_rms": 0.11,
        "link.cfo_hz": 803.0,
        "link.feedback_bytes": 48,
        "link.goodput_bps": 0.0 if lost or nothing else 8 * payload / airtime,
        "link.block_error_rate": 0.33 if lost else 0.02,
        "edge.status": "refused" if lost else "kept" if nothing else "installed",
        "edge.reason": "deadline of 0.25 s passed" if lost else "",
        "edge.held_digest": f"{i:064x}",
        "edge.score_set": domain,
        "edge.n_scored": 60 if text_set else 200,
        "edge.score": math.nan if text_set else 0.68 + grown,
        "edge.loss_nats_per_token": base_loss - grown,
        "edge.base_score": math.nan if text_set else 0.68,
        "edge.base_loss_nats_per_token": base_loss,
        "edge.gain": grown,
        "edge.gain_std_error": 0.012 if text_set else 0.026,
        "control.bytes": 512,
        "timing.finetune_s": 4.1,
        "timing.plan_s": 0.01,
        "timing.encode_s": 0.2,
        "timing.link_s": 1.1,
        "timing.edge_s": 2.2,
        "timing.swap_ms": 1.4,
        "timing.round_s": 7.7,
    }


class _Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on tags that do not close each other."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def _written(runs: list[Run], tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    write_report(runs, path)
    return path.read_text(encoding="utf-8")


def _is_curve(line: Line2D) -> bool:
    """Whether this is the first domain's curve and not an error bar's cap."""
    return line.get_color() == BLUE and line.get_marker() == "o"


def _changed(run: Run, **fields: Any) -> Run:
    return dataclasses.replace(run, **fields)


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _written([made_up_run(24)], tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def short_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _written([made_up_run(1)], tmp_path_factory.mktemp("report"))


@pytest.mark.slow
def test_a_page_holds_everything_and_loads_nothing(long_page: str) -> None:
    page = _Page(long_page)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), value[:80]
    assert "://" not in long_page
    assert "@import" not in long_page
    assert set(re.findall(r"url\((.)", long_page)) == {"#"}
    assert len(long_page.encode()) < 1_500_000


@pytest.mark.slow
def test_ids_are_unique_and_every_reference_inside_a_figure_finds_its_target(
    long_page: str,
) -> None:
    page = _Page(long_page)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {
        value[1:]
        for name, value in page.attributes
        if name.endswith("href") and value.startswith("#")
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", long_page))
    assert len(wanted) > 100
    assert wanted <= set(ids)


@pytest.mark.slow
def test_figures_take_the_colour_of_the_page(long_page: str) -> None:
    assert "currentColor" in long_page
    assert INK not in long_page


@pytest.mark.slow
def test_a_page_says_what_ran_and_what_was_not_real(long_page: str) -> None:
    text = _Page(long_page).text
    for said in (
        "greedy",
        "default (4 layers, 3.2 M parameters)",
        "run 7",
        "0123456789abcdef0123456789abcdef01234567 with local changes",
        "9 min 30 s",
        "finished",
        "the air: fading, noise and frequency offset, in baseband samples",
        'name = "demo"',
        "Goodput",
        "deadline of 0.25 s passed",
    ):
        assert said in text
    assert long_page.count("<figure>") == 7


@pytest.mark.slow
def test_equal_runs_give_equal_pages(short_page: str, tmp_path: Path) -> None:
    assert _written([made_up_run(1)], tmp_path) == short_page


@pytest.mark.slow
def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = made_up_run(3, block=1)
    evil = "</svg><script>alert('$x$')</script>--> & 漢\n"
    for row in run.rows:
        row["text.domain"] = row["edge.score_set"] = row["edge.reason"] = row["policy.name"] = evil
        row[f"plan.rank.{evil}"] = 3
        row[f"link.blocks_by_mcs.{evil}"] = 2
    manifest = dict(run.manifest) | {
        "name": evil,
        "model": evil,
        "outcome": f"failed: {evil}",
        "simulated": [evil],
    }
    html = _written([_changed(run, manifest=manifest, config_toml=evil)] * 2, tmp_path)
    assert "script" not in _Page(html).tags
    assert evil in _Page(html).text


@pytest.mark.slow
def test_a_run_of_one_round_has_all_figures(short_page: str) -> None:
    assert short_page.count("<figure>") == 7


def test_a_run_that_ended_before_its_first_round(tmp_path: Path) -> None:
    run = _changed(made_up_run(0), manifest={"outcome": "interrupted"})
    text = _Page(_written([run, run], tmp_path)).text
    assert "No round was completed." in text
    assert "interrupted" in text
    assert "The manifest does not say what was simulated." in text
    assert math.isnan(float(summary(run)["gain.accuracy"]))


def test_a_running_run_and_a_cut_line_are_named(tmp_path: Path) -> None:
    run = made_up_run(0)
    text = _Page(
        _written([_changed(run, manifest={"outcome": "running"}, truncated=True)], tmp_path)
    ).text
    assert "running, or killed" in text
    assert "a last line was cut off" in text


def test_without_a_simulator_there_is_no_truth(tmp_path: Path) -> None:
    run = made_up_run(4)
    rows = [{k: v for k, v in row.items() if not k.startswith("truth.")} for row in run.rows]
    real = _changed(run, rows=rows, manifest=dict(run.manifest) | {"simulated": [], "emulated": []})
    (plot,) = [plot for plot in run_plots(real) if plot.title == "Signal-to-noise ratio"]
    assert len(plot.figure.axes) == 1
    assert math.isnan(float(summary(real)["link.snr_rms_error_db"]))
    assert "nothing" in _Page(_written([_changed(real, rows=[])], tmp_path)).text


@pytest.mark.slow
def test_a_round_with_nothing_but_gaps_leaves_gaps(tmp_path: Path) -> None:
    run = made_up_run(6)
    run.rows[3] = {
        key: math.nan if isinstance(value, float) else value for key, value in run.rows[3].items()
    }
    run.rows[4] = {"round.id": 4}
    lines = _Page(_written([run], tmp_path)).text
    assert "nan" not in lines.lower()
    scores = run_plots(run)[0].figure.axes[0]
    (drawn,) = [np.asarray(line.get_xdata()) for line in scores.lines if _is_curve(line)]
    assert drawn[np.isfinite(drawn)].tolist() == [0, 1, 2, 5]


@pytest.mark.slow
def test_both_kinds_of_score_sets_have_panels_of_their_own() -> None:
    def panels(run: Run) -> list[str]:
        return [
            ax.get_ylabel().split(" (")[0].split("\n")[0] for ax in run_plots(run)[0].figure.axes
        ]

    assert panels(made_up_run(24)) == ["Accuracy", "Label loss", "Text loss"]
    assert panels(made_up_run(6)) == ["Accuracy", "Label loss"]
    only_text = made_up_run(24)
    assert panels(_changed(only_text, rows=only_text.rows[12:18])) == ["Text loss"]
    assert score_kinds(only_text)[11:13] == ["labels", "text"]


def test_bars_are_students_intervals_over_score_items() -> None:
    run = made_up_run(12)
    for row, n in zip(run.rows, (2, 3, 8, 200), strict=False):
        row["edge.n_scored"] = n
    half = gain_half_width(run)
    error = run.numbers("edge.gain_std_error")
    assert np.isnan(half[0])
    assert half[1:4] == pytest.approx(error[1:4] * stats.t.ppf(0.975, [2, 7, 199]))
    bars = run_plots(run)[0].figure.axes[0].collections[0].get_segments()
    drawn = [float(np.ptp(bar[:, 1])) for bar in bars[1:4]]
    assert drawn == pytest.approx(100 * 2 * half[1:4])


@pytest.mark.slow
def test_a_line_breaks_where_another_domain_lies_between() -> None:
    run = made_up_run(30)  # films come back at round 24
    lines = run_plots(run)[0].figure.axes[0].lines
    (films,) = [np.asarray(line.get_xdata()) for line in lines if _is_curve(line)]
    assert np.array_equal(
        films, [0, 1, 2, 3, 4, 5, math.nan, 24, 25, 26, 27, 28, 29], equal_nan=True
    )


@pytest.mark.slow
def test_the_heat_map_shows_the_plan() -> None:
    run = made_up_run(20)
    (plot,) = [plot for plot in run_plots(run) if plot.title == "Rank plan"]
    ax = plot.figure.axes[0]
    shown = np.ma.asarray(ax.images[0].get_array())
    assert shown.shape == (28, 20)
    for module, name in enumerate(MODULES):
        for i, row in enumerate(run.rows):
            rank = row[f"plan.rank.{name}"]
            cell = shown[module, i]
            assert (cell is np.ma.masked) if rank in ("keep", 0) else cell == rank
    (hatched,) = ax.patches
    for module, i in ((0, 9), (27, 9), (0, 0)):
        kept = run.rows[i][f"plan.rank.{MODULES[module]}"] == "keep"
        assert hatched.get_path().contains_point((i, module)) == kept
    assert [label.get_text() for label in ax.get_yticklabels()][
        :7
    ] == "0.q 0.k 0.v 0.o 0.gate 0.up 0.down".split()


def test_module_names_are_shortened_only_while_they_stay_apart() -> None:
    assert short_names(["model.layers.11.mlp.down_proj", "transformer.h.3.attn.c_attn"]) == [
        "11.down",
        "3.c_attn",
    ]
    twins = ["encoder.layers.0.self_attn.q_proj", "decoder.layers.0.self_attn.q_proj"]
    assert short_names(twins) == twins


def test_a_summary_adds_up() -> None:
    shared = {
        "link.delivered": True,
        "link.payload_bytes": 1000,
        "link.airtime_s": 0.5,
        "link.bits_on_air": 10_000,
    }
    rows: list[dict[str, Value]] = [
        shared
        | {"edge.status": "installed", "edge.score": 0.8, "edge.gain": 0.1, "link.blocks_sent": 8},
        shared
        | {"edge.status": "refused", "link.delivered": False, "edge.score": 0.7, "edge.gain": 0.2},
        {
            "edge.status": "kept",
            "edge.score": math.nan,
            "edge.loss_nats_per_token": 3.0,
            "edge.gain": 0.4,
        },
    ]
    rows[1] |= {
        "link.blocks_sent": 12,
        "link.blocks_lost": 5,
        "link.snr_db": 11.0,
        "truth.snr_db": 10.0,
    }
    rows[0] |= {"link.snr_db": 13.0, "truth.snr_db": 10.0, "link.blocks_lost": 0}
    total = summary(
        Run(
            folder=Path("x"),
            config_toml='[policy]\nkind = "fixed"',
            manifest={"name": "n"},
            rows=rows,
        )
    )
    assert (total["installed"], total["kept"], total["refused"], total["rounds"]) == (1, 1, 1, 3)
    assert total["policy"] == "fixed"
    assert total["gain.accuracy"] == pytest.approx(0.15)
    assert total["gain.nats_per_token"] == pytest.approx(0.4)
    assert total["link.goodput_bps"] == pytest.approx(8000.0)  # 8000 delivered bits in 1 s of air
    assert total["link.block_error_rate"] == pytest.approx(0.25)
    assert total["link.snr_rms_error_db"] == pytest.approx(math.sqrt(5))
    assert total["link.bits_on_air"] == 20_000


@pytest.mark.slow
def test_several_runs_are_compared(tmp_path: Path) -> None:
    runs = [made_up_run(2), made_up_run(2, seed=8, name="other"), made_up_run(2)]
    for row in runs[2].rows:
        row["timing.round_s"] = 99.0
    html = _written(runs, tmp_path)
    text = _Page(html).text
    assert "3 runs compared" in text
    equal = re.findall(r'<tr><td class="t">\d .*?<td>(yes|no)</td></tr>', html)
    assert equal == ["yes", "no", "yes"]
    assert html.count("<figure>") == 1 + 3 * 2
    assert len(html.encode()) < 1_500_000


@pytest.mark.slow
def test_what_differs_stands_above_every_comparison(tmp_path: Path) -> None:
    one, other = made_up_run(2), made_up_run(2, seed=8, name="other")
    config = CONFIG.replace('"greedy"', '"ours"').replace('"demo"', '"other"')
    config += "\n[radio.channel]\nsnr_db = 3.0\n"
    other = _changed(other, config_toml=config, manifest=dict(other.manifest) | {"policy": "ours"})
    table = differences_table([one, other])
    assert list(table.rows) == [
        ["policy.kind", "greedy", "ours"],
        ["radio.channel.snr_db", "–", "3.0"],
        ["manifest.policy", "greedy", "ours"],
        ["manifest.seeds.run", "7", "8"],
    ]
    assert max(len(line) for line in table.lines(80)) <= 80
    html = _written([one, other], tmp_path)
    assert html.index("What differs") < html.index("radio.channel.snr_db") < html.index("Mean gain")
    assert differences_table([one, one]).rows == []
    assert "Nothing but the rounds." in _written([one, one], tmp_path)


def test_a_broken_configuration_differs_as_a_whole() -> None:
    run = made_up_run(1)
    rows = differences_table([run, _changed(run, config_toml="[run\n")]).rows
    assert ["config.toml", "–", "[run\n"] in [list(row) for row in rows]
    assert differences([{"a": {"b": 1}}, {"a": {"b": 1}}]) == []


def test_runs_of_unlike_policies_wear_their_policies_colours() -> None:
    runs = [made_up_run(2), made_up_run(2, name="b")]

    def colours(*policies: str) -> list[str]:
        plot = comparison_plot(runs, ["a", "b"], policies)
        assert plot is not None
        lines = plot.figure.axes[-1].lines
        return [str(line.get_color()) for line in lines]

    assert colours("ours", "largest") == colours("largest", "ours")[::-1]
    assert len(set(colours("ours", "ours"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("n_rounds", [1, 2, 3])
def test_a_short_run_fills_its_axes(n_rounds: int) -> None:
    for plot in run_plots(made_up_run(n_rounds)):
        for ax in plot.figure.axes:
            if ax.get_xlabel() == "Round":
                assert ax.get_xlim() == (-0.5, n_rounds - 0.5)
                low, high = ax.get_xlim()
                ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
                assert ticks == list(range(n_rounds)), plot.title


def test_the_payload_is_drawn_against_its_own_budget() -> None:
    run = made_up_run(3)
    (plot,) = [plot for plot in run_plots(run) if "budget" in plot.title]
    bars = [bar.get_height() for bar in plot.figure.axes[0].patches]
    assert bars == pytest.approx(8e-3 * run.numbers("payload.bytes"))
    heights = [path[0][1] for path in plot.figure.axes[0].collections[0].get_segments()]
    assert heights == pytest.approx(run.numbers("budget.bits") / 1e3)


def test_the_terminal_shows_the_totals() -> None:
    run = made_up_run(14)
    text = "\n".join(totals_table(run).lines(80))
    assert "14 rounds, finished" in text
    counts = [run.texts("edge.status").count(word) for word in ("installed", "kept", "refused")]
    assert re.search(rf"^installed / kept / refused +{' / '.join(map(str, counts))}$", text, re.M)
    assert re.search(r"^mean gain in accuracy +[+-][0-9.]+ points$", text, re.M)
    assert re.search(r"^mean gain in loss +[+-][0-9.]+ nats/token$", text, re.M)


def test_a_report_needs_a_run_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 run"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="choose another place"):
        write_report([made_up_run(0)], tmp_path / "missing" / "report.html")
