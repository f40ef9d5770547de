"""The look of a report's figures: colours, style, panels, legends and marks, and the way into a
page as inline SVG.

Every figure is drawn in the colours of a light page on a transparent ground. In the inline SVG each
colour of PALETTE is a variable of the page's style sheet, which holds another value for a dark
page. Hues are those of Okabe and Ito (2008), told apart by colour-blind readers too; each is dark
or bright enough for a contrast of at least 4.5 : 1 on its page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any, Final

import hil.reporting.matplotlib_setup  # noqa: F401 (before any part of matplotlib)

# isort: split
import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hil.reporting.run_folder import Run

INK = "#1f1f1f"
"""Stands for the colour of the page's text."""

PALETTE: Final[dict[str, tuple[str, str]]] = {
    "blue": ("#0068a8", "#5fb0ee"),
    "orange": ("#8a5d00", "#f0b030"),
    "green": ("#00734f", "#2fc49a"),
    "pink": ("#a8407c", "#e495c2"),
    "sky": ("#1f7391", "#7fd6f5"),
    "vermillion": ("#b84700", "#ff8b50"),
    "grey": ("#636363", "#a3a8ad"),
    "ground": ("#e9e9e9", "#2a3036"),
    "kept": ("#c4c4c4", "#49525b"),
    "hatch": ("#3f3f3f", "#d3d8dd"),
}
"""Name of a style sheet's variable → colour on a light page, colour on a dark one."""

BLUE, ORANGE, GREEN, PINK, SKY, VERMILLION, GREY, GROUND, KEPT, HATCH = (
    light for light, _ in PALETTE.values()
)
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILLION)
"""Colours of domains, runs and policies, in this order, from the start again when they run out."""

MARKERS = "osD^vPX<>ph*"
"""Markers of runs and policies, in this order."""

POLICY_ORDER: Final = (
    "largest",
    "greedy",
    "ours",
    "ppo",
    "airllm",
    "adalora",
    "fixed",
    "waterfill",
    "price",
    "random",
    "eva",
)
"""Kinds of policies in the order of CYCLE and MARKERS: a kind looks the same in every figure."""

_LINES: Final = ("-", "--", ":", "-.")
_FILLS: Final = ("full", "none", "left", "right")

TINT: Final = 0.11
"""Opacity of a domain's colour behind a panel."""

WIDTH_IN = 7.4
"""Width of every figure, in inches."""

STYLE: Any = {
    **dict.fromkeys(("font.size", "axes.labelsize"), 8.0),
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "font.family": "DejaVu Sans",
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.8,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.8,
    "errorbar.capsize": 1.8,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a "$" in a domain's name is a "$"
    "image.composite_image": False,  # heat maps stay one pixel a cell, the browser enlarges them
    "svg.hashsalt": "hil",  # equal figures give equal files
}
"""matplotlib's settings for drawing a figure and for writing it as SVG."""


@mpl.rc_context(STYLE)
def inline_svg(figure: Figure, prefix: str) -> str:
    """The figure as an <svg> element for the body of a page: ids begin with `prefix`, the ink is
    currentColor."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None}
    )
    svg = re.sub(r"<!--.*?-->\s*|^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
    # HTML knows both namespaces by itself; the size comes from the style sheet and the viewBox.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"', "<svg", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"(\.\d{3})\d+", r"\1", svg)  # thousandths of a point are enough
    svg = svg.replace(INK, "currentColor")
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg)


def text_on(ground: tuple[float, ...]) -> str:
    """Black or white, whichever reads better on `ground`; the contrast is at least 4.5 : 1.

    Args:
        ground: red, green, blue in 0..1; more entries are not looked at.
    """
    return "#000000" if luminance(ground) > 0.179 else "#ffffff"


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour, 0 (black) to 1 (white).

    Source: W3C, Web Content Accessibility Guidelines 2.2, "relative luminance".
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def policy_kind(name: str) -> str:
    """The kind in POLICY_ORDER that is a word of a policy's name; the name itself if none is."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((word for word in words if word in POLICY_ORDER), name)


def policy_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker, line and filling of each policy.

    Colour and marker belong to the kind, whatever else is in the figure. Policies of one kind
    differ by line and filling.
    """
    order = list(POLICY_ORDER)
    seen: dict[str, int] = {}
    styles = {}
    for name in names:
        kind = policy_kind(name)
        if kind not in order:
            order.append(kind)
        again = seen[kind] = seen.get(kind, -1) + 1
        styles[name] = {
            **numbered_style(order.index(kind)),
            "linestyle": _LINES[again % len(_LINES)],
            "fillstyle": _FILLS[again % len(_FILLS)],
        }
    return styles


def numbered_style(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th curve."""
    return {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)]}


def round_ids(run: Run) -> NDArray[np.float64]:
    """Round numbers; where a row names none, its place."""
    ids = run.numbers("round.id")
    return np.where(np.isfinite(ids), ids, np.arange(len(ids)))


@cache
def _known_characters() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


def drawable(text: str, limit: int = 26) -> str:
    """Text of at most `limit` characters that the font can draw, without a leading "_", which would
    hide it from legends."""
    known = (
        "".join(c if ord(c) in _known_characters() else "□" for c in text.lstrip("_")) or "unnamed"
    )
    return known if len(known) <= limit else known[: limit - 1] + "…"


def stacked_panels(n: int, height_in: float = 1.75) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels of `height_in` inches under each other that share the axis along, with
    lines across."""
    figure = Figure(figsize=(WIDTH_IN, 0.7 + n * height_in), layout="constrained")
    axes = list(figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0])
    for ax in axes:
        ax.grid(axis="y")
    return figure, axes


def finish(figure: Figure, axes: Sequence[Axes], run: Run, *, keys: Sequence[Patch] = ()) -> None:
    """Give the panels a round axis, and the figure one legend above everything: each name once,
    then `keys`."""
    ids = round_ids(run)
    for ax in axes:
        ax.set_xlim(ids.min() - 0.5, ids.max() + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axes[-1].set_xlabel("Round")
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    named |= {str(key.get_label()): key for key in keys}
    if named:
        columns = _columns([len(name) for name in named])
        figure.legend(
            list(named.values()),
            list(named),
            loc="outside upper left",
            ncols=columns,
            columnspacing=1.4,
        )


def bar_width(run: Run) -> float:
    """Width of a round's column in rounds; narrower where few rounds share the figure."""
    return min(0.72, 0.18 * len(run.rows))


def _columns(lengths: Sequence[int]) -> int:
    """As many legend columns as fit the figure's width: about 122 characters, 7 of them for each
    handle."""
    wanted = range(len(lengths), 1, -1)
    return next(
        (n for n in wanted if sum(max(part) + 7 for part in np.array_split(lengths, n)) <= 122), 1
    )


def domain_colours(run: Run) -> dict[str, str]:
    """Domain, or score set of that name, → colour, in the order of their first rounds."""
    names = dict.fromkeys(run.texts("text.domain") + run.texts("edge.score_set"))
    return {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(names)}


def shade_domains(axes: Sequence[Axes], run: Run) -> list[Patch]:
    """Tint each stretch of one domain; its name stands above it, or goes back for the legend if it
    does not fit."""
    ids, names = round_ids(run), run.texts("text.domain")
    colours = domain_colours(run)
    stretches = [
        [i for i, _ in group] for _, group in groupby(enumerate(names), key=lambda item: item[1])
    ]
    room = 95 / len(names)  # characters that fit above one round
    named_above = all(len(drawable(names[s[0]])) <= room * len(s) for s in stretches)
    for s in stretches:
        name = names[s[0]]
        if not name:
            continue
        left, right = ids[s[0]] - 0.5, ids[s[-1]] + 0.5
        for ax in axes:
            ax.axvspan(left, right, color=colours[name], alpha=TINT, linewidth=0)
        if named_above:
            axes[0].text(
                (left + right) / 2,
                1.02,
                drawable(name),
                transform=axes[0].get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontweight="bold",
                fontsize=7.5,
            )
    if named_above:
        return []
    return [
        Patch(facecolor=colour, alpha=0.4, label=drawable(name))
        for name, colour in colours.items()
        if name and name in names
    ]


def with_gaps(x: NDArray[Any], y: NDArray[Any], widest: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The points with a NaN wherever neighbours lie more than `widest` apart, which breaks the line
    there."""
    breaks = np.flatnonzero(np.diff(x) > widest) + 1
    return np.insert(x.astype(float), breaks, np.nan), np.insert(y.astype(float), breaks, np.nan)


def error_bars(ax: Axes, x: NDArray[Any], y: NDArray[Any], half: NDArray[Any], colour: str) -> None:
    """Bars of `half` up and down at every point; none where it is NaN."""
    ax.errorbar(x, y, half, fmt="none", color=colour, elinewidth=0.9)


def mark_refused(axes: Sequence[Axes], run: Run) -> None:
    """Put a cross at the foot of every panel for each round whose update the edge refused."""
    ids = round_ids(run)[[status == "refused" for status in run.texts("edge.status")]]
    style: dict[str, Any] = {
        "color": VERMILLION,
        "linestyle": "none",
        "markersize": 5.0,
        "markeredgewidth": 1.5,
    }
    for ax in axes if len(ids) else ():
        foot = ax.get_xaxis_transform()  # rounds along, share of the panel's height up
        ax.plot(
            ids,
            np.zeros(len(ids)),
            "x",
            transform=foot,
            clip_on=False,
            label="update refused",
            **style,
        )
