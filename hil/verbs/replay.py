"""`hil replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A recording, or a folder of one link's recordings."),
    ],
) -> None:
    """Decode a recording again, and compare the results.

    The receiver runs again on the recorded samples. It has to find the same bytes, and the same
    value in every field of its report.

    Exit codes: 0 equal; 1 a bug; 2 no recording, or a damaged one; 3 something differs.
    """
    from hil.lab.recording_session import comparison, replay_all, verdict
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.waits_shown():
        replayed = replay_all(path)
    screen.show(comparison(replayed))
    screen.say(verdict(replayed))
    if any(each.differences for each in replayed):
        raise typer.Exit(MISSED)
