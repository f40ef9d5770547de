"""Curves of a calibration report, prepared for whoever draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calibration.record import CalibrationRecord, title_of
from calibration.snr_sweep import AGREEMENT_DB, RANGE_DB
from hil.contract import Floats
from radio.modem import mcs

Records = Mapping[str, CalibrationRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve.

    Attributes:
        name: entry of the legend; "" for none.
        x, y, spread: float64[n]; the spread is one sigma, NaN where unknown.
        joined: True if a line joins the points.
    """

    name: str
    x: Floats
    y: Floats
    spread: Floats
    joined: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One figure.

    Attributes:
        title, caption: plain text.
        x_label, y_label: labels of the axes, with units.
        series: what is drawn.
        curves: fitted lines by the place of the series that they belong to, (x, y).
    """

    title: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    curves: Mapping[int, tuple[Floats, Floats]]


def panels(records: Records) -> list[Panel]:
    """The figures that these records, by quantity, are enough for."""
    made = (
        _noise(records),
        _linearity(records),
        _snr(records),
        _snr_gap(records),
        _block_errors(records),
    )
    return [panel for panel in made if panel is not None]


def _series(record: CalibrationRecord, *, less_its_setting: bool = False) -> Series:
    x, y = np.array(record.at), np.array(record.values)
    return Series(
        name=title_of(record.quantity),
        x=x,
        y=y - x if less_its_setting else y,
        spread=np.array(record.spread),
    )


def _known(records: Records, *quantities: str) -> list[CalibrationRecord]:
    return [records[quantity] for quantity in quantities if quantity in records]


def _noise(records: Records) -> Panel | None:
    known = _known(records, "noise_floor", "noise_per_subcarrier", "dc_offset")
    if not known:
        return None
    return Panel(
        title="Noise floor",
        caption="With the transmitter silent. Where the floor stops falling with the gain, the "
        "converter's own noise "
        "is left: a lower gain only costs SNR. 0 dBFS is a complex tone of magnitude 1.",
        x_label="Receive gain as set (dB)",
        y_label="Level (dBFS)",
        series=tuple(_series(record) for record in known),
        curves={},
    )


def _linearity(records: Records) -> Panel | None:
    known = _known(records, "rx_gain", "tx_attenuation")
    if not known:
        return None
    return Panel(
        title="Linearity of gain and attenuation",
        caption="What a setting really does, less what it says; the first one that could be heard "
        "is taken at its "
        "word. Bars: two standard deviations of a single measurement.",
        x_label="Gain or attenuation as set (dB)",
        y_label="Real less set (dB)",
        series=tuple(_series(record, less_its_setting=True) for record in known),
        curves={},
    )


def _snr(records: Records) -> Panel | None:
    known = _known(records, "snr_data_aided", "snr_noise_floor")
    if not known:
        return None
    return Panel(
        title="SNR against attenuation",
        caption="Es/N0 per used subcarrier by two methods that share nothing: the modem's own "
        "estimate from known "
        "bursts, and received power with the signal on less that with the transmitter silent.",
        x_label="Transmit attenuation (dB)",
        y_label="SNR (dB)",
        series=tuple(_series(record) for record in known),
        curves={},
    )


def _snr_gap(records: Records) -> Panel | None:
    known = _known(records, "snr_data_aided", "snr_noise_floor")
    if len(known) < 2:
        return None
    aided, floor = (np.array(record.values) for record in known)
    spread = np.hypot(known[0].spread, known[1].spread)
    return Panel(
        title="Agreement of the two methods",
        caption=f"From {RANGE_DB[0]:g} to {RANGE_DB[1]:g} dB they must agree within "
        f"{AGREEMENT_DB:g} dB. Where the "
        "data-aided SNR falls behind at the top, distortion, phase noise or the image limit this "
        "bench.",
        x_label="SNR by the noise-floor method (dB)",
        y_label="Data-aided less noise floor (dB)",
        series=(Series(name="", x=floor, y=aided - floor, spread=spread),),
        curves={},
    )


def _block_errors(records: Records) -> Panel | None:
    table = (
        {int(index): k for k, index in enumerate(records["mcs_threshold"].at)}
        if "mcs_width" in records
        else {}
    )
    series: list[Series] = []
    curves: dict[int, tuple[Floats, Floats]] = {}
    for scheme in mcs.MCS_TABLE:
        record = records.get(f"bler_{scheme.index}")
        if record is None or scheme.index not in table:
            continue
        points = _series(record)
        k = table[scheme.index]
        at_db, width_db = records["mcs_threshold"].values[k], records["mcs_width"].values[k]
        x = np.linspace(at_db - 1.0, at_db + 1.0, 81)
        fitted = mcs.LossTable(
            np.full(len(mcs.MCS_TABLE), at_db), np.full(len(mcs.MCS_TABLE), width_db)
        )
        curves[len(series)] = (x, fitted.loss_at(0, x))
        series.append(
            Series(
                name=f"MCS {scheme.index}",
                x=points.x,
                y=points.y,
                spread=points.spread,
                joined=False,
            )
        )
    if not series:
        return None
    return Panel(
        title="Block errors against measured SNR",
        caption="Points: share of blocks lost at the SNR that this bench's receiver measured from "
        "the same bursts. "
        "Lines: the fitted curves that the link switches by.",
        x_label="Measured SNR (dB)",
        y_label="Share of blocks lost",
        series=tuple(series),
        curves=curves,
    )
