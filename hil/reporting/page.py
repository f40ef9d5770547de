"""The page that reports are: one HTML file with everything inside, its tables, figures and look."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path
from typing import Final

from hil.contract import ConfigError
from hil.reporting.figure_style import PALETTE, inline_svg
from hil.reporting.plots import Plot


def write_page(path: Path, title: str, body: Sequence[str]) -> None:
    """One HTML file: nothing is loaded from anywhere, no script runs; equal parts give an equal
    file.

    Args:
        path: the file.
        title: plain text.
        body: HTML, one section after the other.
    Raises:
        ConfigError: it cannot be written.
    """
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE_SHEET}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"report {path}: {error.strerror}; choose another place") from error


def figure_html(plot: Plot, prefix: str) -> str:
    """A figure with its heading and caption; ids in it begin with `prefix`."""
    svg = inline_svg(plot.figure, prefix).replace(
        "<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1
    )
    title, caption = escape(plot.title), escape(plot.caption)
    return f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>"


def table_html(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: Collection[str] = (),
    marked: Sequence[bool] = (),
) -> str:
    """A table that scrolls sideways: `text_columns` to the left, numbers to the right, marked rows
    stand out."""
    if not rows:
        return ""
    sides = [' class="t"' if head in text_columns else "" for head in heads]
    top = "".join(f"<th{side}>{escape(head)}</th>" for head, side in zip(heads, sides, strict=True))
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(
            f"<td{side}>{escape(text)}</td>" for text, side in zip(row, sides, strict=True)
        )
        start = '<tr class="bad">' if i < len(marked) and marked[i] else "<tr>"
        lines.append(f"{start}{cells}</tr>")
    body = "\n".join(lines)
    return (
        "<div "
        f'class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def facts_html(facts: Sequence[tuple[str, str]]) -> str:
    """Short facts with their names above them."""
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{cells}</dl>'


def glossary_html(entries: Sequence[tuple[str, str]]) -> str:
    """Terms and what they mean, as the last section."""
    cells = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in entries)
    return f"<section><h2>Glossary</h2><dl>{cells}</dl></section>"


def details_html(summary: str, text: str) -> str:
    """Plain text that is folded away."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


PAGE_COLOURS: Final[dict[str, tuple[str, str]]] = {
    "ink": ("#1b1e22", "#e4e7ea"),
    "soft": ("#5d6670", "#9aa4ae"),
    "page": ("#ffffff", "#14171a"),
    "card": ("#f4f6f8", "#1e2327"),
    "line": ("#d9dee3", "#343b42"),
    "bad": ("#faf0eb", "#372925"),
}
"""Name of a style sheet's variable → colour on a light page, colour on a dark one."""


def _variables(dark: bool) -> str:
    """The colours of page and figures as declarations of CSS."""
    both = {**PAGE_COLOURS, **PALETTE}
    return ";".join(f"--{name}:{colours[dark]}" for name, colours in both.items())


STYLE_SHEET = (
    f"""
:root{{color-scheme:light dark;{_variables(dark=False)}}}
@media(prefers-color-scheme:dark){{:root{{{_variables(dark=True)}}}}}
"""
    + """
@media print{.scroll{overflow:visible}figure{break-inside:avoid}}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:70rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:.5rem 0 1rem}h2{font-size:1.3rem;margin:2.5rem 0 .75rem;
border-top:1px solid var(--line);
padding-top:1.5rem}h3{font-size:1.05rem;margin:0 0 .5rem}a{color:inherit}nav{margin:0 0 1rem;
color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.5rem 1.5rem;
margin:0 0 1.25rem}
.facts dt{font-size:.8rem;color:var(--soft);margin:0}.facts dd{margin:0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.6rem;
margin:0 0 1.25rem}
.tiles div{background:var(--card);border-radius:.5rem;padding:.6rem .8rem}
.tiles b{display:block;font-size:1.15rem;font-weight:600;font-variant-numeric:tabular-nums}
.tiles span{font-size:.8rem;color:var(--soft)}
.note{border-left:3px solid var(--orange);background:var(--card);padding:.6rem .9rem;
margin:0 0 1.5rem}
.note ul{margin:.25rem 0 0;padding-left:1.2rem}
figure{margin:2.25rem 0}figure svg{display:block;width:100%;height:auto}
figcaption{color:var(--soft);font-size:.87rem;margin-top:.4rem}
.scroll{overflow:auto;max-height:36rem;border:1px solid var(--line);border-radius:.5rem;
margin:0 0 1.25rem}
table{border-collapse:collapse;font-size:.8rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.28rem .55rem;text-align:right;white-space:nowrap}th{position:sticky;top:0;
background:var(--card);
font-weight:600;white-space:normal;vertical-align:bottom}.t{text-align:left;white-space:normal}
tbody tr+tr td{border-top:1px solid var(--line)}.bad td{background:var(--bad)}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}pre{background:var(--card);
padding:.75rem;overflow:auto;
border-radius:.5rem;font-size:.8rem}dt{font-weight:600;margin-top:.5rem}dd{margin:0 0 0 1rem}
"""
)
