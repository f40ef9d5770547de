"""A bench's calibration as the link, the controller and reports use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from calibration.mcs import SCHEMES_QUANTITY
from calibration.record import CalibrationRecord
from hil.contract import CalibrationError
from radio.modem import mcs

_NOISE_RISE_DB: Final = 1.0
"""A gain at which the converter's own noise costs more than this is too low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Records of one receiver, at one carrier and rate, from calibration.store.load().

    Attributes:
        records: quantity → record.
        warnings: why they may not hold any more, a sentence each.
    """

    records: Mapping[str, CalibrationRecord]
    warnings: tuple[str, ...] = ()

    def record(self, quantity: str) -> CalibrationRecord:
        """One quantity. Raises CalibrationError if it was not measured."""
        try:
            return self.records[quantity]
        except KeyError:
            known = ", ".join(self.records)
            raise CalibrationError(
                f"{quantity} was not measured on this bench (known: {known}); run hil calibrate all"
            ) from None

    def expected_cfo_hz(self) -> tuple[float, float]:
        """Carrier offset of transmitter over receiver and its spread, in Hz: where a search may
        begin.

        Raises:
            CalibrationError: it was not measured.
        """
        record = self.record("cfo_hz")
        return record.value, record.spread[0]

    def loss_table(self) -> mcs.LossTable:
        """Block losses of each scheme on this bench against measured SNR, for the link's adaptation
        and link models.

        Raises:
            CalibrationError: it was not measured.
        """
        return mcs.read_losses(
            self.scheme_record(), f"calibration of {self.record('mcs_threshold').conditions.serial}"
        )

    def scheme_record(self) -> dict[str, Any]:
        """The same in the format of radio/modem/mcs_table.json.

        Raises:
            CalibrationError: it was not measured.
        """
        threshold, width = self.record("mcs_threshold"), self.record("mcs_width")
        return {
            "quantity": SCHEMES_QUANTITY,
            "device": f"{threshold.conditions.device} {threshold.conditions.serial}",
            "conditions": threshold.conditions.path,
            "schemes": [
                {
                    "mcs": int(index),
                    "threshold_db": at_db,
                    "threshold_std_db": std_db,
                    "width_db": width_db,
                    "blocks": threshold.n,
                }
                for index, at_db, std_db, width_db in zip(
                    threshold.at, threshold.values, threshold.spread, width.values, strict=True
                )
            ],
        }

    def rx_gain_window_db(self, level_dbfs: float, at_gain_db: float) -> tuple[float, float]:
        """Receive gains that suit a signal: (lowest, highest).

        Above the highest, its bursts leave the usable window. Below the lowest, the noise of the
        converter costs more than 1 dB of SNR; the lowest is never above the highest: a strong
        signal can spare that.

        Args:
            level_dbfs: rms level at which the modem's bursts arrive with the gain at_gain_db.
            at_gain_db: receive gain of that measurement.

        Raises:
            CalibrationError: noise_floor or usable_high was not measured, or no measured gain is
                low enough.
        """
        floor, top = self.record("noise_floor"), self.record("usable_high")
        settings = np.array(floor.at)
        # noise of the input alone rises with the gain; what the converter adds does not
        at_input = np.array(floor.values) - self._real_gain_db(settings)
        quiet = settings[at_input <= at_input.min() + _NOISE_RISE_DB]
        level = (
            level_dbfs
            + self._real_gain_db(settings)
            - self._real_gain_db(np.array([at_gain_db]))[0]
        )
        bearable = settings[level <= top.value]
        if len(bearable) == 0:
            raise CalibrationError(
                f"a signal of {level_dbfs:.1f} dBFS at {at_gain_db:g} dB is too strong at every "
                "gain from "
                f"{settings[0]:g} dB on (limit {top.value:.1f} dBFS); raise tx_attenuation_db"
            )
        return float(min(quiet[0], bearable[-1])), float(bearable[-1])

    def dbm(self, level_dbfs: float, rx_gain_db: float) -> float:
        """Power at the receiver's port. Raises CalibrationError without a reference: full_scale was
        not measured."""
        reference = self.record("full_scale")
        then_db, now_db = self._real_gain_db(
            np.array([reference.conditions.rx_gain_db, rx_gain_db])
        )
        return float(level_dbfs + reference.value + then_db - now_db)

    def _real_gain_db(
        self, settings: np.ndarray[Any, np.dtype[np.float64]]
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Real gain of settings; the settings themselves where it was not measured."""
        known = self.records.get("rx_gain")
        if known is None:
            return settings
        error_db = np.array(known.values) - np.array(known.at)
        return np.asarray(settings + np.interp(settings, known.at, error_db))
