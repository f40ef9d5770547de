"""`hil send`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    SetOption,
    read_settings,
    write_json,
)


def send(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="A folder that PEFT's save_pretrained wrote.")
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
    budget_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Cut the adapter to a payload of N bits, at codec.coefficient_bits; else all of "
            "it is sent, at 8 bits a coefficient.",
        ),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Send a LoRA adapter of your own to the edge.

    Nothing is trained. The adapter crosses the radio of the configuration once, the edge installs
    it on its quantised model and answers every score set with it and without. The airtime budget
    does not count, and the deadline is as long as the payload needs.

    Exit codes: 0 fine; 1 a bug; 2 no adapter for this base model, or the bench is broken; 3 it did
    not arrive, or the edge refused it; 130 interrupted.
    """
    settings = read_settings(config, sets)
    from hil.verbs.console.endings import MISSED
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    screen.wait("loading PyTorch and transformers ...")
    from hil.loop.send import score_table, summary
    from hil.loop.send import send as send_adapter

    with screen.waits_shown():
        sent = send_adapter(settings, adapter, budget_bits)
    for line in summary(sent):
        screen.say(line)
    screen.show(score_table(sent))
    write_json(json_path, sent.as_json())
    if not sent.installed:
        raise typer.Exit(MISSED)
