"""The figures of a report on one run by round; one function a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hil.reporting.matplotlib_setup  # noqa: F401 (before any part of matplotlib)

# isort: split
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hil.contract import KEEP, Floats
from hil.reporting.figure_style import (
    BLUE,
    GREEN,
    GREY,
    GROUND,
    HATCH,
    INK,
    KEPT,
    ORANGE,
    SKY,
    STYLE,
    VERMILLION,
    WIDTH_IN,
    bar_width,
    domain_colours,
    drawable,
    error_bars,
    finish,
    mark_refused,
    round_ids,
    shade_domains,
    stacked_panels,
    text_on,
    with_gaps,
)
from hil.reporting.intervals import half_width
from hil.reporting.run_folder import Run

GAINS = (
    ("labels", "Gain in accuracy\n(percentage points)", 100.0),
    ("text", "Gain in loss\n(nats/token)", 1.0),
)
"""Kind of score set, the axis of its gain, and the factor from the row to that axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure with its heading and a caption that says how to read it; both are plain text."""

    title: str
    caption: str
    figure: Figure


@mpl.rc_context(STYLE)
def run_plots(run: Run, *, brief: bool = False) -> list[Plot]:
    """The figures of one run, only scores and ranks if `brief`; those without numbers are left
    out."""
    chosen = (
        (_scores, _ranks) if brief else (_scores, _gains, _ranks, _spending, _snr, _link, _text)
    )
    made = (plot(run) for plot in chosen) if run.rows else ()
    return [plot for plot in made if plot is not None]


def score_kinds(run: Run) -> list[str]:
    """What each round was scored on: "labels", "text" (a language-model set), or "" when it was not
    scored."""
    labels, losses = (
        np.isfinite(run.numbers("edge.score")),
        np.isfinite(run.numbers("edge.loss_nats_per_token")),
    )
    return [
        "labels" if label else "text" if loss else ""
        for label, loss in zip(labels, losses, strict=True)
    ]


def gain_half_width(run: Run) -> Floats:
    """Half of the 95 % interval of each round's gain over its score items, in the gain's unit; NaN
    from fewer than three items."""
    return half_width(run.numbers("edge.gain_std_error"), run.numbers("edge.n_scored"))


def short_names(modules: Sequence[str]) -> list[str]:
    """Module names as "layer.projection" ("0.q", "3.down"), or unchanged where that would make two
    of them equal."""
    short = [
        re.sub(r"^.*?(\d+)\.(?:.*\.)?(\w+?)(?:_proj)?$", r"\1.\2", module) for module in modules
    ]
    return short if len(set(short)) == len(short) else list(modules)


def _by_set(run: Run, kind: str) -> dict[str, NDArray[np.int64]]:
    """Score set → places of the rows scored on it, for the sets of one kind."""
    sets: dict[str, list[int]] = {}
    for i, (name, found) in enumerate(
        zip(run.texts("edge.score_set"), score_kinds(run), strict=True)
    ):
        if found == kind:
            sets.setdefault(name, []).append(i)
    return {name: np.array(places) for name, places in sets.items()}


# ------------------------------------------------------------------------------------------ one run


def _scores(run: Run) -> Plot | None:
    labels, texts = _by_set(run, "labels"), _by_set(run, "text")
    panels: list[tuple[str, dict[str, NDArray[np.int64]], str, float, bool]] = []
    if labels:
        panels += [("Accuracy (%)", labels, "score", 100.0, True)]
        panels += [("Label loss\n(nats/token)", labels, "loss_nats_per_token", 1.0, False)]
    if texts:
        panels += [("Text loss\n(nats/token)", texts, "loss_nats_per_token", 1.0, True)]
    if not panels:
        return None
    ids, half, colours = round_ids(run), gain_half_width(run), domain_colours(run)
    n_sets = len({*labels, *texts})
    figure, axes = stacked_panels(len(panels))
    for ax, (title, sets, column, scale, has_error) in zip(axes, panels, strict=True):
        for name, at in sets.items():
            base = with_gaps(ids[at], scale * run.numbers(f"edge.base_{column}")[at], n_sets)
            ax.plot(*base, color=GREY, linestyle=(0, (3, 1.5)), marker="_", label="untouched model")
            value = scale * run.numbers(f"edge.{column}")[at]
            ax.plot(*with_gaps(ids[at], value, n_sets), color=colours[name], marker="o")
            if has_error:
                error_bars(ax, ids[at], value, scale * half[at], colours[name])
        ax.plot([], [], color=INK, marker="o", label="with update, 95 % interval")
        ax.set_ylabel(title)
        ax.margins(y=0.12)
    mark_refused(axes, run)
    finish(figure, axes, run, keys=shade_domains(axes, run))
    return Plot(
        title="Score and loss on the edge",
        caption="The quantised model on the edge, with the update it holds and untouched, on the "
        "score set of each "
        "round's domain. Bars: 95 % interval of the paired difference between the two.",
        figure=figure,
    )


def _gains(run: Run) -> Plot | None:
    kinds = [(label, scale, sets) for kind, label, scale in GAINS if (sets := _by_set(run, kind))]
    if not kinds:
        return None
    ids, gain, half = round_ids(run), run.numbers("edge.gain"), gain_half_width(run)
    status = np.array(run.texts("edge.status"))
    colours = domain_colours(run)
    figure, axes = stacked_panels(len(kinds))
    for ax, (label, scale, sets) in zip(axes, kinds, strict=True):
        for name, at in sets.items():
            colour = colours[name]
            for chosen, fill in (
                (at[status[at] == "installed"], colour),
                (at[status[at] != "installed"], "none"),
            ):
                ax.bar(
                    ids[chosen],
                    scale * gain[chosen],
                    bar_width(run),
                    color=fill,
                    edgecolor=colour,
                    linewidth=0.9,
                )
            error_bars(ax, ids[at], scale * gain[at], scale * half[at], INK)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_ylabel(label)
    mark_refused(axes, run)
    keys = [
        Patch(facecolor=GREY, edgecolor=GREY, label="new update installed"),
        Patch(facecolor="none", edgecolor=GREY, label="nothing new installed"),
    ]
    finish(figure, axes, run, keys=keys + shade_domains(axes, run))
    return Plot(
        title="What the update is worth",
        caption="Gain over the untouched model, upwards is better: accuracy on label questions, "
        "loss on plain text. "
        "Bars on the columns: 95 % intervals from the differences item by item.",
        figure=figure,
    )


def _ranks(run: Run) -> Plot | None:
    keys = run.keys("plan.rank.")
    if not keys:
        return None
    names = short_names([drawable(key.removeprefix("plan.rank."), 80) for key in keys])
    ranks = np.array([run.numbers(key) for key in keys])
    kept = np.array([[row.get(key) == KEEP for row in run.rows] for key in keys])
    n_modules, n_rounds = ranks.shape
    top = max(int(np.nanmax(ranks, initial=1)), 1)
    row_in = float(np.clip(7.0 / n_modules, 0.045, 0.16))
    figure = Figure(figsize=(WIDTH_IN, 0.95 + row_in * n_modules), layout="constrained")
    ax = figure.subplots()
    ax.set_facecolor(GROUND)
    shades = ListedColormap(mpl.colormaps["viridis_r"](np.linspace(0.0, 1.0, top)))
    shown = np.ma.masked_where(~(ranks > 0), ranks)
    extent = (-0.5, n_rounds - 0.5, n_modules - 0.5, -0.5)
    image = ax.imshow(
        shown, shades, vmin=0.5, vmax=top + 0.5, aspect="auto", interpolation="none", extent=extent
    )
    ax.add_patch(
        PathPatch(_cells(kept), facecolor=KEPT, edgecolor=HATCH, hatch="//////", linewidth=0.0)
    )
    if n_rounds <= 16 and n_modules <= 60:
        _write_ranks(ax, ranks, shades)
    step = int(np.ceil(0.1 / row_in))
    ax.set_yticks(range(0, n_modules, step), names[::step], fontsize=6.5)
    every = max(1, int(np.ceil(n_rounds / 20)))
    ax.set_xticks(range(0, n_rounds, every), [f"{i:.0f}" for i in round_ids(run)[::every]])
    ax.tick_params(length=2)
    ax.set_xlabel("Round")
    bar = figure.colorbar(
        image, ax=ax, fraction=0.02, aspect=40, pad=0.012, ticks=MaxNLocator(integer=True, nbins=8)
    )
    bar.set_label("Rank r: directions sent")
    bar.outline.set_visible(False)
    key = [
        Patch(
            facecolor=KEPT,
            edgecolor=HATCH,
            hatch="//////",
            linewidth=0,
            label="kept as the edge holds it",
        ),
        Patch(facecolor=GROUND, label="rank 0: no update"),
    ]
    figure.legend(handles=key, loc="outside upper left", ncols=2)
    return Plot(
        title="Rank plan",
        caption="Directions sent of each adapted module, by layer and projection (0.q: query "
        "projection of layer 0).",
        figure=figure,
    )


def _write_ranks(ax: Axes, ranks: Floats, shades: ListedColormap) -> None:
    """The rank as a number in each cell that has one."""
    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 6}
    for (module, i), rank in np.ndenumerate(ranks):
        if rank > 0:
            ax.text(i, module, f"{rank:.0f}", color=text_on(shades(int(rank) - 1)), **style)


def _cells(marked: NDArray[np.bool_]) -> Path:
    """One path around every marked cell of a heat map, neighbours in a row joined."""
    boxes: list[Path] = []
    for y, line in enumerate(marked):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(int), [0]))))
        for left, right in edges.reshape(-1, 2) - 0.5:
            corners = [
                (left, y - 0.5),
                (right, y - 0.5),
                (right, y + 0.5),
                (left, y + 0.5),
                (left, y - 0.5),
            ]
            boxes.append(Path(corners, closed=True))
    return Path.make_compound_path(*boxes)


def _spending(run: Run) -> Plot | None:
    ids, width = round_ids(run), bar_width(run)
    figure, (bits, air, sent) = stacked_panels(3, 1.45)
    left, right = ids - width / 2 - 0.06, ids + width / 2 + 0.06
    budget: dict[str, Any] = {"color": INK, "linewidth": 1.6}
    bits.bar(ids, 8e-3 * run.numbers("payload.bytes"), width, color=BLUE, label="payload")
    bits.hlines(run.numbers("budget.bits") / 1e3, left, right, label="budget", **budget)
    bits.set_ylabel("Payload\n(kbit)")
    pale: dict[str, Any] = {"facecolor": (SKY, 0.35), "edgecolor": SKY, "linewidth": 0.9}
    air.bar(ids, run.numbers("link.airtime_s"), width, label="airtime spent", **pale)
    predicted = run.numbers("payload.predicted_airtime_s")
    air.plot(ids, predicted, "D", color=INK, markersize=2.8, label="airtime predicted")
    air.hlines(run.numbers("budget.airtime_s"), left, right, **budget)
    air.set_ylabel("Airtime\n(s)")
    sent.bar(ids, run.numbers("link.bits_on_air") / 1e3, width, color=GREY)
    sent.set_ylabel("Bits on the air\n(kbit)")
    mark_refused((bits, air, sent), run)
    finish(figure, (bits, air, sent), run)
    return Plot(
        title="What the round cost, against its budget",
        caption="Top: payload bits against the payload bits that the link expected to deliver. "
        "Middle: time on the air against the time allowed. Bottom: all modulated data bits, which "
        "hold coding and retransmissions too.",
        figure=figure,
    )


def _snr(run: Run) -> Plot | None:
    ids, true = round_ids(run), run.numbers("truth.snr_db")
    sources = (
        ("channel.snr", "measured before the plan", ORANGE, "s", -0.12),
        ("link.snr", "measured while sending", BLUE, "o", 0.12),
    )
    known = bool(np.isfinite(true).any())
    figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(2.4, 1)) if known else [figure.subplots()]
    ax = axes[0]
    ax.grid(axis="y")
    if known:
        edges = np.append(ids - 0.5, ids[-1] + 0.5)
        ax.stairs(true, edges, baseline=None, color=INK, label="true (simulator)")
        span = (float(np.nanmin(true)) - 1, float(np.nanmax(true)) + 1)
        axes[1].plot(span, span, color=INK, linewidth=0.8)
        axes[1].set(xlabel="True SNR (dB)", ylabel="Measured SNR (dB)")
        axes[1].grid()
    for key, name, colour, marker, shift in sources:
        measured, sigma = run.numbers(f"{key}_db"), run.numbers(f"{key}_std_db")
        dots: dict[str, Any] = {
            "fmt": marker,
            "color": colour,
            "markersize": 3.2,
            "elinewidth": 0.8,
        }
        ax.errorbar(ids + shift, measured, 2 * sigma, label=name, **dots)
        if known:
            axes[1].plot(true, measured, marker, color=colour, markersize=3.0)
    ax.set_ylabel("SNR (dB)")
    finish(figure, [ax], run)
    return Plot(
        title="Signal-to-noise ratio",
        caption="Es/N0 per used subcarrier, measured from received bursts; bars: two sigma of the "
        "measurement."
        + (" Right: against what the simulator was told; on the line they agree." if known else ""),
        figure=figure,
    )


def _link(run: Run) -> Plot | None:
    ids, width = round_ids(run), bar_width(run)
    figure, (goodput, errors, blocks) = stacked_panels(3, 1.45)
    goodput.bar(ids, run.numbers("link.goodput_bps") / 1e3, width, color=GREEN)
    goodput.set_ylabel("Goodput\n(kbit/s of air)")
    errors.plot(ids, 100 * run.numbers("link.block_error_rate"), color=VERMILLION, marker="o")
    errors.set_ylabel("Block error\nrate (%)")
    errors.set_ylim(bottom=0)
    keys = sorted(run.keys("link.blocks_by_mcs."), key=_by_rate)
    shades = mpl.colormaps["viridis"](np.linspace(0.08, 0.92, max(len(keys), 2)))
    base = np.zeros(len(ids))
    for key, shade in zip(keys, shades, strict=False):
        sent = np.nan_to_num(run.numbers(key))
        blocks.bar(
            ids,
            sent,
            width,
            bottom=base,
            color=shade,
            edgecolor=INK,
            linewidth=0.4,
            label=drawable(key.removeprefix("link.blocks_by_mcs.")),
        )
        base += sent
    blocks.set_ylabel("Blocks sent\nby MCS")
    finish(figure, (goodput, errors, blocks), run)
    return Plot(
        title="How the link did",
        caption="Payload bits delivered per second of air (0 when the payload did not arrive), "
        "share of data blocks "
        "that failed their check, and the modulation and coding schemes that carried the blocks.",
        figure=figure,
    )


def _by_rate(mcs: str) -> list[tuple[int, str]]:
    """Sort key: points of the constellation first, then every number by its value."""
    points = mcs.replace("BPSK", "2").replace("QPSK", "4")
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", points)
    ]


def _text(run: Run) -> Plot | None:
    ids = round_ids(run)
    figure, (entropy, oov) = stacked_panels(2, 1.45)
    entropy.plot(ids, run.numbers("text.lexical_entropy_bits"), color=BLUE, marker="o")
    entropy.set_ylabel("Lexical entropy\n(bits/word)")
    oov.plot(ids, 100 * run.numbers("text.oov_rate"), color=VERMILLION, marker="s")
    oov.set_ylabel("Out-of-vocabulary\nwords (%)")
    finish(figure, (entropy, oov), run, keys=shade_domains((entropy, oov), run))
    return Plot(
        title="How hard the text is",
        caption="Entropy of the batch's words, and the share of words that the base model's "
        "lexicon lacks.",
        figure=figure,
    )
