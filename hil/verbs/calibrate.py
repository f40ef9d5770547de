"""`hil calibrate`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hil.verbs.console.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    QuickOption,
    SetOption,
    read_settings,
)


def calibrate(
    what: Annotated[
        Literal["snr", "gain", "cfo", "all"],
        typer.Argument(metavar="snr|gain|cfo|all", help="What to measure."),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    quick: QuickOption = False,
    reference_dbm: Annotated[
        float | None,
        typer.Option(
            metavar="DBM",
            help="Level at the receiver that a power meter showed; it turns dBFS into dBm.",
        ),
    ] = None,
) -> None:
    """Measure your radios.

    snr: noise, SNR measured in two ways, and the SNR at which each modulation and coding scheme
    starts to work. gain: what each gain and attenuation setting really does. cfo: how far the
    oscillators are apart. Each value is printed and kept with the receiver's serial number; later
    runs read it.

    Exit codes: 0 fine; 1 a bug; 2 a radio or the configuration is broken; 3 a value is out of its
    range (marked WRONG); 130 interrupted, what was measured is kept.
    """
    settings = read_settings(config, sets)
    from hil.lab.calibrate import calibrate_settings
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.at_work("opening the radios") as bar:
        done = calibrate_settings(
            settings,
            what,
            quick=quick,
            reference_dbm=reference_dbm,
            on_progress=bar.count,
            on_line=screen.say,
        )
    screen.file("records", done.file)
    screen.file("report", done.report)
    if done.flags:
        raise typer.Exit(MISSED)
