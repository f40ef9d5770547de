"""The link bench as one HTML page: its bars, and the curves beside what theory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hil.benchmarks.link.bars import number
from hil.benchmarks.link.plots import plots
from hil.reporting.page import facts_html, figure_html, glossary_html, table_html, write_page

_GLOSSARY: Final = (
    ("SNR", "Es/N0 per used subcarrier, in dB, wherever it is named here."),
    ("BLER", "Share of data blocks (8448 bits) that do not come out right."),
    ("Threshold", "SNR at which 10 % of the blocks are lost."),
    (
        "Genie",
        "Symbols and noise straight into the demapper: no synchronisation, the noise variance "
        "known.",
    ),
    (
        "Shannon's limit",
        "SNR at which the capacity of the Gaussian channel equals the bits sent per symbol.",
    ),
    (
        "Normal approximation",
        "What the best code of that block length and constellation needs: Polyanskiy, Poor and "
        "Verdú, IEEE Trans. "
        "Inf. Theory 56(5), 2010.",
    ),
    (
        "Goodput",
        "Payload bits delivered per second, everything counted: preamble, headers, prefix, "
        "pilots, repeats.",
    ),
    (
        "Bar, reach",
        "What the radio is held to, and what it would be nice to have. The figure decides, not "
        "the interval.",
    ),
    (
        "[low, high]",
        "95 % interval: Clopper-Pearson for shares, chi-square for rms, order statistics for "
        "quantiles, bootstrap over "
        "bursts for thresholds, Student's t for means; smallest and largest for timings.",
    ),
)


def write_report(bench: Mapping[str, Any], path: Path) -> None:
    """The page.

    Args:
        bench: LinkBench.as_json().
        path: the HTML file.
    Raises:
        ConfigError: it cannot be written.
    """
    body = [f"<h1>Link bench{', short form' if bench['quick'] else ''}</h1>", _facts(bench)]
    short = [bar for bar in bench["bars"] if bar["verdict"] == "short"]
    if short:
        lines = "".join(
            f"<li>{bar['study']}: {_escape(bar['name'])}: {_figure(bar)}</li>" for bar in short
        )
        body.append(f'<div class="note">{len(short)} bars are short:<ul>{lines}</ul></div>')
    for i, plot in enumerate(plots(bench["curves"])):
        body.append(figure_html(plot, f"p{i}"))
    body += [
        "<section><h2>Every bar</h2>",
        _table(bench["bars"]),
        "</section>",
        glossary_html(_GLOSSARY),
    ]
    write_page(path, "Link bench", body)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _facts(bench: Mapping[str, Any]) -> str:
    verdicts = [bar["verdict"] for bar in bench["bars"]]
    where = bench["machine"]
    return facts_html(
        [
            ("Bars met", f"{sum(v in ('met', 'reach met') for v in verdicts)}"),
            ("Bars short", f"{verdicts.count('short')}"),
            ("Measured only", f"{verdicts.count('measured') + verdicts.count('reach missed')}"),
            ("CPU", f"{where['cpu']}, {where['cores']} cores"),
            (
                "Load average at the start",
                f"{where['load_average']}, {'idle' if where['idle'] else 'not idle'}",
            ),
            ("Took", f"{bench['took_s']:.0f} s"),
        ]
    )


def _number(value: float | None) -> str:
    return "none" if value is None else number(value)


def _figure(bar: Mapping[str, Any]) -> str:
    interval = "" if bar["low"] is None else f" [{_number(bar['low'])}, {_number(bar['high'])}]"
    return f"{_number(bar['figure'])}{interval} {bar['unit']}".rstrip()


def _table(bars: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for bar in bars:
        sign = "≥" if bar["higher_is_better"] else "≤"
        bounds = [
            "" if bar[key] is None else f"{sign} {_number(bar[key])}" for key in ("bar", "reach")
        ]
        trials = f"{bar['trials']:,} {bar['of']}"
        rows.append(
            [
                f"{bar['study']}: {bar['name']}",
                _figure(bar),
                trials,
                *bounds,
                bar["verdict"],
                bar["note"],
            ]
        )
    heads = ["Figure of", "Figure [95 %]", "Trials", "Bar", "Reach", "Verdict", "Note"]
    marked = [bar["verdict"] == "short" for bar in bars]
    return table_html(heads, rows, text_columns=("Figure of", "Verdict", "Note"), marked=marked)
