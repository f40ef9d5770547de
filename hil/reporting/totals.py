"""The main figures of a run, in one row and as a table for the terminal."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np

from hil.reporting.plots import score_kinds
from hil.reporting.run_folder import Run, Value
from hil.reporting.text_table import TextTable

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
        "policy": policy_of(run),
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
        title=f"{run.name}, policy {policy_of(run)}: {total['rounds']} rounds, {run.outcome}",
        heads=("of all rounds", ""),
        rows=tiles(total),
        text_columns=("of all rounds", ""),
    )


def config_entry(run: Run, table: str, key: str) -> str:
    """One entry of the run's configuration as text; "" when it has none."""
    try:
        found = tomllib.loads(run.config_toml).get(table, {})
    except tomllib.TOMLDecodeError:
        return ""
    return str(found.get(key, "")) if isinstance(found, dict) else ""


def policy_of(run: Run) -> str:
    """Names of the policies that planned the rounds, or the kind that was configured."""
    named = list(dict.fromkeys(name for name in run.texts("policy.name") if name))
    return ", ".join(named) or str(
        run.manifest.get("policy") or config_entry(run, "policy", "kind") or NONE
    )


def tiles(total: Mapping[str, Value]) -> list[tuple[str, str]]:
    """The figures that open a report."""
    figures = (
        ("mean gain in accuracy", "gain.accuracy", "+.1f", 100.0, " points"),
        ("mean gain in loss", "gain.nats_per_token", "+.3f", 1.0, " nats/token"),
        ("on the air", "link.bits_on_air", ".2f", 1e-6, " Mbit"),
        ("payload", "payload.bytes", ".1f", 1e-3, " kB"),
        ("airtime", "link.airtime_s", ".2f", 1.0, " s"),
        ("goodput", "link.goodput_bps", ".0f", 1e-3, " kbit/s"),
        ("block errors", "link.block_error_rate", ".1f", 100.0, " %"),
        ("SNR error, rms", "link.snr_rms_error_db", ".2f", 1.0, " dB"),
    )
    texts = [
        (head, shown(total[key], form, scale), unit) for head, key, form, scale, unit in figures
    ]
    counts = (
        "installed / kept / refused",
        " / ".join(str(total[word]) for word in ("installed", "kept", "refused")),
    )
    return [counts, *((head, text + unit) for head, text, unit in texts if text != NONE)]


def _total(run: Run, key: str) -> int:
    return int(np.nansum(run.numbers(key)))


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def shown(value: Value | None, form: str, scale: float = 1.0) -> str:
    """A number in its format, or the sign for "none"."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return NONE
    return format(value * scale, form)
