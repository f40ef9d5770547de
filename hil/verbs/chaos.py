"""`hil chaos`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hil.verbs.console.options import JsonOption, write_json


def chaos(
    faults: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many faults to provoke.")
    ] = 20,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Draws the moments, the payloads and the noise.")
    ] = 0,
    json_path: JsonOption = None,
) -> None:
    """Provoke radio faults while updates are sent.

    Works on emulated Plutos: drops connections, refuses buffers, loses blocks and lets radios
    vanish at random moments. Every update has to arrive once and whole, and the link has to go on;
    recoveries that take longer than ten seconds are noted.

    Exit codes: 0 fine; 1 a bug; 2 a library is missing or broken; 3 a fault was not recovered
    from; 130 interrupted.
    """
    from hil.lab.chaos import run_chaos, table_of
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.at_work("provoking the first faults") as bar:
        outcome = run_chaos(faults, seed, bar.count)
    screen.show(table_of(outcome))
    write_json(json_path, asdict(outcome))
    for remark in outcome.remarks:
        screen.say(f"note: {remark}")
    for complaint in outcome.complaints:
        screen.say(f"missed: {complaint}")
    if outcome.complaints:
        raise typer.Exit(MISSED)
