"""The figures of an evaluation: what a policy reaches for its bits, where it puts its ranks, how
learners learnt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import hil.reporting.matplotlib_setup  # noqa: F401 (before any part of matplotlib)

# isort: split
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hil.contract import Floats
from hil.evaluation.statistics import History
from hil.evaluation.summary import Rows, chosen, names
from hil.reporting.figure_style import (
    GREY,
    INK,
    STYLE,
    WIDTH_IN,
    drawable,
    policy_styles,
    text_on,
)
from hil.reporting.plots import Plot
from hil.rounding import ceil_div

Cell = Mapping[str, Any]
"""A policy on a channel: metric → [mean, low, high] (hil/evaluation/summary.py)."""

_PANELS_A_ROW = 4


@mpl.rc_context(STYLE)
def tradeoff_plot(cells: Sequence[Cell], policies: Sequence[str], metric: str) -> Plot:
    """Score ("score") or excess loss ("excess_nats") against bits on the air: a curve a policy, a
    point a channel."""
    figure = Figure(figsize=(WIDTH_IN, 4.3), layout="constrained")
    ax = figure.subplots()
    ax.grid(axis="both")
    scale = 100.0 if metric == "score" else 1.0
    styles = policy_styles(policies)
    for policy in policies:
        own = [cell for cell in cells if cell["policy"] == policy and _known(cell, metric)]
        own.sort(key=lambda cell: float(cell["payload_bits"][0]))
        if own:
            x, y = (np.array([c[key] for c in own], np.float64) for key in ("payload_bits", metric))
            _curve(ax, x / 1e6, scale * y, policy, styles[policy])
    ax.set_xlabel("Payload on the air per round (Mbit)")
    ax.set_ylabel("Score (%)" if metric == "score" else "Excess loss (nats/token)")
    caption = (
        "Each point is a channel, the mean over streams; bars are 95 % intervals over "
        "streams, both ways. "
    )
    if metric == "excess_nats":
        _mark_front(ax, [c for c in cells if _known(c, metric)])
        caption += (
            "Excess loss: above that of everything delivered. Ringed and joined: no other "
            "point is better in both."
        )
    _legend(figure, ax)
    return Plot(
        title="Score against bits"
        if metric == "score"
        else "Excess loss against bits, with the Pareto front",
        caption=caption,
        figure=figure,
    )


def _known(cell: Cell, metric: str) -> bool:
    return cell[metric][0] is not None and cell["payload_bits"][0] is not None


def _curve(ax: Axes, x: Floats, y: Floats, policy: str, style: Mapping[str, Any]) -> None:
    """A line through the means, with bars from low to high along both axes; columns of x, y: mean,
    low, high."""
    ax.plot(x[:, 0], y[:, 0], label=drawable(policy, 40), **style)
    bars = [np.nan_to_num(np.abs(v[:, 1:] - v[:, :1])).T for v in (x, y)]
    ax.errorbar(
        x[:, 0],
        y[:, 0],
        bars[1],
        bars[0],
        fmt="none",
        color=style["color"],
        elinewidth=0.7,
    )


def pareto_front(bits: Sequence[float], loss: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats in one and equals in the other, by rising
    bits."""
    front: list[int] = []
    for i in sorted(range(len(bits)), key=lambda i: (bits[i], loss[i])):
        if not front or loss[i] < loss[front[-1]]:
            front.append(i)
    return front


def _mark_front(ax: Axes, cells: Sequence[Cell]) -> None:
    bits, loss = ([float(c[key][0]) for c in cells] for key in ("payload_bits", "excess_nats"))
    front = pareto_front(bits, loss)
    x, y = (np.array([values[i] for i in front]) for values in (bits, loss))
    ax.plot(
        x / 1e6,
        y,
        "o-",
        color=INK,
        markerfacecolor="none",
        markersize=8,
        linewidth=0.6,
        label="Pareto front",
        zorder=0.5,
    )


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    columns = max(1, min(5, len(labels), int(110 / (max(len(label) for label in labels) + 7))))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.4)


@mpl.rc_context(STYLE)
def ranks_plot(rows: Rows) -> Plot | None:
    """Mean rank sent a round by layer and kind of module, a panel a policy; None when nothing
    says."""
    layers, kinds, columns = _modules(rows)
    if not columns:
        return None
    policies = names(rows, "policy")
    maps = [_mean_ranks(chosen(rows, policy=policy), layers, kinds, columns) for policy in policies]
    top = max(float(np.nanmax(shown, initial=0)) for shown in maps) or 1.0
    n_rows = ceil_div(len(policies), _PANELS_A_ROW)
    height = 0.8 + n_rows * (0.75 + 0.17 * len(kinds))
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    axes = figure.subplots(n_rows, _PANELS_A_ROW, squeeze=False, sharex=True, sharey=True)
    for ax, policy, shown in zip(axes.flat, policies, maps, strict=False):
        # A mesh and no image: equal images would get equal ids in the page.
        mesh = ax.pcolormesh(
            shown, cmap="viridis", vmin=0, vmax=top, edgecolors="face", linewidth=0.2
        )
        ax.set_title(drawable(policy), fontsize=8)
        ax.set_yticks(np.arange(len(kinds)) + 0.5, kinds)
        ax.set_ylim(len(kinds), 0)
        labelled = range(0, len(layers), ceil_div(len(layers), 6))
        ax.set_xticks([i + 0.5 for i in labelled], [str(layers[i]) for i in labelled])
        if len(layers) <= 6:
            _write_cells(ax, shown, top)
    for ax in list(axes.flat)[len(policies) :]:
        ax.set_visible(False)
    figure.supxlabel("Layer", fontsize=8)
    figure.colorbar(mesh, ax=axes, label="Directions sent a round", shrink=0.8)
    return Plot(
        title="Where the ranks go",
        caption="Directions that a round sends of each module, the mean over all rounds and "
        "channels; a module that is "
        "kept or whose plan did not fit sends none.",
        figure=figure,
    )


def _modules(rows: Rows) -> tuple[list[int], list[str], dict[tuple[int, str], str]]:
    """Layers, kinds of modules in their order, and (layer, kind) → column."""
    found = {}
    for name in rows:
        if match := re.fullmatch(r"rank\.(\d+)\.(.+)", name):
            found[int(match.group(1)), match.group(2)] = name
    return (
        sorted({layer for layer, _ in found}),
        list(dict.fromkeys(kind for _, kind in found)),
        found,
    )


def _mean_ranks(
    rows: Rows, layers: Sequence[int], kinds: Sequence[str], columns: Mapping[tuple[int, str], str]
) -> Floats:
    shown = np.full((len(kinds), len(layers)), np.nan)
    for (layer, kind), column in columns.items():
        values = rows[column].astype(np.float64)
        if np.isfinite(values).any():
            shown[kinds.index(kind), layers.index(layer)] = np.nanmean(values)
    return shown


def _write_cells(ax: Axes, shown: Floats, top: float) -> None:
    viridis = mpl.colormaps["viridis"]
    for (i, j), value in np.ndenumerate(shown):
        if np.isfinite(value):
            colour = text_on(viridis(value / top))
            ax.text(
                j + 0.5,
                i + 0.5,
                f"{value:.1f}",
                ha="center",
                va="center_baseline",
                fontsize=5.5,
                color=colour,
            )


@mpl.rc_context(STYLE)
def training_plot(histories: Sequence[History]) -> Plot | None:
    """Reward against environment steps: each seed thin, the mean over a learner's seeds thick; None
    without any."""
    if not histories:
        return None
    figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.grid(axis="both")
    learners = list(dict.fromkeys(history.name for history in histories))
    styles = policy_styles(learners)
    for learner in learners:
        own = [history for history in histories if history.name == learner and history.steps]
        style = {**styles[learner], "marker": ""}
        for history in own:
            ax.plot(history.steps, history.reward, **{**style, "linewidth": 0.6})
        if own:
            ax.plot(*_mean_history(own), label=drawable(learner, 40), **style)
    ax.axhline(0, color=GREY, linewidth=0.5)
    ax.set_xlabel("Environment steps")
    ax.set_ylabel("Mean reward")
    _legend(figure, ax)
    return Plot(
        title="Reward against steps",
        caption="Thin: each training seed; thick: their mean over the steps that all of them have "
        "reached.",
        figure=figure,
    )


def _mean_history(own: Sequence[History]) -> tuple[Floats, Floats]:
    steps = np.linspace(max(h.steps[0] for h in own), min(h.steps[-1] for h in own), 200)
    return steps, np.mean([np.interp(steps, h.steps, h.reward) for h in own], axis=0)
