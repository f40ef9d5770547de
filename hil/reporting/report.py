"""Runs as one HTML page that opens offline, and as a few main figures."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from hil.contract import KEEP, ConfigError
from hil.reporting.page import (
    details_html,
    facts_html,
    figure_html,
    glossary_html,
    table_html,
    write_page,
)
from hil.reporting.plots import comparison_plot, run_plots, score_kinds
from hil.reporting.run_folder import Run, Value, comparable
from hil.reporting.text_table import TextTable

Row = Mapping[str, Value]
NONE = "–"
"""What tables show for a number that is missing."""


def summary(run: Run) -> dict[str, Value]:
    """The main figures of a run as one flat row, units in the names; NaN where there is nothing to
    average.

    Totals are over all rounds. Goodput counts delivered payload bits only, over all airtime. Gains
    are means over the rounds scored on label questions (accuracy, 0..1) and on plain text (nats per
    token); rounds on one score set share its items, so these means carry no standard error.
    """
    status, kinds = run.texts("edge.status"), np.array(score_kinds(run), dtype=str)
    delivered = np.nan_to_num(run.numbers("link.delivered")) > 0
    airtime_s = float(np.nansum(run.numbers("link.airtime_s")))
    blocks = float(np.nansum(run.numbers("link.blocks_sent")))
    gain = run.numbers("edge.gain")
    return {
        "name": run.name,
        "policy": _policy(run),
        "outcome": run.outcome,
        "rounds": len(run.rows),
        **{word: status.count(word) for word in ("installed", "kept", "refused")},
        "gain.accuracy": _mean(gain[kinds == "labels"]),
        "gain.nats_per_token": _mean(gain[kinds == "text"]),
        "payload.bytes": _total(run, "payload.bytes"),
        "link.bits_on_air": _total(run, "link.bits_on_air"),
        "link.header_bits_on_air": _total(run, "link.header_bits_on_air"),
        "link.airtime_s": airtime_s,
        "budget.airtime_s": float(np.nansum(run.numbers("budget.airtime_s"))),
        "link.elapsed_s": float(np.nansum(run.numbers("link.elapsed_s"))),
        "link.goodput_bps": 8
        * float(np.nansum(run.numbers("link.payload_bytes")[delivered]))
        / airtime_s
        if airtime_s
        else math.nan,
        "link.block_error_rate": _total(run, "link.blocks_lost") / blocks if blocks else math.nan,
        "link.snr_rms_error_db": _mean(
            (run.numbers("link.snr_db") - run.numbers("truth.snr_db")) ** 2
        )
        ** 0.5,
        "link.feedback_bytes": _total(run, "link.feedback_bytes"),
        "control.bytes": _total(run, "control.bytes"),
        "timing.round_s": _mean(run.numbers("timing.round_s")),
    }


def totals_table(run: Run) -> TextTable:
    """The main figures of a run, one a line, for the terminal."""
    total = summary(run)
    return TextTable(
        title=f"{run.name}, policy {_policy(run)}: {total['rounds']} rounds, {run.outcome}",
        heads=("of all rounds", ""),
        rows=_tiles(total),
        text_columns=("of all rounds", ""),
    )


def write_report(runs: Sequence[Run], path: Path) -> None:
    """One HTML file on all `runs`, everything inside: nothing is loaded from anywhere, no script
    runs.

    Equal runs give an equal file. Several runs are first laid over each other, then shown one by
    one with fewer figures than a report on one run has.

    Raises:
        ConfigError: no run was given, or `path` cannot be written.
    """
    if not runs:
        raise ConfigError("a report needs at least 1 run, got 0; name a folder below runs/")
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs compared"
    body = [f"<h1>{escape(title)}</h1>"]
    if len(runs) > 1:
        body.append(_comparison(runs))
    body += [
        _run_section(run, f"r{i}", one_of_many=len(runs) > 1) for i, run in enumerate(runs, start=1)
    ]
    body.append(glossary_html(_GLOSSARY))
    write_page(path, title, body)


# ----------------------------------------------------------------------------------------- what a
# run says


def _config(run: Run, table: str, key: str) -> str:
    """One entry of the run's configuration as text; "" when it has none."""
    try:
        found = tomllib.loads(run.config_toml).get(table, {})
    except tomllib.TOMLDecodeError:
        return ""
    return str(found.get(key, "")) if isinstance(found, dict) else ""


def _policy(run: Run) -> str:
    named = list(dict.fromkeys(name for name in run.texts("policy.name") if name))
    return ", ".join(named) or str(
        run.manifest.get("policy") or _config(run, "policy", "kind") or NONE
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    manifest = run.manifest
    seeds = manifest.get("seeds")
    named = (
        ", ".join(f"{k} {v}" for k, v in seeds.items())
        if isinstance(seeds, Mapping)
        else str(seeds or "")
    )
    git = manifest.get("git")
    commit = (
        f"{git.get('sha', '?')}{' with local changes' if git.get('dirty') else ''}"
        if git
        else "not in a checkout"
    )
    return [
        ("Policy", _policy(run)),
        ("Model", str(manifest.get("model") or _config(run, "model", "base") or NONE)),
        ("Seed", named or _config(run, "run", "seed") or NONE),
        ("Rounds", str(len(run.rows)) + (" (a last line was cut off)" if run.truncated else "")),
        ("Outcome", run.outcome if run.outcome != "running" else "running, or killed"),
        ("Started", str(manifest.get("started_utc") or NONE)),
        ("Took", _duration(manifest)),
        ("Commit", commit),
    ]


def _duration(manifest: Mapping[str, Any]) -> str:
    try:
        start, end = (
            datetime.fromisoformat(str(manifest[key])) for key in ("started_utc", "finished_utc")
        )
    except (KeyError, ValueError):
        return NONE
    minutes, seconds = divmod(round((end - start).total_seconds()), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _total(run: Run, key: str) -> int:
    return int(np.nansum(run.numbers(key)))


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _show(value: Value | None, form: str, scale: float = 1.0) -> str:
    """A number in its format, or the sign for "none"."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return NONE
    return format(value * scale, form)


# ---------------------------------------------------------------------------------------- tables'
# columns


def _number(key: str, form: str, scale: float = 1.0) -> Callable[[Row], str]:
    return lambda row: _show(row.get(key), form, scale)


def _word(key: str) -> Callable[[Row], str]:
    return lambda row: value if isinstance(value := row.get(key), str) else ""


def _has_labels(row: Row) -> bool:
    return _show(row.get("edge.score"), "f") != NONE


def _gain(row: Row) -> str:
    form, scale, unit = ("+.1f", 100.0, "points") if _has_labels(row) else ("+.3f", 1.0, "nats")
    gain, error = (_show(row.get(key), form, scale) for key in ("edge.gain", "edge.gain_std_error"))
    return NONE if gain == NONE else f"{gain} ± {error.lstrip('+')} {unit}"


def _ranks(row: Row) -> str:
    ranks = [value for key, value in row.items() if key.startswith("plan.rank.")]
    kept = ranks.count(KEEP)
    total = sum(rank for rank in ranks if isinstance(rank, int))
    return NONE if not ranks else f"{total}" + (f" + {kept} kept" if kept else "")


def _reason(row: Row) -> str:
    return _word("edge.reason")(row) or _word("link.reason")(row)


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("Round", _number("round.id", ".0f")),
    ("Domain", _word("text.domain")),
    ("Entropy bits/word", _number("text.lexical_entropy_bits", ".2f")),
    ("OOV %", _number("text.oov_rate", ".1f", 100)),
    ("SNR before dB", _number("channel.snr_db", ".1f")),
    ("SNR dB", _number("link.snr_db", ".1f")),
    ("True SNR dB", _number("truth.snr_db", ".1f")),
    ("Directions", _ranks),
    ("Budget kbit", _number("budget.bits", ".1f", 1e-3)),
    ("Payload kB", _number("payload.bytes", ".1f", 1e-3)),
    ("On air kbit", _number("link.bits_on_air", ".1f", 1e-3)),
    ("Airtime s", _number("link.airtime_s", ".3f")),
    ("Goodput kbit/s", _number("link.goodput_bps", ".0f", 1e-3)),
    ("Block errors %", _number("link.block_error_rate", ".1f", 100)),
    ("Edge", _word("edge.status")),
    ("Accuracy %", _number("edge.score", ".1f", 100)),
    ("untouched %", _number("edge.base_score", ".1f", 100)),
    ("Loss nats", _number("edge.loss_nats_per_token", ".3f")),
    ("untouched nats", _number("edge.base_loss_nats_per_token", ".3f")),
    ("Gain ± std. error", _gain),
    ("Round took s", _number("timing.round_s", ".1f")),
    ("Reason", _reason),
)
"""Head, and how a row fills the cell."""
_TEXT_COLUMNS = {"Domain", "Edge", "Reason", "Run", "Outcome"}


def _tiles(total: Mapping[str, Value]) -> list[tuple[str, str]]:
    """The figures that open a report."""
    shown = (
        ("mean gain in accuracy", "gain.accuracy", "+.1f", 100.0, " points"),
        ("mean gain in loss", "gain.nats_per_token", "+.3f", 1.0, " nats/token"),
        ("on the air", "link.bits_on_air", ".2f", 1e-6, " Mbit"),
        ("payload", "payload.bytes", ".1f", 1e-3, " kB"),
        ("airtime", "link.airtime_s", ".2f", 1.0, " s"),
        ("goodput", "link.goodput_bps", ".0f", 1e-3, " kbit/s"),
        ("block errors", "link.block_error_rate", ".1f", 100.0, " %"),
        ("SNR error, rms", "link.snr_rms_error_db", ".2f", 1.0, " dB"),
    )
    texts = [(head, _show(total[key], form, scale), unit) for head, key, form, scale, unit in shown]
    counts = (
        "installed / kept / refused",
        " / ".join(str(total[word]) for word in ("installed", "kept", "refused")),
    )
    return [counts, *((head, text + unit) for head, text, unit in texts if text != NONE)]


# ------------------------------------------------------------------------------------------------
# HTML


def _run_section(run: Run, anchor: str, *, one_of_many: bool) -> str:
    tiles = "".join(
        f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in _tiles(summary(run))
    )
    versions = json.dumps(
        {k: run.manifest.get(k) for k in ("platform", "versions")}, indent=2, default=str
    )
    parts = [
        f"<h2>{escape(f'{anchor[1:]} {run.name}')}</h2>" if one_of_many else "",
        facts_html(_facts(run)),
        f'<div class="tiles">{tiles}</div>',
        _reality(run),
        *(
            figure_html(plot, f"{anchor}f{i}")
            for i, plot in enumerate(run_plots(run, brief=one_of_many))
        ),
        "<h3>All rounds</h3>" if run.rows else '<p class="note">No round was completed.</p>',
        table_html(
            [head for head, _ in _COLUMNS],
            [[cell(row) for _, cell in _COLUMNS] for row in run.rows],
            text_columns=_TEXT_COLUMNS,
            marked=[status == "refused" for status in run.texts("edge.status")],
        ),
        details_html("Configuration (config.toml)", run.config_toml),
        details_html("Versions", versions),
    ]
    return f'<section id="{anchor}">' + "\n".join(part for part in parts if part) + "</section>"


def _reality(run: Run) -> str:
    """What of the bench was not the real thing, in the words of the manifest."""
    if not {"simulated", "emulated"} & run.manifest.keys():
        return '<p class="note">The manifest does not say what was simulated.</p>'
    lines = [
        (word, line) for word in ("simulated", "emulated") for line in run.manifest.get(word) or ()
    ]
    items = "".join(f"<li><b>{word}</b> {escape(str(line))}</li>" for word, line in lines)
    return (
        '<div class="note">What was not real in this '
        f"run:<ul>{items or '<li>nothing</li>'}</ul></div>"
    )


def _comparison(runs: Sequence[Run]) -> str:
    """Runs side by side: main figures, whether the rounds are equal, and the curves over each
    other."""
    names = [f"{i} {run.name} ({_policy(run)})" for i, run in enumerate(runs, start=1)]
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
                _show(total["link.bits_on_air"], ".3f", 1e-6),
                _show(total["link.airtime_s"], ".3f"),
                _show(total["link.goodput_bps"], ".0f", 1e-3),
                _show(total["gain.accuracy"], "+.2f", 100),
                _show(total["gain.nats_per_token"], "+.4f"),
                "yes" if comparable(run.rows) == first else "no",
            ]
        )
    heads = (
        "Run|Outcome|Rounds|Refused|On air Mbit|Airtime s|Goodput kbit/s|"
        "Mean gain, accuracy points|Mean gain, nats/token|Rounds equal to the first run's"
    ).split("|")
    links = " · ".join(
        f'<a href="#r{i}">{escape(name)}</a>' for i, name in enumerate(names, start=1)
    )
    plot = comparison_plot(runs, names, [_policy(run) for run in runs])
    return (
        f"<nav>{links}</nav>"
        + table_html(heads, rows, text_columns=_TEXT_COLUMNS)
        + (figure_html(plot, "c") if plot else "")
    )


_GLOSSARY = (
    (
        "Accuracy",
        "Share of label questions that the model on the edge answers right, by the next word's "
        "probability.",
    ),
    (
        "Loss",
        "Cross-entropy in nats per token: of the label word, or of all tokens of a plain-text "
        "score set.",
    ),
    ("Untouched", "The same quantised model without any update, on the same score set."),
    (
        "Gain",
        "Accuracy minus untouched accuracy; on plain text untouched loss minus loss. Upwards is "
        "better.",
    ),
    (
        "Standard error",
        "Of the gain, from the differences item by item. The bars in the figures are Student's "
        "95 % interval: about two standard errors, more with few items, none with fewer than "
        "three.",
    ),
    (
        "Installed, kept, refused",
        "A new update is active; none was sent; it did not arrive or was turned down.",
    ),
    (
        "Directions, rank",
        "Number of rank-one terms of a module's low-rank update; a kept module costs none.",
    ),
    ("Payload", "The encoded update in bytes, before channel coding."),
    (
        "Budget",
        "Airtime allowed in a round, and the payload bits the link expects to deliver in it.",
    ),
    (
        "Bits on the air",
        "Modulated bits of all data blocks sent, coding and retransmissions included; no headers.",
    ),
    ("Airtime", "Transmitted samples divided by the sample rate, sounding included."),
    (
        "Goodput",
        "Delivered payload bits per second of airtime; 0 for a payload that did not arrive whole.",
    ),
    ("Block errors", "Share of data blocks sent that failed their check."),
    ("MCS", "Modulation and coding scheme of a block."),
    (
        "SNR",
        "Es/N0 per used subcarrier in dB, measured from received bursts, before the plan and "
        "while sending.",
    ),
    ("True SNR", "What the simulator was told; a real radio has none."),
    ("Lexical entropy", "Shannon entropy of the batch's word distribution, in bits per word."),
    ("OOV", "Share of words that the base model's lexicon lacks."),
)
