"""A figure with its interval, and the bar that it is held against; rates, quantiles and SNR
thresholds from counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hil.contract import Floats

Verdict = Literal["met", "short", "reach met", "reach missed", "measured"]

CONFIDENCE: Final = 0.95
_N_BOOT: Final = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; NaN where it cannot be told."""

    figure: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of the bench.

    Attributes:
        study: the study that measured it.
        name: the figure's name.
        estimate: figure and interval.
        unit: the unit of figure, bar and reach; "" for a rate.
        trials: independent things tried (bursts, blocks, samples, repetitions).
        of: the things tried, for example "bursts".
        bar: the bound; None where the figure is measured only.
        reach: the bound beyond it; None without.
        higher: more is better.
        note: help to read it; plain text.
    """

    study: str
    name: str
    estimate: Estimate
    trials: int
    of: str
    unit: str = ""
    bar: float | None = None
    reach: float | None = None
    higher: bool = True
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """How the figure itself stands to its bounds; the interval says how sure that is."""
        if self.bar is None and self.reach is None:
            return "measured"
        if self._meets(self.reach):
            return "reach met"
        if self.bar is None:
            return "reach missed"
        return "met" if self._meets(self.bar) else "short"

    def _meets(self, bound: float | None) -> bool:
        figure = self.estimate.figure
        return bound is not None and (figure >= bound if self.higher else figure <= bound)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None."""
        numbers = {
            "figure": self.estimate.figure,
            "low": self.estimate.low,
            "high": self.estimate.high,
            "bar": self.bar,
            "reach": self.reach,
        }
        return {
            "study": self.study,
            "name": self.name,
            **{
                key: number if number is not None and math.isfinite(number) else None
                for key, number in numbers.items()
            },
            "unit": self.unit,
            "trials": self.trials,
            "of": self.of,
            "higher_is_better": self.higher,
            "verdict": self.verdict,
            "note": self.note,
        }


def number(value: float) -> str:
    """A figure as tables print it: four digits, no exponent where it can be helped."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "none" if value > 0 else "-inf"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}"


# ------------------------------------------------------------------------------------------------
# estimates


def rate(successes: int, trials: int) -> Estimate:
    """A share with its Clopper-Pearson interval (Biometrika 26, 1934): exact, hence never too
    narrow."""
    if trials == 0:
        return Estimate(math.nan)
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = (
        float(stats.beta.ppf(1 - tail, successes + 1, trials - successes))
        if successes < trials
        else 1.0
    )
    return Estimate(successes / trials, low, high)


def rms(errors: ArrayLike) -> Estimate:
    """Root mean square of independent Gaussian errors, its interval from the chi-square
    distribution."""
    values = np.asarray(errors, np.float64)
    n = len(values)
    if n == 0:
        return Estimate(math.nan)
    total = float(np.sum(values**2))
    tail = (1 - CONFIDENCE) / 2
    low, high = (math.sqrt(total / float(stats.chi2.ppf(p, n))) for p in (1 - tail, tail))
    return Estimate(math.sqrt(total / n), low, high)


def quantile(values: ArrayLike, level: float) -> Estimate:
    """An empirical quantile, its interval from order statistics (no distribution assumed)."""
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    if n == 0:
        return Estimate(math.nan)
    tail = (1 - CONFIDENCE) / 2
    places = [int(p) for p in stats.binom.ppf([tail, 1 - tail], n, level)]
    low, high = (float(ordered[min(max(place, 0), n - 1)]) for place in places)
    return Estimate(float(ordered[min(math.ceil(level * n), n) - 1]), low, high)


def mean(values: ArrayLike) -> Estimate:
    """A mean with Student's interval; without one for a single value."""
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return Estimate(float(x[0]) if len(x) else math.nan)
    half = (
        float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(x) - 1))
        * float(x.std(ddof=1))
        / math.sqrt(len(x))
    )
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def median(values: ArrayLike) -> Estimate:
    """A median; smallest and largest value in place of an interval, for a few timings."""
    x = np.asarray(values, np.float64)
    return Estimate(float(np.median(x)), float(x.min()), float(x.max()))


# ------------------------------------------------------------------------------------------------
# error curves


@dataclass(frozen=True, slots=True)
class Point:
    """Block errors at one SNR, counted in groups that share a burst and therefore no independent
    trials.

    Attributes:
        snr_db: Es/N0 per used subcarrier.
        lost: blocks lost, a number for each group.
        sent: blocks sent, likewise.
    """

    snr_db: float
    lost: tuple[int, ...]
    sent: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """Blocks sent."""
        return sum(self.sent)

    @property
    def bler(self) -> float:
        """Share of blocks lost."""
        return sum(self.lost) / self.blocks

    @property
    def estimate(self) -> Estimate:
        """Share of blocks lost with its interval, of groups drawn again where any of several groups
        lost some."""
        exact = rate(sum(self.lost), self.blocks)
        if not any(self.lost) or len(self.sent) < 10 or max(self.sent) == 1:
            return exact
        shares = _resampled(self, np.random.default_rng(len(self.sent)))
        low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(exact.figure, min(float(low), exact.low), max(float(high), exact.high))


def _resampled(point: Point, rng: np.random.Generator) -> Floats:
    """Shares lost in _N_BOOT draws of as many groups with replacement; half an error is added
    against zeros."""
    # groups that are alike are drawn together
    kinds, counts = np.unique([point.lost, point.sent], axis=1, return_counts=True)
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=_N_BOOT)
    lost, sent = drawn @ kinds[0], drawn @ kinds[1]
    return np.asarray((lost + 0.5) / (sent + 1), np.float64)


def threshold(points: Sequence[Point], level: float = 0.1) -> Estimate:
    """The SNR in dB at which the share of lost blocks falls through `level`; infinite if it stays
    above.

    Between the two points around it the curve is taken as straight in dB against the normal
    quantile of the share: there a waterfall is nearly a line. The interval is a bootstrap over the
    groups of every point.
    """
    ordered = sorted(points, key=lambda point: point.snr_db)
    if not ordered:
        return Estimate(math.nan)
    snr_db = np.array([point.snr_db for point in ordered])
    share = np.array([(sum(p.lost) + 0.5) / (p.blocks + 1) for p in ordered])
    figure = float(_falls_through(snr_db, share[None], level)[0])
    if any(len(point.sent) < 2 for point in ordered):
        return Estimate(figure)
    rng = np.random.default_rng(len(ordered))
    drawn = np.stack([_resampled(point, rng) for point in ordered], axis=1)
    low, high = np.quantile(
        _falls_through(snr_db, drawn, level),
        [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2],
        method="nearest",
    )
    return Estimate(figure, float(low), float(high))


def _falls_through(snr_db: Floats, shares: Floats, level: float) -> Floats:
    """Where each row of shares [n, points] crosses the level; infinite where none is below, the
    first point if all."""
    # made falling: half way between the largest curve below and the smallest above
    below = np.minimum.accumulate(shares, axis=1)
    above = np.maximum.accumulate(shares[:, ::-1], axis=1)[:, ::-1]
    falling = (below + above) / 2
    first = np.argmax(falling <= level, axis=1)
    rows = np.arange(len(shares))
    before = np.maximum(first - 1, 0)
    a, b = (stats.norm.isf(falling[rows, places]) for places in (before, first))
    along = np.divide(stats.norm.isf(level) - a, b - a, out=np.zeros(len(rows)), where=first > 0)
    crossing = snr_db[before] + along * (snr_db[first] - snr_db[before])
    return np.where((falling <= level).any(axis=1), crossing, np.inf)


def point_json(points: Sequence[Point]) -> list[dict[str, float]]:
    """A curve for the JSON: SNR, share lost and interval, blocks."""
    rows = []
    for p in sorted(points, key=lambda point: point.snr_db):
        estimate = p.estimate
        rows.append(
            {
                "snr_db": p.snr_db,
                "bler": estimate.figure,
                "low": estimate.low,
                "high": estimate.high,
                "blocks": p.blocks,
                "bursts": len(p.sent),
            }
        )
    return rows
