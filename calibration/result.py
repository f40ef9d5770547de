"""A bench's calibration as the link, the controller and reports use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibration.mcs import SCHEMES_QUANTITY
from calibration.record import CalibrationRecord
from hil.contract import CalibrationError
from radio.modem import mcs


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
