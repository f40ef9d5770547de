"""An evaluation as one HTML page that opens offline, and as a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hil.contract import ConfigError
from hil.evaluation.plots import ranks_plot, tradeoff_plot, training_plot
from hil.evaluation.statistics import History, area_under
from hil.evaluation.summary import Rows, chosen, read_rows
from hil.reporting.intervals import LEAST_N
from hil.reporting.page import (
    details_html,
    facts_html,
    figure_html,
    glossary_html,
    table_html,
    write_page,
)
from hil.reporting.text_table import TextTable

NONE = "–"
"""What tables show for a number that is missing."""

_SCOPES = {"round": "a budget for each round", "episode": "one budget for the whole episode"}
_TEXT = ("Policy", "Channel", "Domain", "Learner")

_COLUMNS: tuple[tuple[str, str, str, float], ...] = (
    ("Score %", "score", ".1f", 100.0),
    ("Excess loss nats", "excess_nats", ".3f", 1.0),
    ("Payload kbit/round", "payload_bits", ".1f", 1e-3),
    ("Parameters/round", "parameters", ".0f", 1.0),
    ("Infeasible %", "infeasible", ".1f", 100.0),
)
"""Head, metric, format and scale; all are means with their intervals."""
_DIFFERENCES: tuple[tuple[str, str, str, float], ...] = (
    ("Score, points", "score", "+.2f", 100.0),
    ("Excess loss nats", "excess_nats", "+.4f", 1.0),
    ("Payload kbit/round", "payload_bits", "+.1f", 1e-3),
    ("Parameters/round", "parameters", "+.0f", 1.0),
)


def read_evaluation(folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Rows and results of an evaluation's folder. Raises ConfigError: it is none, or it is not
    finished."""
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; name the folder of a finished evaluation"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); run the evaluation again") from error
    return read_rows(folder / "results.parquet"), results


def read_histories(path: Path) -> list[History]:
    """How learners came along, from a training.jsonl: a line an answer, with learner, seed, step
    and reward.

    Raises:
        ConfigError: it cannot be read, or a line is no such answer.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; name the training.jsonl of a training"
        ) from error
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            learner = str(entry["learner"]), int(entry["seed"])
            found.setdefault(learner, []).append((float(entry["step"]), float(entry["reward"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}, line {number}: not a line of a training ({error!r}); train again"
            ) from error
    return [
        History(*learner, *zip(*sorted(answers), strict=True)) for learner, answers in found.items()
    ]


def write_evaluation_report(
    rows: Rows, results: Mapping[str, Any], path: Path, histories: Sequence[History] = ()
) -> None:
    """One HTML file on an evaluation, everything inside; equal results give an equal file.

    Args:
        rows, results: what `read_evaluation` gives.
        path: the file.
        histories: the learners' training.
    Raises:
        ConfigError: `path` cannot be written.
    """
    title = f"{len(results['policies'])} policies on {len(results['channels'])} channels"
    body = [f"<h1>{escape(title)}</h1>", facts_html(_facts(rows, results)), _note(results)]
    for i, scope in enumerate(results["scopes"]):
        body.append(_scope_section(chosen(rows, scope=scope), results, scope, f"s{i}"))
    body.append(_training_section(histories))
    body.append(details_html("Configuration", str(results.get("settings", ""))))
    shown = {
        key: results.get(key)
        for key in ("versions", "members", "channel_overrides", "streams", "train_seeds")
    }
    body.append(details_html("Versions, policies, channels, seeds", json.dumps(shown, indent=1)))
    body.append(glossary_html(_GLOSSARY))
    write_page(path, title, [part for part in body if part])


def terminal_summary(results: Mapping[str, Any]) -> list[TextTable]:
    """A table of the policies for each scope of the budget and each channel, for the terminal."""
    tables = []
    for scope in results["scopes"]:
        tables += [_terminal_table(results, scope, channel) for channel in results["channels"]]
    return tables


def _terminal_table(results: Mapping[str, Any], scope: str, channel: str) -> TextTable:
    shown = [column for column in _COLUMNS if column[1] not in ("parameters", "infeasible")]
    heads = ("Policy", *(head for head, *_ in shown), "Δ excess loss")
    differences = {
        d["policy"]: d
        for d in results["differences"]
        if (d["scope"], d["channel"]) == (scope, channel)
    }
    rows = []
    for cell in results["cells"]:
        if (cell["scope"], cell["channel"]) == (scope, channel):
            difference = differences.get(cell["policy"])
            last = _show(difference["excess_nats"], "+.4f") if difference else NONE
            values = [_show(cell[metric], form, scale) for _, metric, form, scale in shown]
            # An interval stays in one piece where a cell has to be wrapped.
            rows.append([cell["policy"], *(v.replace(", ", ",") for v in (*values, last))])
    n = results["n_streams"]
    interval = f"[95 % interval over {n} streams]" if n >= LEAST_N else f"over {n} (no interval)"
    note = f"Mean {interval}; Δ against {results['reference']} on the same rounds."
    title = f"{channel}, airtime {_SCOPES[scope]}"
    return TextTable(heads=heads, rows=rows, title=title, notes=(note,), text_columns=heads)


# ----------------------------------------------------------------------------------------- sections


def _facts(rows: Rows, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Policies", str(len(results["policies"]))),
        ("Channels", ", ".join(results["channels"])),
        ("Unseen streams", str(results["n_streams"])),
        ("Training seeds", ", ".join(str(seed) for seed in results.get("train_seeds", ()))),
        ("Rounds", f"{len(rows['policy']):,}"),
        ("Reference", str(results["reference"])),
        ("Scored on", _SCORED_ON.get(str(results.get("score_on")), NONE)),
    ]


_SCORED_ON = {"cloud": "the merged model in float32", "edge": "the quantised model in llama.cpp"}


def _note(results: Mapping[str, Any]) -> str:
    said = (
        "Square brackets hold 95 % intervals over streams; a difference whose interval holds 0 is "
        "not shown to be one."
        if results["n_streams"] >= LEAST_N
        else f"There are no intervals: they need at least {LEAST_N} streams. No difference between "
        "policies is shown by this evaluation."
    )
    return (
        '<p class="note">Every policy met the same rounds, the same air and the same budgets. '
        f"{said}</p>"
    )


def _scope_section(rows: Rows, results: Mapping[str, Any], scope: str, anchor: str) -> str:
    mine = {
        key: [entry for entry in results[key] if entry["scope"] == scope]
        for key in ("cells", "domains", "differences", "equal_loss")
    }
    policies = results["policies"]
    plots = [tradeoff_plot(mine["cells"], policies, metric) for metric in ("score", "excess_nats")]
    ranks = ranks_plot(rows)
    reference = str(results["reference"])
    parts = [
        f"<h2>Airtime: {escape(_SCOPES[scope])}</h2>",
        _metric_table(mine["cells"], "channel", _COLUMNS),
        *(figure_html(plot, f"{anchor}t{i}") for i, plot in enumerate(plots)),
        f"<h3>Bits at equal loss, {escape(reference)} = 1</h3>" if mine["equal_loss"] else "",
        _ratio_table(mine["equal_loss"]),
        f"<h3>Difference to {escape(reference)} on the same rounds</h3>"
        if mine["differences"]
        else "",
        _metric_table(mine["differences"], "channel", _DIFFERENCES),
        figure_html(ranks, f"{anchor}r") if ranks else "",
        "<h3>By domain</h3>",
        _metric_table(mine["domains"], "domain", _COLUMNS[:3]),
    ]
    return "<section>" + "\n".join(part for part in parts if part) + "</section>"


def _metric_table(
    entries: Sequence[Mapping[str, Any]], by: str, columns: Sequence[tuple[str, str, str, float]]
) -> str:
    """A line for each policy and value of `by`; the infeasible ones stand out."""
    heads = [by.capitalize(), "Policy", *(head for head, *_ in columns)]
    lines = [
        [
            str(entry[by]),
            str(entry["policy"]),
            *(_show(entry[m], form, scale) for _, m, form, scale in columns),
        ]
        for entry in entries
    ]
    marked = [bool(entry.get("infeasible", [0])[0]) for entry in entries]
    return table_html(heads, lines, text_columns=_TEXT, marked=marked)


def _ratio_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """A line a policy, a column a loss level."""
    levels = list(dict.fromkeys(entry["excess_nats"] for entry in entries))
    found = {(entry["policy"], entry["excess_nats"]): entry["ratio"] for entry in entries}
    heads = ["Policy", *(f"at {level:.3f} nats" for level in levels)]
    policies = dict.fromkeys(entry["policy"] for entry in entries)
    lines = [
        [policy, *(_show(found[policy, level], ".2f") for level in levels)] for policy in policies
    ]
    return table_html(heads, lines, text_columns=_TEXT)


def _training_section(histories: Sequence[History]) -> str:
    plot = training_plot(histories)
    if plot is None:
        return ""
    lines = [
        [
            h.name,
            str(h.seed),
            f"{h.reward[0]:.4f}",
            f"{h.reward[-1]:.4f}",
            f"{area_under(h):.4f}",
            f"{h.steps[-1]:,.0f}",
        ]
        for h in histories
        if h.steps
    ]
    heads = ["Learner", "Seed", "Reward at the start", "at the end", "Mean over the steps", "Steps"]
    table = table_html(heads, lines, text_columns=_TEXT)
    return f"<section><h2>Training</h2>{figure_html(plot, 'h')}{table}</section>"


def _show(interval: Sequence[float | None] | None, form: str, scale: float = 1.0) -> str:
    """A mean and [its interval], or the mean alone where there is no interval, or the sign for
    "none"."""
    if interval is None or interval[0] is None:
        return NONE
    mean, low, high = (None if value is None else format(value * scale, form) for value in interval)
    return f"{mean} [{low}, {high}]" if low is not None and high is not None else str(mean)


_GLOSSARY = (
    ("Score", "Share of label questions answered right; on plain text there is none."),
    (
        "Excess loss",
        "Cross-entropy in nats per token above that of the same round with all r_max "
        "directions of a LoRA "
        "delivered, on the same items. 0 = nothing is missing.",
    ),
    ("Payload", "Encoded update in bits, before channel coding; 0 when nothing was sent."),
    ("Parameters", "Σ r (d_in + d_out) over the modules that were sent."),
    (
        "Infeasible",
        "Share of rounds whose plan was larger than the budget: it is not sent, nothing changes.",
    ),
    (
        "Interval",
        "Student's 95 % interval of the mean over streams. A stream's rounds and seeds are "
        "averaged first: each stream counts once. No interval from fewer than three.",
    ),
    (
        "Bits at equal loss",
        "Bits that a policy needs for an excess loss, over those that the reference needs: the "
        "geometric mean over streams. In each stream the curves over all channels are made "
        "monotone and log bits interpolated. A dash: out of reach in more than one stream in ten.",
    ),
    ("Directions, rank", "Number of rank-one terms of a module's low-rank update."),
)
