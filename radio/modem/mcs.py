"""The modulation and coding schemes, and what each loses at a measured SNR.

Entries of 3GPP TS 38.214 table 5.1.3.1-2. The first two are robust: QPSK so slow that it works
below the noise, and their bursts open with the repeated preamble. Thresholds are measured, not
typed in: mcs_table.json is written by

    python -m calibration.mcs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from hil.contract import CalibrationError

_MODULATIONS: Final = {2: "QPSK", 4: "16-QAM", 6: "64-QAM", 8: "256-QAM"}
ENTRIES: Final = (
    # index in the standard's table, bits per symbol, code rate x 1024
    (0, 2, 120), (1, 2, 193), (2, 2, 308), (3, 2, 449), (4, 2, 602),
    (5, 4, 378), (7, 4, 490), (9, 4, 616), (10, 4, 658),
    (11, 6, 466), (13, 6, 567), (15, 6, 666), (17, 6, 772), (19, 6, 873),
    (20, 8, 682.5), (22, 8, 754), (24, 8, 841), (26, 8, 916.5),
)  # fmt: skip
_ROBUST: Final = 2
"""Entries at the head of the table that need the repeated preamble."""

TABLE_FILE: Final = Path(__file__).with_name("mcs_table.json")
_LEVEL: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcs:
    """A modulation and coding scheme.

    Attributes:
        place: its place in MCS_TABLE, 0..17, rising in rate; burst headers hold it.
        index: its number in TS 38.214 table 5.1.3.1-2; reports print it.
        bits_per_symbol: 2, 4, 6 or 8.
        code_rate: information bits per coded bit, 0..1.
        threshold_db: Es/N0 at which 10 % of the data blocks are lost, whole receiver, AWGN.
        width_db: step in Es/N0 over which the odds of a loss fall by a factor e.
    """

    place: int
    index: int
    bits_per_symbol: int
    code_rate: float
    threshold_db: float
    width_db: float

    @property
    def robust(self) -> bool:
        """True if its bursts open with the repeated preamble."""
        return self.place < _ROBUST

    @property
    def name(self) -> str:
        """Index, modulation and code rate, as reports print them."""
        return f"MCS {self.index} {_MODULATIONS[self.bits_per_symbol]} {self.code_rate:.2f}"

    @property
    def efficiency(self) -> float:
        """Information bits per symbol."""
        return self.bits_per_symbol * self.code_rate


class LossTable:
    """What every entry of MCS_TABLE loses at a measured SNR on one bench, and the choice by it.

    Attributes:
        threshold_db: float64[18], by place: Es/N0 at which 10 % of the blocks are lost.
        width_db: float64[18], step over which the odds of a loss fall by a factor e.
    """

    def __init__(self, threshold_db: ArrayLike, width_db: ArrayLike) -> None:
        self.threshold_db = np.array(threshold_db, np.float64)
        self.width_db = np.array(width_db, np.float64)
        to_target = np.log(_LEVEL / (1 - _LEVEL)) - np.log(TARGET_LOSS / (1 - TARGET_LOSS))
        self._switch_db = np.maximum.accumulate(self.threshold_db + self.width_db * to_target)

    @property
    def lowest_db(self) -> float:
        """Es/N0 at which the slowest entry loses TARGET_LOSS: what a link is taken for before it
        has been measured."""
        return float(self._switch_db[0])

    def loss_at(self, place: ArrayLike, snr_db: ArrayLike) -> NDArray[np.float64]:
        """Expected share of lost blocks, 0..1, of entries by their place at an Es/N0; arrays
        broadcast."""
        where = np.asarray(place, np.intp)
        return _logistic(
            (np.asarray(snr_db, np.float64) - self.threshold_db[where]) / self.width_db[where]
        )

    def fastest(self, snr_db: ArrayLike) -> NDArray[np.intp]:
        """Place of the fastest entry that is expected to lose at most TARGET_LOSS; 0 where none
        does."""
        found = np.searchsorted(self._switch_db, np.asarray(snr_db, np.float64), side="right")
        return np.maximum(found - 1, 0)


def read_losses(record: Mapping[str, Any], source: str) -> LossTable:
    """The table of a record in the format of mcs_table.json.

    Args:
        record: its "schemes" name every entry of ENTRIES by "mcs", with "threshold_db" and
            "width_db".
        source: the record's origin, for the error.

    Raises:
        CalibrationError: an entry is missing, or a figure is not finite, or a width is not
            positive.
    """
    try:
        measured = {
            entry["mcs"]: (float(entry["threshold_db"]), float(entry["width_db"]))
            for entry in record["schemes"]
        }
        figures = np.array([measured[index] for index, _, _ in ENTRIES])
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"{source}: not a table of schemes ({error!r}); expected threshold_db and width_db "
            "for each of "
            f"{len(ENTRIES)} schemes: measure it anew"
        ) from error
    if not (np.isfinite(figures).all() and (figures[:, 1] > 0).all()):
        raise CalibrationError(
            f"{source}: a threshold or width is not finite or not positive; measure it anew"
        )
    return LossTable(figures[:, 0], figures[:, 1])


def _logistic(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(expit(np.log(_LEVEL / (1 - _LEVEL)) - excess))


TARGET_LOSS: Final = 0.01
"""Share of lost blocks that the choice of a scheme aims at."""
LOOPBACK: Final = read_losses(json.loads(TABLE_FILE.read_text()), str(TABLE_FILE))
"""Measured in loopback, noise alone; a bench with a table of its own does better with that."""
MCS_TABLE: Final = tuple(
    Mcs(
        place=place,
        index=index,
        bits_per_symbol=bits_per_symbol,
        code_rate=rate_x1024 / 1024,
        threshold_db=float(threshold_db),
        width_db=float(width_db),
    )
    for place, ((index, bits_per_symbol, rate_x1024), threshold_db, width_db) in enumerate(
        zip(ENTRIES, LOOPBACK.threshold_db, LOOPBACK.width_db, strict=True)
    )
)
"""Every MCS, rising in rate. Thresholds and widths are those of LOOPBACK."""


def slowest(*, robust: bool) -> Mcs:
    """The slowest MCS behind the repeated preamble, or behind the plain one."""
    return MCS_TABLE[0 if robust else _ROBUST]


def block_error_rate(mcs: Mcs, snr_db: ArrayLike) -> NDArray[np.float64]:
    """Expected share of lost blocks, 0..1, at an Es/N0: a logistic curve through the measured
    threshold."""
    return _logistic((np.asarray(snr_db, np.float64) - mcs.threshold_db) / mcs.width_db)


def fastest(snr_db: ArrayLike) -> NDArray[np.intp]:
    """Place of the fastest entry that is expected to lose at most TARGET_LOSS in loopback; 0 where
    none does."""
    return LOOPBACK.fastest(snr_db)
