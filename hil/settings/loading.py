"""hil.toml → validated settings.

Precedence: the defaults here < the file < `--set key=value`. Every key carries its unit. `kind`
picks an implementation, and its table holds only that kind's keys. An unknown key, a wrong type or
a value out of range is a ConfigError that names the key, the value, the limit and the nearest known
key. Relative paths start at the working directory.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hil.contract import ConfigError
from hil.settings.experiment import Settings
from hil.settings.shipped import find_configuration


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """The validated settings of a file, with `key=value` overrides applied.

    Args:
        path: a TOML file, or the name of a configuration that ships.
        overrides: "table.key=value"; the value is read as TOML, and as a plain string where it is
            not TOML.
    Raises:
        ConfigError: the file is missing or not TOML, or a key or value is not allowed.
    """
    path = find_configuration(path)
    data = read_toml(path, cure="name another file with --config")
    for override in overrides:
        _override(data, override)
    return parse_settings(data, source=str(path))


def read_toml(path: Path, *, cure: str) -> dict[str, Any]:
    """The content of a TOML file.

    Args:
        path: the file.
        cure: what to do where it cannot be read.
    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {cure}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error


def parse_settings(data: Mapping[str, Any], *, source: str) -> Settings:
    """Validated settings of a nested mapping. Raises ConfigError; `source` names the file in it."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        # A key that nobody knows explains the rest: name it first.
        first, *others = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{source}: {_explain(first, data)}{more}") from error


def to_toml(settings: Settings) -> str:
    """The resolved settings as a TOML file that `load_settings` reads back to the same."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write --set table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table: Any = data
    for depth, part in enumerate(parts[:-1]):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"--set {override}: {'.'.join(parts[: depth + 1])} is a value, not a table"
            )
    if parts[-1] == "kind" and table.get("kind", value) != value:
        table.clear()  # the keys of another kind would only be in the way
    table[parts[-1]] = value


def _explain(error: ErrorDetails, data: Mapping[str, Any]) -> str:
    """One line: key, value, limit, nearest known key."""
    path, table = _path_in(data, error["loc"])
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, _known_keys(Settings), n=1, cutoff=0.5)
        hint = f"; the nearest known key is {nearest[0]}" if nearest else ""
        if nearest == [key]:
            hint = "; another kind has it, so take the line out"
        kind = f" with kind = {table['kind']!r}" if path[-1] in table and "kind" in table else ""
        return f"unknown key {key}{kind}{hint}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        expected = (error.get("ctx") or {}).get("expected_tags", "")
        return f"{key}.kind = {table.get('kind')!r}: must be one of {expected}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _path_in(
    data: Mapping[str, Any], location: tuple[int | str, ...]
) -> tuple[list[str], Mapping[str, Any]]:
    """A pydantic location without the tags of unions, and the table that its last key stands in."""
    path: list[str] = []
    here: Any = data
    table = data
    for i, part in enumerate(location):
        if isinstance(here, Mapping):
            if part not in here and i < len(location) - 1:
                continue  # the tag of a union is not a key of the file
            table = here
            here = here.get(str(part))
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part]
        path.append(str(part))
    return path, here if isinstance(here, Mapping) and "kind" in here else table


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        for nested in _tables_in(info.annotation):
            keys += _known_keys(nested, f"{prefix}{name}.")
    return keys


def _tables_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    tables: list[type[BaseModel]] = []
    for part in getattr(annotation, "__args__", ()):
        tables += _tables_in(part)
    return tables
