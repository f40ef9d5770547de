"""`hil init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder for hil.toml; made if it is missing.")
    ] = Path(),
    name: Annotated[
        str, typer.Option("--from", metavar="NAME", help="The configuration that is copied.")
    ] = "hil",
) -> None:
    """Write hil.toml, an experiment to change.

    It is the experiment that ships, with a comment at every key. `hil run` in its folder takes it.
    Nothing is overwritten. --from takes the name of another configuration that ships, for example
    pluto_pair.

    Exit codes: 0 fine; 1 a bug; 2 a hil.toml is there already, or the folder cannot be written.
    """
    from hil.contract import ConfigError
    from hil.settings.shipped import shipped_configuration
    from hil.verbs.console.terminal import Screen

    source = shipped_configuration(name)
    target = folder / "hil.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise ConfigError(
            f"{target} is there already; move it away, or name another folder"
        ) from error
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}; name another folder") from error
    Screen().file("written", target)
