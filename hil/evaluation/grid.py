"""Who is compared and on which air: contestants, channels, and the settings of one cell of the
grid."""

from __future__ import annotations

import glob
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cloud.policies
from hil.contract import ConfigError
from hil.radio_kinds.conditions import conditions
from hil.settings import Settings, parse_settings, read_toml
from hil.settings.policy import (
    AirLlmPolicy,
    AnyPolicy,
    FilePolicy,
    Method,
    OursPolicy,
    PpoPolicy,
    training_of,
)

Scope = Literal["round", "episode"]
SCOPES: Final[tuple[Scope, ...]] = ("round", "episode")

_SHIPPED_WEIGHTS: Final = Path(cloud.policies.__path__[0]) / "weights"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A policy that is compared, in one or several copies that differ by their seed.

    Attributes:
        name: the name in tables and plots.
        members: one [policy] table a seed; member i has policy seed i.
    """

    name: str
    members: tuple[AnyPolicy, ...]

    @property
    def training(self) -> tuple[Method, int | None]:
        """How the streams that it plans on are trained: the method, and its average rank where it
        has one."""
        return training_of(self.members[0])

    def fingerprint(self) -> str:
        """Hash of all that decides what it does: its settings, and the bytes of the files they
        name.

        Raises:
            ConfigError: a file that it needs is not there.
        """
        digest = hashlib.sha256()
        for member in self.members:
            digest.update(member.model_dump_json().encode())
            for file in _files(member):
                try:
                    digest.update(file.read_bytes())
                except OSError as error:
                    raise ConfigError(
                        f"policy {self.name!r}: {file}: {error.strerror}; name another file"
                    ) from error
        return digest.hexdigest()


def _files(policy: AnyPolicy) -> list[Path]:
    match policy:
        case FilePolicy(path=path):
            return [Path(path.rpartition(":")[0])]
        case (
            PpoPolicy(weights=weights) | AirLlmPolicy(weights=weights) | OursPolicy(weights=weights)
        ):
            return [Path(weights)] if weights else sorted(_SHIPPED_WEIGHTS.glob("*.safetensors"))
        case _:
            return []


@dataclass(frozen=True, slots=True)
class Channel:
    """An air: settings that differ from the experiment's own, as dotted key → value of hil.toml."""

    name: str
    overrides: Mapping[str, Any]


def _snr(name: str, trajectory: object) -> Channel:
    return Channel(name, {"radio.channel.snr_db": trajectory})


SNR_LEVELS_DB: Final = (-5.0, 0.0, 5.0, 10.0, 15.0)
"""SNRs of the constant channels, those of arXiv 2507.11515."""

VARYING: Final = _snr(
    "varying",
    {
        "kind": "gauss_markov",
        "mean": 5.0,
        "std": 6.0,
        "correlation": 0.7,
        "low": -5.0,
        "high": 15.0,
    },
)
INDEPENDENT: Final = _snr("independent", {"kind": "independent", "values": list(SNR_LEVELS_DB)})

CHANNELS: Final[Mapping[str, Channel]] = {
    channel.name: channel
    for channel in (*(_snr(f"{snr:g} dB", snr) for snr in SNR_LEVELS_DB), VARYING, INDEPENDENT)
}
"""The channels of a full evaluation; the airtime share moves as [radio] has it in every one of
them."""


FIRST_STREAM: Final = 2000
"""Text seed of the first stream that is reported on; what is learnt from and selected on lies
below."""

POLICIES: Final = (
    "largest",
    "fixed 1 = fixed,rank=1",
    "fixed 4 = fixed,rank=4",
    "fixed 8 = fixed,rank=8",
    "random = random,seed=[0,1,2,3,4]",
    "adalora 2 = adalora,rank=2",
    "adalora 4 = adalora,rank=4",
    "eva 4 = eva,rank=4",
    "greedy",
    "greedy per parameter = greedy,per=parameter",
    "greedy by K-FAC = greedy,per=kfac",
    "waterfill",
    "price 0.01 = price,nats_per_mbit=0.01",
    "price 0.1 = price,nats_per_mbit=0.1",
    "price 0.1, feedback = price,nats_per_mbit=0.1,feedback=true",
    "ppo",
    "airllm as published = airllm,project=false",
    "airllm",
    "ours",
    "ours, learnt pace = ours,pace=learnt",
)
"""Contestants of a full evaluation, as `contestant` reads them; the first is the reference."""

QUICK_POLICIES: Final = (
    "largest",
    "fixed 4 = fixed,rank=4",
    "greedy by K-FAC = greedy,per=kfac",
    "ours",
)
QUICK_CHANNELS: Final = ("0 dB", "varying")


EVALUATED: Final = ("snr_db", "interferer")
"""Keys of [radio.channel] that an evaluation works by."""


def channels(names: Sequence[str], known: Mapping[str, Channel] = CHANNELS) -> list[Channel]:
    """Channels by their names. Raises ConfigError for a name that is not there."""
    for name in names:
        if name not in known:
            raise ConfigError(f"channel {name!r} is unknown; choose from {', '.join(known)}")
    return [known[name] for name in names]


def scenarios(path: Path, settings: Settings) -> dict[str, Channel]:
    """Channels of a scenario file, by name: TOML, a table for each with keys of [radio.channel].

    Args:
        path: the file.
        settings: the experiment that they change.
    Raises:
        ConfigError: the file cannot be read, or a channel in it cannot be.
    """
    data = read_toml(path, cure="name a scenario file")
    found: dict[str, Channel] = {}
    for name, table in data.items():
        if not isinstance(table, dict) or not table:
            raise ConfigError(f"{path}: {name} must be a table; write [{name}] above its keys")
        for key in table:
            if key not in EVALUATED:
                raise ConfigError(
                    f"{path}: [{name}] {key}: an evaluation works by {' and '.join(EVALUATED)} "
                    "alone; leave it out, or try this channel with hil run"
                )
        found[name] = Channel(name, {f"radio.channel.{key}": each for key, each in table.items()})
        radio = cell_settings(settings, found[name], SCOPES[0]).simulated_radio
        conditions(radio, settings.streams.rounds, 0)  # files are read before streams are trained
    if not found:
        raise ConfigError(f"{path}: no channel in it; write [NAME] and below it snr_db = ...")
    return found


def contestant(text: str) -> Contestant:
    """A contestant as it is written on a command line.

    "kind", or "kind,key=value,..." with the keys of that kind's [policy] table;
    "path/to/file.py:ClassName" is a policy of your own, and "name = ..." before either renames it.
    A `weights` with * or ? in it stands for all files that match, in the order of their names, and
    a `seed` may be a list: one member each.

    Examples: "largest", "fixed,rank=4", "rival = my_policy.py:Mine", "ppo,weights=ppo-*.pt",
    "random,seed=[0,1]".

    Raises:
        ConfigError: it cannot be read as one, or no file matches.
    """
    name, named, rest = text.partition(" = ")
    name, rest = (name.strip(), rest.strip()) if named else ("", text.strip())
    kind, *pairs = _split(rest)
    if ".py:" in kind:
        table: dict[str, Any] = {"kind": "file", "path": kind}
    else:
        table = {"kind": kind}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"policy {text!r}: {pair!r} has no value; write {pair}=...")
        table[key.strip()] = _value(value.strip())
    members = tuple(_parsed(text, member) for member in _members(text, table))
    return Contestant(name or ", ".join([kind, *pairs]), members)


def _split(text: str) -> list[str]:
    """The parts between commas; a comma inside brackets separates nothing."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _members(text: str, table: dict[str, Any]) -> list[dict[str, Any]]:
    weights, seed = table.get("weights", ""), table.get("seed")
    if isinstance(weights, str) and set("*?") & set(weights):
        found = sorted(glob.glob(weights, recursive=True))
        if not found:
            raise ConfigError(f"policy {text!r}: no file matches {weights}")
        return [{**table, "weights": one} for one in found]
    if isinstance(seed, list):
        return [{**table, "seed": one} for one in seed]
    return [table]


def _parsed(text: str, table: Mapping[str, Any]) -> AnyPolicy:
    # The experiment's own parser knows the limits and names the nearest key.
    return parse_settings({"policy": table}, source=f"policy {text!r}").policy


def cell_settings(settings: Settings, channel: Channel, scope: Scope) -> Settings:
    """The experiment's settings on that channel and with that scope of the budget. Raises
    ConfigError."""
    data = settings.model_dump()
    for key, value in {**channel.overrides, "budget.scope": scope}.items():
        *tables, last = key.split(".")
        table = data
        for name in tables:
            table = table.get(name, {})
        if last not in table:
            raise ConfigError(f"channel {channel.name!r}: unknown key {key}")
        table[last] = value
    return parse_settings(data, source=f"channel {channel.name!r}")


def fingerprint(settings: Settings, *parts: object) -> str:
    """16 hex digits of everything in the settings that decides what a plan comes to, and of
    `parts`.

    What a run is called, where it is kept and how the control channel is reached is left out.
    """
    relevant = settings.model_dump(mode="json", exclude={"run", "control", "policy"})
    text = json.dumps([relevant, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
