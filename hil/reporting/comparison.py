"""Several runs side by side: what differs between them, and their figures over each other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import hil.reporting.matplotlib_setup  # noqa: F401 (before any part of matplotlib)

# isort: split
import matplotlib as mpl
import numpy as np

from hil.reporting.figure_style import (
    STYLE,
    drawable,
    error_bars,
    finish,
    numbered_style,
    policy_kind,
    policy_styles,
    round_ids,
    stacked_panels,
)
from hil.reporting.page import figure_html, table_html
from hil.reporting.plots import GAINS, Plot, gain_half_width, score_kinds
from hil.reporting.run_folder import Run, comparable
from hil.reporting.text_table import TextTable
from hil.reporting.totals import NONE, policy_of, shown, summary

_OF_THE_MANIFEST: Final = (
    "policy",
    "model",
    "seeds",
    "simulated",
    "emulated",
    "git",
    "platform",
    "versions",
)
_ONLY_NAMES: Final = frozenset({"run.name", "run.out"})
"""Keys that change nothing that is measured."""


def differences(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The keys whose values are not the same everywhere, with each one's value as text.

    Args:
        settings: nested tables, for example configurations. A key that one of them lacks has the
            value "–" there.
    """
    flat = [dict(_flat(one)) for one in settings]
    keys: dict[str, None] = {}
    for one in flat:
        keys |= dict.fromkeys(one)
    rows = [(key, [one.get(key, NONE) for one in flat]) for key in keys if key not in _ONLY_NAMES]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def differences_table(runs: Sequence[Run]) -> TextTable:
    """What differs between runs in their configurations and manifests, a line a key.

    Text, channel and model stand in the configuration; commit, versions and what was simulated
    stand in the manifest.
    """
    heads = ["Key", *(f"{i} {run.name}" for i, run in enumerate(runs, start=1))]
    found = differences([_config(run) for run in runs]) + differences([_bench(run) for run in runs])
    rows = [[key, *values] for key, values in found]
    title = "What differs:" if rows else "The runs have the same configuration and manifest."
    return TextTable(title=title, heads=heads, rows=rows, text_columns=heads)


def _config(run: Run) -> dict[str, Any]:
    try:
        return tomllib.loads(run.config_toml)
    except tomllib.TOMLDecodeError:
        return {"config.toml": run.config_toml}


def _bench(run: Run) -> dict[str, Any]:
    known = {key: run.manifest[key] for key in _OF_THE_MANIFEST if key in run.manifest}
    return {"manifest": known}


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value as text) of all that is in the tables."""
    found = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", str(value)))
    return found


def comparison_html(runs: Sequence[Run]) -> str:
    """Several runs side by side: what differs between them, their main figures, whether the rounds
    are equal, and the curves over each other."""
    names = [f"{i} {run.name} ({policy_of(run)})" for i, run in enumerate(runs, start=1)]
    first = comparable(runs[0].rows)
    rows = []
    for run, name in zip(runs, names, strict=True):
        total = summary(run)
        rows.append(
            [
                name,
                run.outcome,
                str(total["rounds"]),
                str(total["refused"]),
                shown(total["link.bits_on_air"], ".3f", 1e-6),
                shown(total["link.airtime_s"], ".3f"),
                shown(total["link.goodput_bps"], ".0f", 1e-3),
                shown(total["gain.accuracy"], "+.2f", 100),
                shown(total["gain.nats_per_token"], "+.4f"),
                "yes" if comparable(run.rows) == first else "no",
            ]
        )
    heads = (
        "Run|Outcome|Rounds|Refused|On air Mbit|Airtime s|Goodput kbit/s|"
        "Mean gain, accuracy points|Mean gain, nats/token|Rounds equal to the first run's"
    ).split("|")
    table = differences_table(runs)
    different = table_html(table.heads, table.rows, text_columns=table.heads)
    links = " · ".join(
        f'<a href="#r{i}">{escape(name)}</a>' for i, name in enumerate(names, start=1)
    )
    plot = comparison_plot(runs, names, [policy_of(run) for run in runs])
    return (
        f"<nav>{links}</nav>"
        + f"<h2>What differs</h2>{different or '<p>Nothing but the rounds.</p>'}"
        + "<h2>Side by side</h2>"
        + table_html(heads, rows, text_columns=("Run", "Outcome"))
        + (figure_html(plot, "c") if plot else "")
    )


@mpl.rc_context(STYLE)
def comparison_plot(
    runs: Sequence[Run], names: Sequence[str], policies: Sequence[str]
) -> Plot | None:
    """Gain by round and bits on the air, added up, of all runs that have rounds; None when none
    has.

    Args:
        runs: at least one.
        names: their names in the legend.
        policies: their policies, whose colours they get where no two are of one kind.
    """
    chosen = [(run, name) for run, name in zip(runs, names, strict=True) if run.rows]
    if not chosen:
        return None
    styles = [
        {**style, "label": drawable(name, 40)}
        for run, name, style in zip(runs, names, _run_styles(policies), strict=True)
        if run.rows
    ]
    kinds = [each for each in GAINS if any(each[0] in score_kinds(run) for run, _ in chosen)]
    figure, axes = stacked_panels(len(kinds) + 1)
    for (run, _), style in zip(chosen, styles, strict=True):
        ids = round_ids(run)
        for ax, (kind, label, scale) in zip(axes, kinds, strict=False):
            scored = np.array(score_kinds(run)) == kind
            gain = np.where(scored, scale * run.numbers("edge.gain"), np.nan)
            ax.plot(ids, gain, **style)
            error_bars(ax, ids, gain, scale * gain_half_width(run), style["color"])
            ax.set_ylabel(label)
        axes[-1].plot(ids, np.nancumsum(run.numbers("link.bits_on_air")) / 1e6, **style)
    axes[-1].set_ylabel("Bits on the air,\nadded up (Mbit)")
    longest = max((run for run, _ in chosen), key=lambda run: len(run.rows))
    finish(figure, axes, longest)
    return Plot(
        title="The runs over each other",
        caption="Gain over the untouched model by round, upwards is better, with 95 % intervals, "
        "and what it cost on the air so far.",
        figure=figure,
    )


def _run_styles(policies: Sequence[str]) -> list[dict[str, Any]]:
    """A style a run: its policy's where all are of different kinds, else one by its place."""
    if len({policy_kind(policy) for policy in policies}) < len(policies):
        return [numbered_style(i) for i in range(len(policies))]
    styles = policy_styles(policies)
    return [styles[policy] for policy in policies]
