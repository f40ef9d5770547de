"""`hil record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import DEFAULT_CONFIG, ConfigOption, SetOption, read_settings


def record(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to write; a folder without a recording.")
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    payload: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file to send; else random bytes.")
    ] = None,
    n_bytes: Annotated[
        int, typer.Option("--bytes", metavar="N", help="How many random bytes to send.")
    ] = 100_000,
) -> None:
    """Record the samples of one delivery.

    Measures the channel, sends one payload over the radio of the configuration, and writes down
    what the receiver heard. The
    recording is in SigMF format; `hil replay` decodes it again.

    Exit codes: 0 fine, also when the payload did not arrive; 1 a bug; 2 the bench or its
    configuration is broken; 130 interrupted.
    """
    settings = read_settings(config, sets)
    from hil.lab.recording_session import payload_of, random_payload, summary
    from hil.lab.recording_session import record as record_session
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    content = payload_of(payload) if payload else random_payload(settings, n_bytes)
    with screen.waits_shown():
        recorded = record_session(settings, out, content)
    screen.file("recording", recorded.path)
    screen.say(summary(recorded))
