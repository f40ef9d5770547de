"""The page of a calibration: what was measured, value by value, and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import hil.reporting.matplotlib_setup  # noqa: F401 (before any part of matplotlib)

# isort: split
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from calibration.plots import Panel, Series, panels
from calibration.record import CalibrationRecord, title_of
from hil.reporting.figure_style import CYCLE, MARKERS, STYLE, WIDTH_IN
from hil.reporting.page import facts_html, figure_html, glossary_html, table_html, write_page
from hil.reporting.plots import Plot

_FEW = 5
"""So many curves are told apart by a legend; more are named beside their points."""

_GLOSSARY = (
    (
        "dBFS",
        "Decibels relative to full scale: a complex tone of magnitude 1, I and Q each just "
        "reaching full scale.",
    ),
    ("SNR", "Es/N0 on one used subcarrier: energy of a symbol over the noise density, in dB."),
    ("MCS", "Modulation and coding scheme, by its index in table 5.1.3.1-2 of 3GPP TS 38.214."),
    ("ppm", "Millionths: of the carrier, or of the sample rate."),
    (
        "Image",
        "Mirror image of a signal at the opposite frequency, from a mixer whose branches differ.",
    ),
    ("±", "One standard deviation of a single measurement, from its repeats."),
)


def write_calibration_report(records: Mapping[str, CalibrationRecord], path: Path) -> None:
    """Write the page of a calibration.

    Args:
        records: quantity → record, one or more, all of one receiver.
        path: the HTML file.

    Raises:
        ConfigError: it cannot be written.
    """
    title = f"Calibration of {next(iter(records.values())).conditions.serial}"
    body = [f"<h1>{escape(title)}</h1>", *_remarks(records), _facts(records)]
    body += ["<section><h2>Figures</h2>", _scalars(records), *_figures(records), "</section>"]
    body += [
        "<section><h2>Every value</h2>",
        _values(records),
        "</section>",
        glossary_html(_GLOSSARY),
    ]
    write_page(path, title, body)


def _remarks(records: Mapping[str, CalibrationRecord]) -> list[str]:
    """Warnings at the top of the page."""
    lines = []
    if any(record.conditions.emulated for record in records.values()):
        lines.append(
            "An emulated radio: these figures prove the software, and say nothing about any real "
            "one."
        )
    for record in records.values():
        lines += [f"{title_of(record.quantity)}: {flag}" for flag in record.flags]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f'<div class="note"><ul>{items}</ul></div>'] if lines else []


def _facts(records: Mapping[str, CalibrationRecord]) -> str:
    c = next(iter(records.values())).conditions
    temperatures = [r.conditions.temperature_c for r in records.values()]
    times = sorted(record.conditions.measured_utc for record in records.values())
    return facts_html(
        (
            ("Receiver", f"{c.device}, serial {c.serial}, firmware {c.firmware}"),
            (
                "Transmitter",
                "the same radio" if c.tx_serial == c.serial else f"serial {c.tx_serial}",
            ),
            ("Path", c.path or "not said"),
            (
                "Carriers",
                f"receive {c.rx_lo_hz / 1e6:.6g} MHz, transmit {c.tx_lo_hz / 1e6:.6g} MHz",
            ),
            ("Sample rate", f"{c.rate_hz / 1e6:.6g} MS/s"),
            ("Temperature", f"{min(temperatures):.1f} to {max(temperatures):.1f} °C"),
            ("Measured", f"{times[0]} to {times[-1]}"),
            ("Version", c.tool_version),
        )
    )


def _scalars(records: Mapping[str, CalibrationRecord]) -> str:
    rows = []
    for record in records.values():
        if not record.axis:
            gain = record.conditions.rx_gain_db
            gain_text = f"{gain:g} dB" if np.isfinite(gain) else ""
            notes = "; ".join(record.notes)
            rows.append(
                (title_of(record.quantity), record.texts()[0], str(record.n), gain_text, notes)
            )
    heads = ("Quantity", "Value", "n", "Receive gain", "Note")
    return table_html(heads, rows, text_columns=("Quantity", "Note"))


def _values(records: Mapping[str, CalibrationRecord]) -> str:
    rows = []
    for record in records.values():
        title, n = title_of(record.quantity), str(record.n)
        measured_utc = record.conditions.measured_utc
        rows += [(title, text, n, measured_utc) for text in record.texts()]
    return table_html(
        ("Quantity", "Value", "n", "Measured"), rows, text_columns=("Quantity", "Value")
    )


def _figures(records: Mapping[str, CalibrationRecord]) -> list[str]:
    return [
        figure_html(Plot(title=panel.title, caption=panel.caption, figure=_drawn(panel)), f"p{k}")
        for k, panel in enumerate(panels(records))
    ]


@mpl.rc_context(STYLE)
def _drawn(panel: Panel) -> Figure:
    figure = Figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    ax = figure.subplots()
    ax.grid(axis="both")
    many = len(panel.series) > _FEW
    for k, series in enumerate(panel.series):
        colour, marker = CYCLE[k % len(CYCLE)], MARKERS[k % len(MARKERS)]
        line = "-" if series.joined else "none"
        bars = 2 * np.nan_to_num(series.spread)
        label = None if many or not series.name else series.name
        ax.errorbar(
            series.x,
            series.y,
            bars,
            color=colour,
            marker=marker,
            linestyle=line,
            elinewidth=0.8,
            label=label,
        )
        if k in panel.curves:
            ax.plot(*panel.curves[k], color=colour, linewidth=1.0)
        if many:
            _name_beside(ax, series, colour)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    if not many and any(series.name for series in panel.series):
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _name_beside(ax: mpl.axes.Axes, series: Series, colour: str) -> None:
    """The number of a curve above its middle: 18 entries would make no legend."""
    text = series.name.removeprefix("MCS ")
    ax.annotate(
        text,
        (float(np.mean(series.x)), 1.02),
        xycoords=ax.get_xaxis_transform(),
        color=colour,
        ha="center",
        va="bottom",
    )
