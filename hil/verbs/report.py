"""`hil report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs; several are compared."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The HTML file; else report.html in the first run's folder."
        ),
    ] = None,
) -> None:
    """Show a run, or several side by side, and write a page.

    Prints the rounds and their totals. Several runs are compared below a table of what differs
    between them. The HTML page opens offline in any browser. Runs that are not finished can be
    shown, too.

    Exit codes: 0 fine; 1 a bug; 2 not a run's folder, or the page cannot be written.
    """
    from hil.reporting.comparison import differences_table
    from hil.reporting.report import write_report
    from hil.reporting.run_folder import read_run
    from hil.reporting.totals import totals_table
    from hil.verbs.console.terminal import Screen

    loaded = [read_run(folder) for folder in runs]
    path = out or runs[0] / "report.html"
    screen = Screen()
    screen.wait("drawing the report ...")
    write_report(loaded, path)
    if len(loaded) > 1:
        screen.show(differences_table(loaded))
    for one in loaded:
        screen.file("run", one.folder)
        screen.show_head()
        for row in one.rows:
            screen.show_round(row)
        screen.show(totals_table(one))
    screen.file("report", path)
