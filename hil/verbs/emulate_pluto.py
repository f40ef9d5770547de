"""`hil emulate-pluto`."""

from __future__ import annotations

from typing import Annotated

import typer

from hil.verbs.console.options import DEFAULT_CONFIG, ConfigOption, SetOption, read_settings


def emulate_pluto(
    nodes: Annotated[
        int, typer.Option(metavar="N", min=1, max=16, help="How many Plutos to emulate.")
    ] = 2,
    ports: Annotated[
        list[int] | None,
        typer.Option(
            "--port",
            metavar="PORT",
            help="TCP port of the next Pluto; else a free one.",
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    free_running: Annotated[
        bool, typer.Option("--free-running", help="As fast as programs read, not in real time.")
    ] = False,
) -> None:
    """Start ADALM-Plutos in software.

    The channel of the configuration lies between them. Prints one URI a line on stdout. Any
    libiio program on this machine can use them: set radio.uri to one of them, or try
    `iio_info -u URI`. Ctrl-C ends them.

    Exit codes: 0 when it was told to end; 1 a bug; 2 the configuration is broken or a port is
    taken.
    """
    settings = read_settings(config, sets)
    from hil.lab.emulate import emulate_plutos
    from hil.verbs.console.terminal import Screen

    with Screen().waits_shown():
        emulate_plutos(settings, nodes, ports=ports or [], real_time=not free_running)
