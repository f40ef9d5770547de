"""The curves of the link bench beside what theory allows. SNR is Es/N0 per used subcarrier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import hil.reporting.matplotlib_setup  # noqa: F401 (before any part of matplotlib)

# isort: split
import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from hil.benchmarks.link import bounds
from hil.reporting.figure_style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PINK,
    SKY,
    STYLE,
    VERMILLION,
    WIDTH_IN,
)
from hil.reporting.plots import Plot
from hil.rounding import ceil_div

_MODULATIONS: Final = {2: "QPSK", 4: "16-QAM", 6: "64-QAM", 8: "256-QAM"}
_COLOURS: Final = {2: BLUE, 4: ORANGE, 6: GREEN, 8: PINK}


def plots(curves: Mapping[str, Any]) -> list[Plot]:
    """The figures of the studies that ran."""
    makers: tuple[tuple[Callable[[Mapping[str, Any]], Plot], tuple[str, ...]], ...] = (
        (_gap_plot, ("genie",)),
        (_waterfall_plot, ("genie",)),
        (_goodput_plot, ("chain",)),
        (_detection_plot, ("detection",)),
        (_snr_plot, ("snr",)),
        (_fade_plot, ("fades",)),
    )
    return [make(curves) for make, needed in makers if all(name in curves for name in needed)]


def _axes(height_in: float, n: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = list(figure.subplots(1, n, squeeze=False)[0])
    for ax in axes:
        ax.grid(axis="both")
    return figure, axes


def _log_axis(ax: Axes, low: float, high: float) -> None:
    """Decades along the vertical axis, written out."""
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """A legend above everything, each name once."""
    named: dict[str, Artist] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.4,
    )


@mpl.rc_context(STYLE)
def _gap_plot(curves: Mapping[str, Any]) -> Plot:
    """Rate against threshold: Shannon, normal approximation, genie, chain, impaired."""
    figure, (ax, gap) = _axes(4.2, 2)
    genie = [c for c in curves["genie"]["curves"] if c["threshold_db"] is not None]
    levels = np.linspace(-8, 27, 200)
    ax.plot(levels, bounds.capacity(levels), color=INK, linewidth=1.0, label="Shannon's limit")
    limit = _column(genie, "shannon_db")
    efficiency = _column(genie, "efficiency")
    bound = np.array([c["normal_approximation_db"]["0.1"] for c in genie])
    for x, style in ((ax, False), (gap, True)):
        x.plot(
            bound - limit * style,
            efficiency,
            "x",
            color=GREY,
            markersize=4,
            label="normal approximation, QAM",
        )
    gaussian = _column(genie, "normal_approximation_gaussian_db")
    gap.plot(
        gaussian - limit,
        efficiency,
        "|",
        color=GREY,
        markersize=6,
        label="normal approximation, any input",
    )
    for name, label, marker, colour in (
        ("genie", "genie", "o", BLUE),
        ("chain", "whole chain", "s", ORANGE),
        ("harsh", "all impairments", "^", VERMILLION),
    ):
        own = [c for c in curves.get(name, {}).get("curves", []) if c["threshold_db"] is not None]
        if own:
            at, rates = _column(own, "threshold_db"), _column(own, "efficiency")
            ax.plot(at, rates, marker, color=colour, label=label)
            gap.plot(at - _column(own, "shannon_db"), rates, marker, color=colour, label=label)
    ax.set_xlabel("SNR, Es/N0 (dB)")
    ax.set_ylabel("Information bits per symbol")
    gap.set_xlabel("Distance to Shannon's limit (dB)")
    gap.set_xlim(left=0)
    _legend(figure, [ax, gap], 3)
    return Plot(
        title="Thresholds against Shannon's limit",
        caption="SNR at which 10 % of the blocks are lost, for each MCS. Right: the same as "
        "distance to Shannon's "
        "limit; the normal approximation is what the best code of that block length and "
        "constellation needs.",
        figure=figure,
    )


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([np.nan if row[key] is None else row[key] for row in rows], np.float64)


@mpl.rc_context(STYLE)
def _waterfall_plot(curves: Mapping[str, Any]) -> Plot:
    """Share of blocks lost against SNR, a panel a modulation."""
    genie, chain = curves["genie"]["curves"], curves.get("chain", {}).get("curves", [])
    harsh = curves.get("harsh", {}).get("curves", [])
    orders = sorted({c["bits_per_symbol"] for c in genie})
    figure = Figure(figsize=(WIDTH_IN, 0.7 + 2.5 * ceil_div(len(orders), 2)), layout="constrained")
    axes = figure.subplots(ceil_div(len(orders), 2), 2, squeeze=False).ravel()
    for ax in axes[len(orders) :]:
        ax.set_visible(False)
    for ax, order in zip(axes, orders, strict=False):
        ax.grid(axis="both")
        _log_axis(ax, 4e-4, 1.2)
        ax.set_title(_MODULATIONS[order], fontsize=8)
        for curve in (c for c in genie if c["bits_per_symbol"] == order):
            _curve(ax, curve["points"], BLUE, "o-", "genie")
            bound = curve["normal_approximation_db"]
            ax.plot(
                list(bound.values()),
                [float(b) for b in bound],
                "-",
                color=GREY,
                linewidth=0.9,
                label="normal approximation, this constellation",
            )
            ax.axvline(
                curve["shannon_db"],
                color=GREY,
                linewidth=0.8,
                linestyle=":",
                label="Shannon's limit",
            )
        for name, own, colour, style in (
            ("whole chain", chain, ORANGE, "s-"),
            ("all impairments", harsh, VERMILLION, "^--"),
        ):
            for curve in (c for c in own if c["bits_per_symbol"] == order):
                _curve(ax, curve["points"], colour, style, name)
        ax.set_xlabel("SNR, Es/N0 (dB)")
        ax.set_ylabel("Blocks lost")
    _legend(figure, [axes[0]], 5)
    return Plot(
        title="Waterfalls",
        caption="Share of blocks lost for every MCS; from left to right within a panel the code "
        "rate rises. Bars: 95 % "
        "intervals. Points below the axis lost none.",
        figure=figure,
    )


def _curve(
    ax: Axes, points: Sequence[Mapping[str, float]], colour: str, style: str, name: str
) -> None:
    x, y, low, high = (
        np.array([p[key] for p in points]) for key in ("snr_db", "bler", "low", "high")
    )
    seen = y > 0
    x, y, low, high = x[seen], y[seen], low[seen], high[seen]
    ax.plot(x, y, style, color=colour, label=name, linewidth=1.0, markersize=2.4)
    ax.errorbar(
        x, y, [y - low, high - y], fmt="none", color=colour, elinewidth=0.6, capsize=0, alpha=0.7
    )


@mpl.rc_context(STYLE)
def _goodput_plot(curves: Mapping[str, Any]) -> Plot:
    """Bits per second and hertz against SNR: every MCS, the adapting link, capacity."""
    figure, (ax,) = _axes(4.2)
    levels = np.linspace(-8, 30, 400)
    capacity = bounds.capacity(levels)
    ax.plot(levels, capacity, color=INK, linewidth=1.1, label="capacity of the occupied bandwidth")
    ax.plot(levels, 0.6 * capacity, color=INK, linewidth=0.8, linestyle=":", label="60 % of it")
    for curve in curves["chain"]["curves"]:
        x, lost = (np.array([p[key] for p in curve["points"]]) for key in ("snr_db", "bler"))
        x, lost = np.append(x, [x[-1], 30.0]), np.append(lost, [0.0, 0.0])
        colour = _COLOURS[curve["bits_per_symbol"]]
        name = _MODULATIONS[curve["bits_per_symbol"]]
        ax.plot(
            x,
            curve["bits_per_s_hz"] * (1 - lost),
            color=colour,
            linewidth=0.9,
            alpha=0.8,
            label=name,
        )
    runs = [r for r in curves.get("goodput", {}).get("runs", []) if r["delivered"]]
    if runs:
        snr_db = _column(runs, "snr_db")
        per_hz = bounds.capacity(snr_db) / _column(runs, "capacity_bps")
        in_air = 8 * _column(runs, "payload_bytes") / _column(runs, "airtime_s")
        ax.plot(
            snr_db, in_air * per_hz, "x", color=VERMILLION, label="adapting link, airtime alone"
        )
        ax.plot(
            snr_db,
            _column(runs, "goodput_bps") * per_hz,
            "+",
            color=SKY,
            label="adapting link, waiting counted",
        )
    ax.set_xlabel("SNR, Es/N0 (dB)")
    ax.set_ylabel("Payload bits per second and hertz")
    ax.set_ylim(0, 8.5)
    ax.set_xlim(-8, 30)
    _legend(figure, [ax], 4)
    return Plot(
        title="Goodput against capacity",
        caption="Lines: bursts of 32 blocks at one MCS, blocks lost at that SNR taken off. Marks: "
        "whole payloads over "
        "an adapting link with answers 50 ms late, sounding, headers and repeats counted; noise "
        "alone.",
        figure=figure,
    )


@mpl.rc_context(STYLE)
def _detection_plot(curves: Mapping[str, Any]) -> Plot:
    """Shares missed and carrier error against SNR."""
    figure, (ax, cfo) = _axes(3.3, 2)
    for robust, name, colour in ((False, "preamble", BLUE), (True, "repeated preamble", GREEN)):
        own = [p for p in curves["detection"]["points"] if p["robust"] == robust]
        x = _column(own, "snr_db")
        for key, line, marker in (("found", "-", "o"), ("read", "--", "s")):
            missed = 1 - _column(own, key) / _column(own, "bursts")
            label = f"{name}: {'not found' if key == 'found' else 'header not read'}"
            shown = np.maximum(missed, 0.5 / _column(own, "bursts"))
            ax.plot(x, shown, line, marker=marker, color=colour, label=label, markersize=3)
        for key, line in (("cfo_rms", "-"), ("final_cfo_rms", ":")):
            label = (
                f"{name}: CFO error {'from it' if key == 'cfo_rms' else 'at the end of the burst'}"
            )
            cfo.plot(
                x, _column(own, key), line, marker="o", color=colour, label=label, markersize=3
            )
    ax.axhline(0.01, color=GREY, linewidth=0.8, linestyle=":")
    _log_axis(ax, 1e-4, 1.2)
    ax.set_ylabel("Share of bursts missed")
    cfo.axhline(0.01, color=GREY, linewidth=0.8, linestyle=":")
    _log_axis(cfo, 1e-4, 0.03)
    cfo.set_ylabel("CFO error, rms (subcarriers)")
    for one in (ax, cfo):
        one.set_xlabel("SNR, Es/N0 (dB)")
    _legend(figure, [ax, cfo], 2)
    return Plot(
        title="Finding bursts",
        caption="Soundings at any carrier offset in range and any delay. A burst counts as found "
        "within 8 samples and "
        "a quarter subcarrier. The lowest points missed none: half a burst is drawn. Dotted: 1 %, "
        "and 0.01 subcarrier.",
        figure=figure,
    )


@mpl.rc_context(STYLE)
def _snr_plot(curves: Mapping[str, Any]) -> Plot:
    """Error of the SNR estimate, and how often its sigma covers it."""
    figure, (ax, cover) = _axes(3.3, 2)
    levels = [r for r in curves["snr"]["levels"] if r["error_db"]]
    x = _column(levels, "snr_db")
    errors = [np.asarray(r["error_db"]) for r in levels]
    sigmas = [np.asarray(r["std_db"]) for r in levels]
    for r, error in zip(levels, errors, strict=True):
        ax.plot(
            np.full(len(error), r["snr_db"]), error, ".", color=BLUE, markersize=1.5, alpha=0.25
        )
    ax.plot(x, [float(e.mean()) for e in errors], "-", color=BLUE, label="mean error")
    spread = np.array([float(np.quantile(np.abs(e), 0.99)) for e in errors])
    ax.plot(x, spread, "-", color=VERMILLION, label="99 % within")
    ax.plot(x, -spread, "-", color=VERMILLION)
    typical = np.array([float(np.median(s)) for s in sigmas])
    ax.fill_between(
        x,
        -typical,
        typical,
        color=GREEN,
        alpha=0.25,
        linewidth=0,
        label="±1 sigma as the receiver says",
    )
    limit = max(0.6, 1.2 * float(spread.max()))
    ax.set_ylim(-limit, limit)
    ax.set_ylabel("SNR error (dB)")
    share = np.array([float((np.abs(e) <= s).mean()) for e, s in zip(errors, sigmas, strict=True)])
    n = np.array([len(e) for e in errors])
    cover.errorbar(
        x, share, 1.96 * np.sqrt(share * (1 - share) / n), fmt="o", color=GREEN, elinewidth=0.7
    )
    cover.axhspan(0.63, 0.73, color=GREY, alpha=0.2, linewidth=0)
    cover.set_ylim(0, 1)
    cover.set_ylabel("Share of errors within 1 sigma")
    for one in (ax, cover):
        one.set_xlabel("SNR, Es/N0 (dB)")
    _legend(figure, [ax], 3)
    return Plot(
        title="SNR estimate",
        caption="Every point is a burst of 4 blocks, at each SNR of the fastest MCS that passes "
        "there, robust ones "
        "below 0 dB. Right: how often the receiver's own sigma covers the error; the grey band is "
        "68 ± 5 %.",
        figure=figure,
    )


@mpl.rc_context(STYLE)
def _fade_plot(curves: Mapping[str, Any]) -> Plot:
    """Blocks lost over a fading channel, and the share of fades that nothing survives."""
    figure, (ax,) = _axes(3.4)
    fades = curves["fades"]
    _curve(ax, fades["points"], CYCLE[0], "o-", f"{fades['name']}, measured")
    for limit, line in zip(fades["outage"], (":", "--"), strict=True):
        what = (
            f"with a code {limit['backoff_db']:g} dB off the limit"
            if limit["backoff_db"]
            else "no receiver survives"
        )
        shown = np.where(np.array(limit["outage"]) > 0, limit["outage"], np.nan)
        ax.plot(
            limit["snr_db"],
            shown,
            line,
            color=GREY,
            label=f"fades that {what}".replace("that with", "lost with"),
        )
    ax.axhline(1e-3, color=GREY, linewidth=0.7)
    _log_axis(ax, 1e-5, 1.2)
    ax.set_xlim(0, 30)
    ax.set_xlabel("Mean SNR, Es/N0 (dB)")
    ax.set_ylabel("Blocks lost")
    _legend(figure, [ax], 3)
    return Plot(
        title="Blocks lost in fades",
        caption="TDL-C, 300 ns, 5 Hz Doppler, 4 MS/s, every burst in a fade of its own. A fade is "
        "lost to every "
        "receiver where the used subcarriers together carry less than the MCS sends, with its "
        "constellation.",
        figure=figure,
    )
