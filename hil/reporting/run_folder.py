"""The folder of one run: what it was, and one flat line a round; readable while it grows and after
a crash.

In runs/<UTC stamp>-<name>/ lie config.toml, manifest.json, rounds.jsonl and log.txt.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import hil
from hil.contract import ConfigError
from hil.system.whole_file import written_whole

Value = str | int | float | bool
"""One entry of a round's row; a number that is not finite travels as JSON's null."""

WALL_CLOCK = "timing."
"""Keys with this prefix hold wall-clock figures: the only ones that may differ between two equal
runs."""

_CONFIG, _MANIFEST, _ROUNDS, _LOG = "config.toml", "manifest.json", "rounds.jsonl", "log.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOGGERS = ("hil", "cloud", "radio", "edge_device", "calibration")
_PACKAGES = (
    "numpy scipy pydantic paho-mqtt matplotlib torch transformers peft "
    "safetensors tokenizers "
    "llama-cpp-python gguf pyadi-iio pylibiio"
).split()


# ------------------------------------------------------------------------------------------ writing


class RunLog:
    """An open run folder; `with` decides its outcome and keeps log.txt.

    The outcome in manifest.json is "running" until the block is left: "finished" at its end,
    "interrupted" by Ctrl-C or a termination, "failed: ..." by any other exception (which goes on).
    A killed process leaves "running".

    Attributes:
        folder: where everything is written; other files of the run may be put there too.
    """

    def __init__(self, folder: Path, manifest: dict[str, object], started_utc: datetime) -> None:
        self.folder = folder
        self._manifest = manifest
        self._started_utc = started_utc
        self._started_s = time.monotonic()
        self._rounds = 0
        self._handler: logging.Handler | None = None
        self._levels: dict[str, int] = {}

    @classmethod
    def create(
        cls,
        out_dir: Path,
        name: str,
        *,
        config_toml: str,
        manifest: Mapping[str, object],
        now_utc: datetime,
    ) -> Self:
        """A new folder below `out_dir`, never one that exists: in the same second the next gets
        "-2", "-3", ...

        Args:
            out_dir: made when missing.
            name: letters, digits, dot, dash, underscore.
            config_toml: the resolved configuration, as text.
            manifest: what else describes the run; must turn into JSON. Reports look for "policy",
                "model", "seeds" (name → int) and "simulated", "emulated" (lists of sentences). The
                keys name, outcome, started_utc, finished_utc, rounds, git, platform and versions
                are the log's own.
            now_utc: the start, with a time zone.
        Raises:
            ConfigError: the name does not fit, or the folder cannot be made.
            ValueError: `now_utc` has no time zone.
        """
        if now_utc.tzinfo is None:
            raise ValueError("now_utc has no time zone; pass datetime.now(UTC)")
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"run name {name!r}: only letters, digits, '.', '_' and '-'; change [run] name"
            )
        started = now_utc.astimezone(UTC)
        own: dict[str, object] = {
            "name": name,
            "outcome": "running",
            "started_utc": _iso(started),
            "finished_utc": "",
            "rounds": 0,
            "git": git_state(Path(__file__)),
            "platform": {
                "system": platform.platform(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
            },
            "versions": _versions(),
        }
        try:
            folder = _new_folder(out_dir, f"{started:%Y%m%dT%H%M%SZ}-{name}")
            log = cls(folder, {**manifest, **own}, started)
            (folder / _CONFIG).write_text(config_toml, encoding="utf-8")
            (folder / _ROUNDS).touch()
            log._save_manifest()
        except OSError as error:
            raise ConfigError(
                f"run folder below {out_dir}: {error.strerror}; choose another [run] out"
            ) from error
        return log

    def describe(self, facts: Mapping[str, object]) -> None:
        """Add to the manifest what is known only now that the bench is open; see create for what
        reports look for."""
        self._manifest |= facts
        self._save_manifest()

    def write_round(self, row: Mapping[str, Value | None]) -> None:
        """Append one row and bring it to the disk before returning.

        Args:
            row: dotted key → text, number or truth value (NumPy scalars too). None, NaN and ±inf
                become null.
        Raises:
            TypeError: a value is a list, a mapping or some other object.
        """
        line = json.dumps(
            {key: _plain(key, value) for key, value in row.items()},
            allow_nan=False,
            ensure_ascii=False,
        )
        with (self.folder / _ROUNDS).open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._rounds += 1

    def __enter__(self) -> Self:
        handler = logging.FileHandler(self.folder / _LOG, encoding="utf-8")
        formatter = logging.Formatter(
            "%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
        self._handler = handler
        # Own messages from INFO up; of libraries only what the root logger lets through, as a rule
        # warnings.
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level or logging.INFO)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        outcome = _outcome(error)
        logger = logging.getLogger(__name__)
        if error is None:
            logger.info("run finished after %d rounds", self._rounds)
        else:
            logger.error("run %s after %d rounds", outcome, self._rounds, exc_info=error)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
        finished_utc = self._started_utc + timedelta(seconds=time.monotonic() - self._started_s)
        self._manifest |= {
            "outcome": outcome,
            "finished_utc": _iso(finished_utc),
            "rounds": self._rounds,
        }
        self._save_manifest()

    def _save_manifest(self) -> None:
        # A reader never meets half a manifest, and no power cut leaves one: without it the rounds
        # cannot be read.
        with written_whole(self.folder / _MANIFEST) as draft:
            draft.write_text(
                json.dumps(self._manifest, indent=2, default=str, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )


def _new_folder(out_dir: Path, stem: str) -> Path:
    out_dir.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = out_dir / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _plain(key: str, value: object) -> Value | None:
    """One value as JSON knows it, not finite ones as None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{key} = {type(value).__name__}: a row holds texts, numbers and truth values; use dotted "
        "keys"
    )


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    return "failed: " + " ".join(f"{type(error).__name__}: {error}".split())


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "hil-lora-testbed": hil.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional part that is not installed here
    return found


def git_state(source: Path) -> dict[str, object] | None:
    """Commit that `source` is tracked in, and whether tracked files or new Python files differ from
    it; else None."""
    program = shutil.which("git")
    if program is None:
        return None

    def git(*args: str) -> str:
        command = [program, "-C", str(source.parent), *args]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout

    try:
        git(
            "ls-files", "--error-unmatch", source.name
        )  # an installed copy may lie inside somebody else's checkout
        sha = git("rev-parse", "HEAD").strip()
        changes = git("status", "--porcelain", "--untracked-files=all").splitlines()
    except (subprocess.SubprocessError, OSError):
        return None
    return {
        "sha": sha,
        "dirty": any(not line.startswith("??") or line.endswith(".py") for line in changes),
    }


# ------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as it lies on the disk, finished or not.

    Attributes:
        folder: where it was read from.
        config_toml: the resolved configuration.
        manifest: see RunLog.create.
        rows: one flat row a round, oldest first. Null is read as NaN, in every column: it is only
            ever written for a number that is missing or not finite; a text that is missing is "".
        truncated: the last line was cut off and left out.
    """

    folder: Path
    config_toml: str
    manifest: Mapping[str, Any]
    rows: list[dict[str, Value]] = field(default_factory=list)
    truncated: bool = False

    @property
    def name(self) -> str:
        """Name of the run, without its stamp."""
        return str(self.manifest.get("name", self.folder.name))

    @property
    def outcome(self) -> str:
        """How it ended; "running" also for a run that was killed."""
        return str(self.manifest.get("outcome", "unknown"))

    def numbers(self, key: str) -> NDArray[np.float64]:
        """One column as float64[rounds], NaN where a row holds no number under this key."""
        return np.array([_number(row.get(key)) for row in self.rows], dtype=np.float64)

    def texts(self, key: str) -> list[str]:
        """One column as texts, "" where a row holds none under this key."""
        return [value if isinstance(value := row.get(key), str) else "" for row in self.rows]

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, in the order in which the rows bring them up."""
        found: dict[str, None] = {}
        for row in self.rows:
            found |= dict.fromkeys(key for key in row if key.startswith(prefix))
        return list(found)


def _number(value: Value | None) -> float:
    return math.nan if value is None or isinstance(value, str) else float(value)


def read_run(folder: Path) -> Run:
    """The run in `folder`, also one that is still running or was cut off in the middle of a line.

    Raises:
        ConfigError: this is not a run folder, or a line other than the last is damaged.
    """
    try:
        config_toml = (folder / _CONFIG).read_text(encoding="utf-8")
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        lines = (folder / _ROUNDS).read_bytes().split(b"\n")
    except OSError as error:
        missing = Path(error.filename or folder).name
        raise ConfigError(
            f"{folder} is not a run: {missing}: {error.strerror}; give a folder that hil run has "
            "made"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{folder / _MANIFEST}: damaged ({error}); the run cannot be read without it"
        ) from error
    if not isinstance(manifest, dict):
        raise ConfigError(
            f"{folder / _MANIFEST}: holds no table of keys; give a folder that hil run has made"
        )
    rows: list[dict[str, Value]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
        except ValueError as error:
            if number == len(lines):
                return Run(
                    folder=folder,
                    config_toml=config_toml,
                    manifest=manifest,
                    rows=rows,
                    truncated=True,
                )
            raise ConfigError(
                f"{folder / _ROUNDS} line {number}: damaged ({error}); remove the line to read "
                "the others"
            ) from error
    return Run(folder=folder, config_toml=config_toml, manifest=manifest, rows=rows)


def _row(line: bytes) -> dict[str, Value]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not a table of keys")
    return {key: math.nan if value is None else value for key, value in row.items()}


def comparable(rows: Iterable[Mapping[str, Value | None]]) -> list[dict[str, Value | None]]:
    """The rows without wall-clock figures, for `==` between two runs, read back or not.

    Numbers that are not finite become None, because NaN differs from itself.
    """
    return [
        {k: _plain(k, v) for k, v in row.items() if not k.startswith(WALL_CLOCK)} for row in rows
    ]
