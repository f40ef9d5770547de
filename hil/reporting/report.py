"""Runs as one HTML page that opens offline, and as a few main figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from hil.contract import KEEP, ConfigError
from hil.reporting.comparison import comparison_html
from hil.reporting.page import (
    details_html,
    facts_html,
    figure_html,
    glossary_html,
    table_html,
    write_page,
)
from hil.reporting.plots import run_plots
from hil.reporting.run_folder import Run, Value
from hil.reporting.totals import NONE, config_entry, policy_of, shown, summary, tiles

Row = Mapping[str, Value]


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
        body.append(comparison_html(runs))
    body += [
        _run_section(run, f"r{i}", one_of_many=len(runs) > 1) for i, run in enumerate(runs, start=1)
    ]
    body.append(glossary_html(_GLOSSARY))
    write_page(path, title, body)


# ---------------------------------------------------------------------------------- what a run says


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
        ("Policy", policy_of(run)),
        ("Model", str(manifest.get("model") or config_entry(run, "model", "base") or NONE)),
        ("Seed", named or config_entry(run, "run", "seed") or NONE),
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


# ---------------------------------------------------------------------------------- tables' columns


def _number(key: str, form: str, scale: float = 1.0) -> Callable[[Row], str]:
    return lambda row: shown(row.get(key), form, scale)


def _word(key: str) -> Callable[[Row], str]:
    return lambda row: value if isinstance(value := row.get(key), str) else ""


def _has_labels(row: Row) -> bool:
    return shown(row.get("edge.score"), "f") != NONE


def _gain(row: Row) -> str:
    form, scale, unit = ("+.1f", 100.0, "points") if _has_labels(row) else ("+.3f", 1.0, "nats")
    gain, error = (shown(row.get(key), form, scale) for key in ("edge.gain", "edge.gain_std_error"))
    return NONE if gain == NONE else f"{gain} ± {error.lstrip('+')} {unit}"


def _ranks(row: Row) -> str:
    ranks = [value for key, value in row.items() if key.startswith("plan.rank.")]
    kept = ranks.count(KEEP)
    total = sum(rank for rank in ranks if isinstance(rank, int))
    return NONE if not ranks else f"{total}" + (f" + {kept} kept" if kept else "")


def _reason(row: Row) -> str:
    return _word("edge.reason")(row) or _word("link.reason")(row)


_Columns = tuple[tuple[str, Callable[[Row], str]], ...]
"""Head, and how a row fills the cell."""

_ROUND: _Columns = (("Round", _number("round.id", ".0f")), ("Domain", _word("text.domain")))
_WAY: _Columns = (
    *_ROUND,
    ("SNR before dB", _number("channel.snr_db", ".1f")),
    ("SNR dB", _number("link.snr_db", ".1f")),
    ("True SNR dB", _number("truth.snr_db", ".1f")),
    ("Directions", _ranks),
    ("Budget kbit", _number("budget.bits", ".1f", 1e-3)),
    ("Payload kbit", _number("payload.bytes", ".1f", 8e-3)),
    ("On air kbit", _number("link.bits_on_air", ".1f", 1e-3)),
    ("Airtime s", _number("link.airtime_s", ".3f")),
    ("Goodput kbit/s", _number("link.goodput_bps", ".0f", 1e-3)),
    ("Block errors %", _number("link.block_error_rate", ".1f", 100)),
)
_RESULT: _Columns = (
    *_ROUND,
    ("Entropy bits/word", _number("text.lexical_entropy_bits", ".2f")),
    ("OOV %", _number("text.oov_rate", ".1f", 100)),
    ("Edge", _word("edge.status")),
    ("Accuracy %", _number("edge.score", ".1f", 100)),
    ("untouched %", _number("edge.base_score", ".1f", 100)),
    ("Loss nats", _number("edge.loss_nats_per_token", ".3f")),
    ("untouched nats", _number("edge.base_loss_nats_per_token", ".3f")),
    ("Gain ± std. error", _gain),
    ("Round took s", _number("timing.round_s", ".1f")),
    ("Reason", _reason),
)
_TEXT_COLUMNS = ("Domain", "Edge", "Reason")


# --------------------------------------------------------------------------------------------- HTML


def _run_section(run: Run, anchor: str, *, one_of_many: bool) -> str:
    figures = "".join(
        f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in tiles(summary(run))
    )
    versions = json.dumps(
        {k: run.manifest.get(k) for k in ("platform", "versions")}, indent=2, default=str
    )
    parts = [
        f"<h2>{escape(f'{anchor[1:]} {run.name}')}</h2>" if one_of_many else "",
        facts_html(_facts(run)),
        f'<div class="tiles">{figures}</div>',
        _reality(run),
        *(
            figure_html(plot, f"{anchor}f{i}")
            for i, plot in enumerate(run_plots(run, brief=one_of_many))
        ),
        "" if run.rows else '<p class="note">No round was completed.</p>',
        _rounds_table(run, "All rounds: plan and link", _WAY),
        _rounds_table(run, "All rounds: text and edge", _RESULT),
        details_html("Configuration (config.toml)", run.config_toml),
        details_html("Versions", versions),
    ]
    return f'<section id="{anchor}">' + "\n".join(part for part in parts if part) + "</section>"


def _rounds_table(run: Run, title: str, columns: _Columns) -> str:
    """A line a round; refused updates stand out."""
    if not run.rows:
        return ""
    table = table_html(
        [head for head, _ in columns],
        [[cell(row) for _, cell in columns] for row in run.rows],
        text_columns=_TEXT_COLUMNS,
        marked=[status == "refused" for status in run.texts("edge.status")],
    )
    return f"<h3>{escape(title)}</h3>{table}"


def _reality(run: Run) -> str:
    """What of the bench was not the real thing, in the words of the manifest."""
    if not {"simulated", "emulated"} & run.manifest.keys():
        return '<p class="note">The manifest does not say what was simulated.</p>'
    items = ""
    for word in ("simulated", "emulated"):
        for line in run.manifest.get(word) or ():
            items += f"<li><b>{word}</b> {escape(str(line))}</li>"
    return (
        '<div class="note">What was not real in this '
        f"run:<ul>{items or '<li>nothing</li>'}</ul></div>"
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
    ("Payload", "The encoded update, before channel coding."),
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
