"""Verbs called in this process, which has the large libraries loaded, and one short run for all."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hil import cli

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Called:
    """What a verb printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The line that it ended with."""
        return self.err.splitlines()[-1]


def _call(*arguments: object, encoding: str = "utf-8") -> Called:
    """A verb with its output on a pipe."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    code = _exit_code(arguments, *streams)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return Called(code, *texts)


def _call_on_terminal(*arguments: object) -> tuple[int, str]:
    """A verb with its output on a terminal of 80 columns: exit code, and all that was written."""
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end was closed
            while chunk := os.read(master, 65536):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8") as terminal:
        code = _exit_code(arguments, terminal, terminal)
    reader.join()
    os.close(master)
    return code, b"".join(chunks).decode()


def _exit_code(arguments: tuple[object, ...], out: io.TextIOBase, err: io.TextIOBase) -> int:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    argv, sys.argv = sys.argv, ["hil", *map(str, arguments)]
    try:
        with (
            contextlib.redirect_stdout(out),  # type: ignore[type-var]
            contextlib.redirect_stderr(err),  # type: ignore[type-var]
            pytest.raises(SystemExit) as ended,
        ):
            cli.main()
    finally:
        sys.argv = argv
        for number, handler in before.items():
            signal.signal(number, handler)
    return int(ended.value.code or 0)


def _sets(overrides: list[str]) -> list[str]:
    """--set options."""
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture
def call() -> Callable[..., Called]:
    """Calls a verb with its output on a pipe; encoding= is the pipe's."""
    return _call


@pytest.fixture
def call_on_terminal() -> Callable[..., tuple[int, str]]:
    """Calls a verb with its output on a terminal of 80 columns."""
    return _call_on_terminal


@pytest.fixture
def small(small_overrides: Callable[[Path], list[str]]) -> Callable[..., list[str]]:
    """--set options of a run of seconds, and further overrides."""
    return lambda out, *more: _sets([*small_overrides(out), *more])


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hil.toml lies, on a console that says nothing about its width."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("COLUMNS", raising=False)


@dataclass(frozen=True)
class ShortRun:
    """A run of two rounds, recorded, and what its verb printed on a pipe."""

    folder: Path
    called: Called


@pytest.fixture(scope="session")
def short_run(
    small_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> ShortRun:
    """One run for all tests that only look at it."""
    out = tmp_path_factory.mktemp("r")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        called = _call(
            "run", "--rounds", 2, "--out", out, *_sets([*small_overrides(out), "radio.record=true"])
        )
    finally:
        os.chdir(before)
    assert called.code == 0, called.err
    [folder] = out.iterdir()
    return ShortRun(folder, called)
