"""Configurations that ship with the kit: hil.toml, the experiment of `make demo`, and configs/."""

from __future__ import annotations

from pathlib import Path

import hil
from hil.contract import ConfigError

_PACKAGE = Path(hil.__file__).resolve().parent


def shipped_configurations() -> dict[str, Path]:
    """The files that ship, by name: "hil" is the experiment that runs where nothing else is said.

    A wheel carries them in hil/configurations; in a clone they lie beside the packages.
    """
    carried = _PACKAGE / "configurations"
    folders = [carried] if carried.is_dir() else [_PACKAGE.parent, _PACKAGE.parent / "configs"]
    names = {}
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            if path.name != "pyproject.toml":
                names[path.stem] = path
    return names


def find_configuration(path: Path) -> Path:
    """The file at `path`; where there is none, the shipped configuration of that name.

    Args:
        path: a TOML file, or the bare name of what ships, with or without ".toml".
    Raises:
        ConfigError: neither is there; it lists what ships.
    """
    return path if path.is_file() else shipped_configuration(str(path))


def shipped_configuration(name: str) -> Path:
    """The file that ships under a name, with or without ".toml".

    Raises:
        ConfigError: nothing ships under it; the message lists what does.
    """
    shipped = shipped_configurations()
    if name.removesuffix(".toml") not in shipped:
        raise ConfigError(
            f"{name}: neither a file nor a configuration that ships; "
            f"name a file, or one of {', '.join(shipped)}"
        )
    return shipped[name.removesuffix(".toml")]
