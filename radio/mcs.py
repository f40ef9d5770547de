"""The modulation and coding schemes, and what each loses at a measured SNR.

Entries of 3GPP TS 38.214 table 5.1.3.1-2. The first two are robust: QPSK so slow that it works below the noise, and
their bursts open with the repeated preamble. Thresholds are measured, not typed in: mcs_table.json is written by

    python -m calibration.mcs
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

_MODULATIONS: Final = {2: "QPSK", 4: "16-QAM", 6: "64-QAM", 8: "256-QAM"}
ENTRIES: Final = (
    # index in the standard's table, bits per symbol, code rate x 1024
    (0, 2, 120), (1, 2, 193), (2, 2, 308), (3, 2, 449), (4, 2, 602),
    (5, 4, 378), (7, 4, 490), (9, 4, 616), (10, 4, 658),
    (11, 6, 466), (13, 6, 567), (15, 6, 666), (17, 6, 772), (19, 6, 873),
    (20, 8, 682.5), (22, 8, 754), (24, 8, 841), (26, 8, 916.5),
)  # fmt: skip
ROBUST: Final = 2
"""Entries at the head of the table that need the repeated preamble."""

TABLE_FILE: Final = Path(__file__).with_name("mcs_table.json")
_LEVEL: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcs:
    """A modulation and coding scheme.

    Attributes:
        index: in TS 38.214 table 5.1.3.1-2.
        bits_per_symbol: 2, 4, 6 or 8.
        code_rate: information bits per coded bit, 0..1.
        threshold_db: Es/N0 at which 10 % of the data blocks are lost, whole receiver, AWGN.
        width_db: step in Es/N0 over which the odds of a loss fall by a factor e.
    """

    index: int
    bits_per_symbol: int
    code_rate: float
    threshold_db: float
    width_db: float

    @property
    def name(self) -> str:
        """As reports print it: index, modulation, code rate."""
        return f"MCS {self.index} {_MODULATIONS[self.bits_per_symbol]} {self.code_rate:.2f}"

    @property
    def efficiency(self) -> float:
        """Information bits per symbol."""
        return self.bits_per_symbol * self.code_rate


def _load() -> tuple[Mcs, ...]:
    measured = {entry["mcs"]: entry for entry in json.loads(TABLE_FILE.read_text())["schemes"]}
    return tuple(
        Mcs(
            index=index,
            bits_per_symbol=bits_per_symbol,
            code_rate=rate_x1024 / 1024,
            threshold_db=measured[index]["threshold_db"],
            width_db=measured[index]["width_db"],
        )
        for index, bits_per_symbol, rate_x1024 in ENTRIES
    )


MCS_TABLE: Final = _load()
"""Rising in rate; a burst header names an entry by its place."""
_THRESHOLD_DB: Final = np.array([scheme.threshold_db for scheme in MCS_TABLE])
_WIDTH_DB: Final = np.array([scheme.width_db for scheme in MCS_TABLE])


def is_robust(place: int) -> bool:
    """True if the entry at this place of MCS_TABLE is sent behind the repeated preamble."""
    return place < ROBUST


def block_error_rate(scheme: Mcs, snr_db: ArrayLike) -> NDArray[np.float64]:
    """Expected share of lost blocks, 0..1, at an Es/N0: a logistic curve through the measured threshold."""
    return _logistic((np.asarray(snr_db, np.float64) - scheme.threshold_db) / scheme.width_db)


def loss_at(place: NDArray[np.intp], snr_db: ArrayLike) -> NDArray[np.float64]:
    """The same for entries of MCS_TABLE by their place; arrays broadcast."""
    return _logistic((np.asarray(snr_db, np.float64) - _THRESHOLD_DB[place]) / _WIDTH_DB[place])


def _logistic(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(expit(np.log(_LEVEL / (1 - _LEVEL)) - excess))


def snr_for_loss_db(scheme: Mcs, loss: float) -> float:
    """Es/N0 in dB at which a share of the blocks is lost, 0 < loss < 1."""
    return scheme.threshold_db + scheme.width_db * float(np.log(_LEVEL / (1 - _LEVEL)) - np.log(loss / (1 - loss)))


TARGET_LOSS: Final = 0.01
"""Share of lost blocks that the choice of a scheme aims at."""
_SWITCH_DB: Final = np.maximum.accumulate([snr_for_loss_db(scheme, TARGET_LOSS) for scheme in MCS_TABLE])


def fastest(snr_db: ArrayLike) -> NDArray[np.intp]:
    """Place of the fastest entry that is expected to lose at most TARGET_LOSS; 0 where none does."""
    return np.maximum(np.searchsorted(_SWITCH_DB, np.asarray(snr_db, np.float64), side="right") - 1, 0)
