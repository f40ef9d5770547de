"""`hil demo-pluto`."""

from __future__ import annotations

from pathlib import Path

import typer

from hil.verbs.console.options import ConfigOption, RoundsOption, SetOption, read_settings


def demo_pluto(
    config: ConfigOption = Path("demo_pluto.toml"),
    sets: SetOption = None,
    rounds: RoundsOption = None,
) -> None:
    """Run the experiment over two Plutos in software.

    Starts an MQTT broker, two emulated Plutos, `hil edge` and `hil cloud` as processes of their
    own, runs all rounds, and compares the radios with the plain simulation. It needs Mosquitto
    and libiio.

    Exit codes: 0 fine; 1 a bug; 2 a program is missing or broken; 3 an update did not arrive;
    130 interrupted.
    """
    settings = read_settings(config, sets, rounds=rounds)
    from hil.lab.demo import demo_pluto as demonstrate
    from hil.lab.demo import table_of
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    with screen.waits_shown():
        demo = demonstrate(settings, lambda line: screen.show_lines([line]))
    screen.show(table_of(demo))
    for remark in demo.remarks:
        screen.say(f"note: {remark}")
    for complaint in demo.complaints:
        screen.say(f"missed: {complaint}")
    if demo.complaints:
        raise typer.Exit(MISSED)
