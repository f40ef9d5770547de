"""`hil edge`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import DEFAULT_CONFIG, ConfigOption, SetOption, read_settings


def edge(
    bundle: Annotated[
        Path, typer.Option(metavar="DIR", help="The edge's folder that `hil provision` wrote.")
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where installed updates are kept; else a folder of the user's."
        ),
    ] = None,
) -> None:
    """Run the edge's half; `hil cloud` is the other one.

    Listens to the radio, installs each update that passes its checks, and sends a receipt, until
    it is told to end (Ctrl-C or SIGTERM). PyTorch is not needed here.

    Exit codes: 0 when it was told to end; 1 a bug; 2 the bench or its configuration is broken;
    130 interrupted before it listened.
    """
    settings = read_settings(config, sets)
    from hil.loop.edge_process import run_edge
    from hil.user_folders import data_folder
    from hil.verbs.console.terminal import Screen

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("hil.waits").propagate = False  # the screen shows them
    with Screen().waits_shown():
        run_edge(settings, bundle, state or data_folder() / "edge" / settings.control.device)
