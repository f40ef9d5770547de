"""A value that was measured over time: one column of a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hil.contract import ConfigError

_DELIMITERS: Final = ",;\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A value that holds from each time to the next; before the first time, the first value holds.

    Attributes:
        times_s: float64[n], rising from 0.
        values: float64[n].
        loops: at its end it begins again; False: the last value holds.
    """

    times_s: NDArray[np.float64]
    values: NDArray[np.float64]
    loops: bool = False

    @property
    def duration_s(self) -> float:
        """Time that the values cover: the last one holds as long as the one before it; a single
        value for ever."""
        if len(self.times_s) == 1:
            return math.inf
        return float(2 * self.times_s[-1] - self.times_s[-2])

    def at(self, t_s: ArrayLike) -> NDArray[np.float64]:
        """The values at some times, in the shape of t_s."""
        times = np.asarray(t_s, np.float64)
        if self.loops and math.isfinite(self.duration_s):
            times = times % self.duration_s
        place = np.searchsorted(self.times_s, times, side="right") - 1
        return self.values[np.maximum(place, 0)]

    def limits(self, begin_s: float, end_s: float) -> tuple[float, float]:
        """Lowest and highest value from begin_s to end_s."""
        starts = self.times_s
        if self.loops and math.isfinite(self.duration_s):
            laps = np.arange(begin_s // self.duration_s, end_s // self.duration_s + 1)
            starts = (laps[:, np.newaxis] * self.duration_s + starts).ravel()
        within = starts[(starts > begin_s) & (starts < end_s)]
        found = self.at(np.append(within, begin_s))
        return float(found.min()), float(found.max())


def read_column(path: Path, column: str, limits: tuple[float, float]) -> NDArray[np.float64]:
    """A column of a CSV file, float64[n], n ≥ 1.

    The first line names the columns, which commas, semicolons or tabs separate. A byte order mark,
    either kind of line end, and empty lines do not matter.

    Raises:
        ConfigError: the file cannot be read, lacks the column, or has a cell that is no finite
            number or lies outside the limits; the line names file, row (counted as a spreadsheet
            does) and column.
    """
    values = [_number(cell, limits, path, row, column) for row, (cell,) in _rows(path, [column])]
    return _filled(values, path)


def read_trace(
    path: Path, column: str, time_column: str, limits: tuple[float, float], *, loops: bool
) -> Trace:
    """A column over another one with times in seconds, which count from the first row's.

    Raises:
        ConfigError: see read_column; or the times do not rise.
    """
    times: list[float] = []
    values: list[float] = []
    for row, (time, cell) in _rows(path, [time_column, column]):
        time_s = _number(time, (-math.inf, math.inf), path, row, time_column)
        if times and not time_s > times[-1]:
            raise ConfigError(
                f"{path}: row {row}, column {time_column!r} is {time_s!r} after {times[-1]!r}; "
                "times must rise from row to row"
            )
        times.append(time_s)
        values.append(_number(cell, limits, path, row, column))
    times_s = _filled(times, path)
    return Trace(times_s=times_s - times_s[0], values=_filled(values, path), loops=loops)


def _filled(values: list[float], path: Path) -> NDArray[np.float64]:
    if not values:
        raise ConfigError(f"{path}: no row below the names of its columns; add some")
    return np.array(values, np.float64)


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, list[str | None]]]:
    """Row number and the cells of the columns, row by row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.DictReader(
                file, delimiter=max(_DELIMITERS, key=first.count), skipinitialspace=True
            )
            names = [name.strip() for name in rows.fieldnames or ()]
            rows.fieldnames = names
            for column in columns:
                if names.count(column) != 1:
                    raise ConfigError(
                        f"{path}: {names.count(column)} columns are named {column!r}, one must be; "
                        f"its first line names {', '.join(names) or 'none'}"
                    )
            for row in rows:
                yield rows.line_num, [row[column] for column in columns]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a CSV file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise ConfigError(f"{path}: not a CSV file ({error}); save it as CSV UTF-8") from error


def _number(
    cell: str | None, limits: tuple[float, float], path: Path, row: int, column: str
) -> float:
    text = (cell or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ConfigError(
            f"{path}: row {row}, column {column!r} is {text!r}; it must be a finite number such as "
            "12.5, with its unit in the column's name and not in the cell"
        )
    low, high = limits
    if not low <= value <= high:
        raise ConfigError(
            f"{path}: row {row}, column {column!r} is {value:g}; it must stay within {low:g} and "
            f"{high:g}"
        )
    return value
