"""The bench of the radio: bounds against known figures, intervals against a simulated truth,
workers without effect."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hil.benchmarks.link import bench, bounds
from hil.benchmarks.link.bars import Bar, Estimate, Point, mean, quantile, rate, rms, threshold
from hil.benchmarks.link.bench import LinkBench, bar_table, measure
from hil.benchmarks.link.coding import chase_bars
from hil.benchmarks.link.curves import Walk, genie_curve, measure_curve
from hil.benchmarks.link.study import Study, Task
from hil.contract import ConfigError
from radio.modem import qam

# -------------------------------------------------------------------------------------------------
# bounds


def test_the_normal_approximation_gives_polyanskiys_example() -> None:
    """Channel of 0 dB, 1e-3, 2000 real uses: by their equation for real channels."""
    # Two real uses are one complex one, both at the same SNR.
    rate_a_real_use = bounds.gaussian_rate(0.0, 1000, 1e-3) / 2
    capacity, dispersion = 0.5, 3 / 8 * math.log2(math.e) ** 2
    by_hand = (
        capacity - math.sqrt(dispersion / 2000) * stats.norm.isf(1e-3) + math.log2(2000) / 4000
    )
    assert rate_a_real_use == pytest.approx(by_hand, abs=5e-4)


@pytest.mark.parametrize(("bits", "rate_bits", "known_db"), [(2, 1.0, 0.19), (4, 2.0, 5.12)])
def test_constrained_capacity_is_the_known_one(
    bits: int, rate_bits: float, known_db: float
) -> None:
    """Es/N0 at which equally likely QPSK and 16-QAM carry half their bits (coded modulation)."""
    information, _ = bounds.information_density(known_db, bits)
    assert information == pytest.approx(rate_bits, abs=0.03)


def test_information_density_against_simulation() -> None:
    """Mean and variance of log p(y|x)/p(y), drawn instead of integrated."""
    rng, sigma2, n = np.random.default_rng(3), 10 ** (-1.2), 60_000
    bits = rng.integers(0, 2, 6 * n, np.uint8)
    x = qam.map_bits(bits, 6).astype(complex)
    points = np.unique(np.round(x, 6))
    y = x + np.sqrt(sigma2 / 2) * (rng.standard_normal(n) + 1j * rng.standard_normal(n))
    likelihood = np.exp(-(np.abs(y[:, None] - points) ** 2) / sigma2).mean(axis=1)
    density = np.log2(np.exp(-(np.abs(y - x) ** 2) / sigma2) / likelihood)
    information, variance = bounds.information_density(12.0, 6)
    assert information == pytest.approx(density.mean(), abs=4 * density.std() / n**0.5)
    assert variance == pytest.approx(density.var(), rel=0.05)


def test_longer_blocks_come_closer_to_shannon() -> None:
    limit = bounds.shannon_limit_db(1.5)
    gaps = [bounds.finite_length_db(1.5, n, 0.01) - limit for n in (200, 2_000, 200_000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.1


# ------------------------------------------------------------------------------------------------
# statistics


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = {"rate": 0, "rms": 0, "quantile": 0, "mean": 0}
    n = 400
    for _ in range(n):
        hits["rate"] += _covers(rate(int(rng.binomial(300, 0.03)), 300), 0.03)
        errors = rng.normal(0, 2, 50)
        hits["rms"] += _covers(rms(errors), 2.0)
        hits["quantile"] += _covers(quantile(rng.uniform(size=300), 0.9), 0.9)
        hits["mean"] += _covers(mean(rng.normal(3, 2, 4)), 3.0)
    # exact intervals of counts cover a little more than they must
    assert hits["rate"] / n >= 0.94
    assert 0.92 <= hits["rms"] / n <= 0.98
    assert 0.92 <= hits["quantile"] / n <= 0.99
    assert 0.92 <= hits["mean"] / n <= 0.98


def _covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def test_no_error_in_n_trials_is_the_rule_of_three() -> None:
    found = rate(0, 1000)
    assert found.low == 0
    assert found.high == pytest.approx(3.7 / 1000, rel=0.01)


def _waterfall(
    true_db: float, width_db: float, groups: int, size: int, rng: np.random.Generator
) -> list[Point]:
    """Counts of a curve that falls through 10 % at true_db; blocks of a group share 0.1 dB of
    luck."""
    points = []
    for snr_db in np.arange(true_db - 0.73, true_db + 0.6, 0.2):
        luck = 0.1 * rng.standard_normal(groups) if size > 1 else np.zeros(groups)
        z = (snr_db + luck - true_db) / width_db + stats.norm.isf(0.1)
        lost = rng.binomial(size, stats.norm.sf(z))
        points.append(Point(float(snr_db), tuple(int(x) for x in lost), (size,) * groups))
    return points


@pytest.mark.slow
def test_thresholds_are_found_where_they_are() -> None:
    rng = np.random.default_rng(1)
    found = [threshold(_waterfall(7.0, 0.25, 1000, 1, rng)) for _ in range(40)]
    figures = np.array([f.figure for f in found])
    assert figures.mean() == pytest.approx(7.0, abs=0.01)
    assert figures.std() < 0.03
    assert sum(_covers(f, 7.0) for f in found) >= 34


def test_blocks_of_one_burst_are_no_independent_trials() -> None:
    """Groups that share their luck must widen the interval over that of as many independent
    blocks."""
    rng = np.random.default_rng(2)
    together = threshold(_waterfall(7.0, 0.1, 60, 16, rng))
    alone = threshold(_waterfall(7.0, 0.1, 960, 1, rng))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_a_curve_that_never_falls_has_no_threshold() -> None:
    points = [Point(float(s), (50,) * 4, (100,) * 4) for s in range(5)]
    assert threshold(points).figure == math.inf
    bar = Bar(
        study="s",
        name="n",
        estimate=threshold(points),
        trials=1,
        of="blocks",
        bar=1.5,
        higher=False,
    )
    assert bar.verdict == "short"
    assert bar.as_json()["figure"] is None


@pytest.mark.parametrize(
    ("figure", "bar", "reach", "higher", "verdict"),
    [
        (0.995, 0.99, None, True, "met"),
        (0.98, 0.99, None, True, "short"),
        (0.3, 0.8, 0.4, False, "reach met"),
        (0.5, 0.8, 0.4, False, "met"),
        (0.9, None, 0.99, True, "reach missed"),
        (3.0, None, None, True, "measured"),
        (math.nan, 0.5, None, True, "short"),
    ],
)
def test_verdicts(
    figure: float, bar: float | None, reach: float | None, higher: bool, verdict: str
) -> None:
    line = Bar(
        study="s",
        name="n",
        estimate=Estimate(figure),
        trials=1,
        of="x",
        bar=bar,
        reach=reach,
        higher=higher,
    )
    assert line.verdict == verdict


def test_a_walk_covers_the_waterfall_and_no_more() -> None:
    rng = np.random.default_rng(4)

    def groups(snr_db: float) -> Any:
        while True:
            yield int(rng.binomial(20, stats.norm.sf((snr_db - 3.0) / 0.3))), 20

    points = measure_curve(groups, Walk(start_db=4.0, step_db=0.2, blocks=1000))
    levels = [p.snr_db for p in points]
    assert levels == sorted(levels)
    assert points[0].bler > 0.9
    assert points[-1].bler < 0.005
    assert threshold(points).figure == pytest.approx(3.0 + 0.3 * stats.norm.isf(0.1), abs=0.06)
    # a point that is sure early is not drawn out
    assert points[0].blocks < 300


# ------------------------------------------------------------------------------------------------
# orchestration


@pytest.mark.slow
def test_figures_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = {
        copies: Walk(start_db=8.9 - 3 * copies, step_db=0.3, blocks=50, floor=0.1)
        for copies in (1, 2)
    }
    tasks = [
        Task(genie_curve, {"place": 6, "copies": copies, "walk": walk})
        for copies, walk in walks.items()
    ]
    monkeypatch.setattr(bench, "STUDIES", {"chase": Study(lambda quick: tasks, chase_bars)})
    done = [
        measure(quick=True, only=["chase"], workers=n, out_dir=tmp_path / str(n)) for n in (1, 2)
    ]
    one, two = ([bar.as_json() for bar in bench.bars] for bench in done)
    assert one == two
    written = json.loads((tmp_path / "1" / "link.json").read_text())
    assert written["bars"] == one
    page = (tmp_path / "1" / "link.html").read_text()
    assert "gain of adding a second copy" in page
    gain = one[0]["figure"]
    assert (
        2.0 < gain < 3.4
    )  # twice the energy: 3.01 dB, less what max-log loses by demapping at a lower SNR


def test_progress_counts_every_job_and_timings_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    studies = {
        "alone": Study(lambda quick: [Task(_draw, {"n": 1})], lambda results: ([], {}), alone=True),
        "shared": Study(
            lambda quick: [Task(_draw, {"n": n}) for n in range(3)],
            lambda results: ([], {"results": results["shared"]}),
        ),
    }
    monkeypatch.setattr(bench, "STUDIES", studies)
    monkeypatch.setattr(bench, "run_jobs", _in_this_process)
    seen: list[tuple[int, int, str]] = []
    done = measure(quick=True, workers=1, on_progress=lambda *step: seen.append(step))
    assert [step[0] for step in seen] == [1, 2, 3, 4]
    assert seen[-1][2] == "alone"
    drawn = [row["drawn"] for row in done.curves["shared"]["results"]]
    assert len(set(drawn)) == 3  # every job has randomness of its own
    monkeypatch.setattr(bench, "STUDIES", {"shared": studies["shared"]})
    again = measure(quick=True, workers=1)
    assert [row["drawn"] for row in again.curves["shared"]["results"]] == drawn


def _in_this_process(function: Any, jobs: Any, *, on_done: Any, **options: Any) -> None:
    for job in reversed(jobs):  # in no order that results may rest on
        on_done(job, function(job))


def _draw(rng: np.random.Generator, *, n: int) -> dict[str, Any]:
    return {"n": n, "drawn": float(rng.uniform())}


def test_an_unknown_study_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"nonsense.*detection.*speed"):
        measure(quick=True, only=["nonsense"])


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_fits_the_terminal_with_nothing_cut(width: int) -> None:
    long_name = "robust bursts found at -6.5 dB, any carrier offset, any delay, and any phase"
    bars = [
        Bar(
            study="detection",
            name=long_name,
            estimate=Estimate(0.12345, 1.234e-4, 0.98765),
            unit="subcarriers",
            trials=30_000_000,
            of="samples",
            bar=1.234e-4,
            reach=5.678e-5,
            higher=False,
        ),
        Bar(study="speed", name="a [b]", estimate=Estimate(2.0), trials=9, of="timings", reach=3.0),
    ]
    done = LinkBench(
        bars=tuple(bars),
        curves={},
        machine={"cpu": "A CPU with a long name @ 3.14 GHz", "cores": 64, "load_average": 12.34}
        | {"idle": False},
        quick=True,
        took_s=63.4,
    )
    text = "\n".join(bar_table(done).lines(width))
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    words = text.split()
    for part in (long_name, "a [b]", "0.1235 [1.23e-04, 0.9877] subcarriers;", "bar ≤ 1.23e-04;"):
        pieces = part.split()
        assert any(words[k : k + len(pieces)] == pieces for k in range(len(words))), part
    assert "reach missed" in text
    assert text.count("Es/N0 per used subcarrier") == 1
