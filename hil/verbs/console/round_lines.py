"""A round as one line of 80 characters, and a run's totals below its rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

LEGEND: Final = (
    "SNR is Es/N0 per used subcarrier, as the receiver measured it. Rank is the mean over the "
    "layers that were sent. Score is the share of right answers in %, gain what it is above the "
    "untouched model in points; on plain text they are the loss and the loss saved in nats per "
    "token. ± is one standard error."
)
HEAD: Final = (
    "                    SNR mean payload airtime",
    "round domain         dB rank      kB       s  update      score    gain",
)
_DOMAIN: Final = 11
_NONE: Final = "–"


def round_lines(row: Mapping[str, Any]) -> list[str]:
    """What one round came to, as a line under HEAD, and why its update was refused as a second.

    Args:
        row: a round as in rounds.jsonl.
    """
    domain = str(row["text.domain"])
    number = f"{row['round.id']:5d} "
    lines = []
    if len(domain) > _DOMAIN:  # a name is never cut off: it gets a line of its own
        lines, number, domain = [number + domain], " " * len(number), ""
    lines.append(
        f"{number}{domain:<{_DOMAIN}} {_figure(row['link.snr_db'], '.1f'):>5} {_rank(row):>4} "
        f"{row['payload.bytes'] / 1e3:7.1f} {row['link.airtime_s']:7.3f}  "
        f"{row['edge.status']:<9} {_score(row):>7}  {_gain(row)}"
    )
    reason = str(row.get("edge.reason") or "")
    if reason:
        arrived = row.get("link.delivered") is True
        lines.append("      " + ("" if arrived else "not delivered: ") + reason)
    return [line.rstrip() for line in lines]


def _figure(value: Any, form: str, scale: float = 1.0) -> str:
    """A number in its format, or the sign for none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return _NONE
    return format(value * scale, form)


def _rank(row: Mapping[str, Any]) -> str:
    ranks = [value for key, value in row.items() if key.startswith("plan.rank.")]
    sent = [rank for rank in ranks if isinstance(rank, int)]
    return f"{sum(sent) / len(sent):.1f}" if sent else "keep"


def _has_labels(row: Mapping[str, Any]) -> bool:
    return _figure(row["edge.score"], "f") != _NONE


def _score(row: Mapping[str, Any]) -> str:
    if _has_labels(row):
        return f"{_figure(row['edge.score'], '.1f', 100)} %"
    return _figure(row["edge.loss_nats_per_token"], ".3f")


def _gain(row: Mapping[str, Any]) -> str:
    form, scale = (".1f", 100.0) if _has_labels(row) else (".3f", 1.0)
    gain = _figure(row["edge.gain"], "+" + form, scale)
    error = _figure(row["edge.gain_std_error"], form, scale)
    return f"{gain:>6}" if _NONE in (gain, error) else f"{gain:>6} ± {error}"
