"""Options that several verbs share, and how a verb reads its configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hil.settings import Settings

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The experiment: a TOML file, or the name of one that ships, such as pluto_pair.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key, for example --set radio.channel.snr_db=15. May be repeated.",
    ),
]
RoundsOption = Annotated[
    int | None,
    typer.Option("--rounds", metavar="N", help="Number of rounds; else the key run.rounds."),
]
RequireOption = Annotated[
    str,
    typer.Option(
        "--require",
        metavar="EXPR",
        help="What the run must reach, or the exit code is 3. Terms joined by commas, each "
        "installed, delivered, gain or score, then >= <= > < or ==, then a number. For installed "
        "and delivered a number below 1 is a share of the rounds, any other a number of rounds; "
        "gain and score are the last round's. For example delivered>=0.9,gain>0. "
        "'none' requires nothing.",
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the figures into this file, too."),
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", metavar="N", min=0, help="Number of processes; 0 = one a CPU core."),
]
QuickOption = Annotated[
    bool,
    typer.Option("--quick", help="A short form: it shows that everything works, no more."),
]

DEFAULT_CONFIG = Path("hil.toml")
CONTROLLER_CONFIG = Path("controller.toml")
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


def read_settings(config: Path, sets: Sequence[str] | None, **run_keys: object) -> Settings:
    """The settings of a verb.

    Args:
        config: a TOML file; where there is none, the name of a configuration that ships.
        sets: "table.key=value" each.
        run_keys: keys of [run] that an option of their own sets; None for one that was not given.
    Raises:
        ConfigError: a file, key or value is not allowed.
    """
    from hil.settings import load_settings

    given = [
        f"run.{key}={json.dumps(str(value) if isinstance(value, Path) else value)}"
        for key, value in run_keys.items()
        if value is not None
    ]
    settings = load_settings(config, [*(sets or []), *given])
    if config == DEFAULT_CONFIG and not config.exists():
        from hil.verbs.console.terminal import Screen

        Screen().wait("no hil.toml here: the experiment that ships is taken (hil init writes it)")
    return settings


def write_json(path: Path | None, figures: Any) -> None:
    """Write figures into the file of --json, if one was named.

    Raises:
        ConfigError: it cannot be written.
    """
    from hil.contract import ConfigError

    if path is None:
        return
    try:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}; name another file") from error
