"""`hil cloud`."""

from __future__ import annotations

from hil.verbs.console.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    RequireOption,
    RoundsOption,
    SetOption,
    read_settings,
)


def cloud(
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    rounds: RoundsOption = None,
    require: RequireOption = "none",
) -> None:
    """Run the cloud's half; `hil edge` is the other one.

    The halves may be on two machines. Only the radio and the MQTT broker of the configuration
    join them, so both need the same [radio] and [control] tables.

    Exit codes: 0 to 3 and 130 as of hil run, but nothing is required unless --require says so.
    """
    from hil.reporting.verdict import parse_requirement

    required = parse_requirement(require)
    settings = read_settings(config, sets, rounds=rounds)
    from hil.verbs.console.terminal import Screen

    Screen().wait("loading PyTorch and transformers ...")
    from hil.loop.cloud_process import run_cloud
    from hil.verbs.console.watched_run import run_watched

    run_watched(run_cloud, settings, required)
