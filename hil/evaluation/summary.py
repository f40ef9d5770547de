"""What the rows of an evaluation come to: means with intervals, paired differences, bits at equal
loss.

Everything is clustered by stream (statistics.py here); seeds and rounds of a stream are averaged,
not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hil.contract import ConfigError
from hil.evaluation.statistics import (
    Curve,
    Interval,
    bits_at_equal_loss,
    clustered_mean,
    loss_levels,
    paired_difference,
)

Rows = Mapping[str, NDArray[Any]]
"""Column → values, one a round."""

METRICS: Final = (
    "score",
    "loss_nats",
    "excess_nats",
    "payload_bits",
    "parameters",
    "airtime_s",
    "infeasible",
    "total_rank",
    "kept_modules",
)
_COMPARED: Final = ("score", "excess_nats", "payload_bits", "parameters")
_PAIR_KEYS: Final = ("stream", "train_seed", "round")


def read_rows(path: Path) -> Rows:
    """The rows of a results.parquet, with a column "infeasible" (0 or 1) added.

    Raises:
        ConfigError: it is not there, or no Parquet file.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path}: {error}; name the folder of an evaluation") from error
    rows = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    rows["infeasible"] = 1.0 - rows["feasible"].astype(np.float64)
    return rows


def names(rows: Rows, column: str) -> list[str]:
    """The values of a column, each once, in the order of their first rows."""
    return list(dict.fromkeys(rows[column].tolist()))


def chosen(rows: Rows, **where: object) -> Rows:
    """The rows in which every given column has the given value."""
    mask = np.ones(len(rows["policy"]), np.bool_)
    for column, value in where.items():
        mask &= rows[column] == value
    return {name: values[mask] for name, values in rows.items()}


def summarise(rows: Rows, reference: str) -> dict[str, Any]:
    """Aggregates as plain lists and dicts, ready for JSON; an interval is [mean, low, high], NaN is
    None.

    Args:
        rows: what `read_rows` gives.
        reference: the policy that the others are paired with.
    Returns:
        "policies", "channels", "scopes", "reference", "n_streams"; "cells": metrics by policy,
        channel and scope; "differences": policy minus reference on the same rounds, by channel and
        over all of them (channel "all"); "equal_loss": bits over the reference's bits at three
        losses that the reference reaches; "domains": metrics by policy, domain and scope.
    """
    return {
        "policies": names(rows, "policy"),
        "channels": names(rows, "channel"),
        "scopes": names(rows, "scope"),
        "reference": reference,
        "n_streams": len(names(rows, "stream")),
        "cells": [
            {**where, **_metrics(part, METRICS)}
            for where, part in _groups(rows, "scope", "channel", "policy")
        ],
        "domains": [
            {**where, **_metrics(part, ("score", "excess_nats", "payload_bits"))}
            for where, part in _groups(rows, "scope", "domain", "policy")
        ],
        "differences": _differences(rows, reference),
        "equal_loss": _ratios(rows, reference),
    }


def _groups(rows: Rows, *columns: str) -> Iterator[tuple[dict[str, str], Rows]]:
    """Every combination of the columns' values that has rows."""
    if not columns:
        yield {}, rows
        return
    for value in names(rows, columns[0]):
        for where, part in _groups(chosen(rows, **{columns[0]: value}), *columns[1:]):
            yield {columns[0]: value, **where}, part


def _metrics(rows: Rows, metrics: Sequence[str]) -> dict[str, list[float | None]]:
    return {metric: _plain(clustered_mean(rows[metric], rows["stream"])) for metric in metrics}


def _differences(rows: Rows, reference: str) -> list[dict[str, Any]]:
    found = []
    for where, part in _groups(rows, "scope"):
        for channel in [*names(part, "channel"), "all"]:
            here = part if channel == "all" else chosen(part, channel=channel)
            against = chosen(here, policy=reference)
            for policy in names(here, "policy"):
                if policy != reference:
                    metrics = _paired(chosen(here, policy=policy), against)
                    found.append({**where, "channel": channel, "policy": policy, **metrics})
    return found


def _paired(a: Rows, b: Rows) -> dict[str, list[float | None]]:
    """Differences on the same channel, stream, training seed and round, policy seeds averaged."""
    keys_a, mean_a = _by_round(a)
    keys_b, mean_b = _by_round(b)
    place = {key: i for i, key in enumerate(keys_b)}
    both = [(i, place[key]) for i, key in enumerate(keys_a) if key in place]
    at_a, at_b = ([pair[side] for pair in both] for side in (0, 1))
    streams = [keys_a[i][1] for i in at_a]
    return {
        metric: _plain(paired_difference(mean_a[metric][at_a], mean_b[metric][at_b], streams))
        for metric in _COMPARED
    }


def _by_round(rows: Rows) -> tuple[list[tuple[Any, ...]], dict[str, NDArray[np.float64]]]:
    """(channel, stream, training seed, round) and the compared metrics' means over policy seeds."""
    keys = list(zip(*(rows[column].tolist() for column in ("channel", *_PAIR_KEYS)), strict=True))
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    index = np.array([place[key] for key in keys], np.int64)
    counts = np.bincount(index, minlength=len(place))
    return list(place), {
        metric: np.bincount(index, rows[metric].astype(np.float64), len(place)) / counts
        for metric in _COMPARED
    }


def _ratios(rows: Rows, reference: str) -> list[dict[str, Any]]:
    """Each policy's bits over the reference's at the reference's three losses, for each scope; a
    channel is a point of the curve."""
    found = []
    for scope in names(rows, "scope"):
        found += _ratios_in(rows, reference, scope)
    return found


def _ratios_in(rows: Rows, reference: str, scope: str) -> list[dict[str, Any]]:
    part = chosen(rows, scope=scope)
    against = _curve(chosen(part, policy=reference))
    levels = loss_levels([against])
    found = []
    for policy in names(part, "policy"):
        if policy == reference:
            continue
        ratios = bits_at_equal_loss(_curve(chosen(part, policy=policy)), against, levels)
        for level, ratio in zip(levels, ratios, strict=True):
            found.append(
                {
                    "scope": scope,
                    "policy": policy,
                    "excess_nats": level,
                    "ratio": None if ratio is None else _plain(ratio),
                }
            )
    return found


def _curve(rows: Rows) -> Curve:
    """Mean bits and excess loss of a round, a row for each (stream, training seed), a point for
    each channel."""
    units = list(
        dict.fromkeys(zip(rows["stream"].tolist(), rows["train_seed"].tolist(), strict=True))
    )
    channels = names(rows, "channel")
    shape = len(units), len(channels)
    row = {unit: i for i, unit in enumerate(units)}
    column = {channel: i for i, channel in enumerate(channels)}
    index = np.array(
        [
            row[stream, seed] * shape[1] + column[channel]
            for stream, seed, channel in zip(
                rows["stream"], rows["train_seed"], rows["channel"], strict=True
            )
        ]
    )
    counts = np.bincount(index, minlength=shape[0] * shape[1])
    bits, loss = (
        (np.bincount(index, rows[metric].astype(np.float64), len(counts)) / counts).reshape(shape)
        for metric in ("payload_bits", "excess_nats")
    )
    return Curve(np.array([stream for stream, _ in units]), bits, loss)


def _plain(interval: Interval) -> list[float | None]:
    values = (interval.mean, interval.low, interval.high)
    return [float(value) if np.isfinite(value) else None for value in values]
