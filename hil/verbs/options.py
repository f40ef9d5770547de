"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="The experiment, a TOML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; repeatable.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the figures into this file, too.")
]

WorkersOption = Annotated[int, typer.Option(min=0, help="Processes; 0 = one a core.")]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A short form, minutes: few and short streams.")
]

DEFAULT_CONFIG = Path("hil.toml")
CONTROLLER_CONFIG = Path("configs/controller.toml")
QUICK_STREAMS = (
    "streams.train=2",
    "streams.select=1",
    "streams.report=2",
    "streams.seeds=1",
    "streams.rounds=3",
    "streams.steps=20",
    "streams.items=24",
    'streams.domains=["jargon40", "jargon150"]',
)
