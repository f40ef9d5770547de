"""Kernels compiled to machine code by numba, kept on disk, announced while they compile.

A kernel freezes the module constants it reads and the kernels it calls, but numba's cache looks
only at the file the kernel is written in: keep both in the kernel's own file.

Numba trusts its cache: a file that a full disk or a power cut has damaged ends in a traceback, and
so does an installation where no folder can be written. Here the first is deleted and compiled
again, and the second falls back to a temporary folder.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import numba
from numba.core import caching, config, event

from hil.user_folders import private_temporary_folder

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_KERNELS: Final[set[Callable[..., Any]]] = set()
"""The functions that compiled() was asked for: other packages' kernels are not announced."""
# half of numba has types
_numba_caching: Final[Any] = caching
_numba_config: Final[Any] = config
_CACHE_DIR: Final = "NUMBA_CACHE_DIR"
_DIGEST_BYTES: Final = 32
_QUIET_S: Final = 3.0
"""Without a kernel for so long, compiling is over."""


def compiled(
    **options: Any,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """A decorator that compiles a function at its first call, for good: the machine code is kept on
    disk.

    Without the interpreter's lock, so threads run it side by side; division by zero gives inf or
    NaN as in numpy.

    Args:
        options: passed on to numba.njit, before these defaults.
    """
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        _KERNELS.add(function)
        kernel: Any = numba.njit(**settings)(function)
        if hasattr(kernel, "enable_caching"):  # NUMBA_DISABLE_JIT leaves plain Python
            # what enable_caching() does, with a cache that survives damage
            kernel._cache = _cache_of(function)
        result: Callable[_Arguments, _Result] = kernel
        return result

    return decorate


# ------------------------------------------------------------------------------------------------
# the cache on disk


class _CheckedFile(_numba_caching.IndexDataCacheFile):  # type: ignore[misc]  # it has type Any
    """Numba's index and data files, each with its SHA-256 behind what numba reads."""

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())

    def _load_index(self) -> Any:
        _check(Path(self._index_path))
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        _check(Path(self._data_path(name)))
        return super()._load_data(name)


def _check(path: Path) -> None:
    """Return if the file is whole or not there; raise ValueError if it is damaged."""
    content = path.read_bytes() if path.exists() else None
    if content is None:
        return
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError(f"{path} is damaged")


class _LastingCache(_numba_caching.FunctionCache):  # type: ignore[misc]  # it has type Any
    """A kernel's cache that deletes what it cannot read and does without what it cannot write."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for a signature, or None: numba then compiles it."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged file makes pickle or LLVM raise
            self._delete()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code for a signature, if the disk takes it."""
        try:
            super().save_overload(sig, data)
        except (OSError, ValueError):  # full, or damaged since it was read
            self._delete()

    def _delete(self) -> None:
        for path in Path(self._cache_path).glob(f"{self._impl.filename_base}.*"):
            with suppress(OSError):
                path.unlink()


def _cache_of(function: Callable[..., Any]) -> Any:
    """A cache beside the source, else in the user's cache folder, else in a temporary one, else
    none."""
    try:
        return _LastingCache(function)
    except RuntimeError:  # numba found no folder that can be written
        folder = _temporary_folder()
    if folder is None:
        return _numba_caching.NullCache()
    # the environment, so that child processes share the folder and say nothing
    os.environ[_CACHE_DIR] = _numba_config.CACHE_DIR = str(folder)
    try:
        return _LastingCache(function)
    except RuntimeError:
        return _numba_caching.NullCache()


_fallback: list[Path | None] = []


def _temporary_folder() -> Path | None:
    """A temporary folder of this user for the machine code, said once; None if there is none.

    Nobody else may write to it: what lies in a cache is run.
    """
    if not _fallback:
        try:
            folder = private_temporary_folder("hil-kernels")
            where = f"kept in {folder}"
        except OSError:
            folder, where = None, "compiled in every process"
        _fallback.append(folder)
        print(
            f"no folder for compiled kernels can be written: {where}", file=sys.stderr, flush=True
        )
    return _fallback[0]


# ------------------------------------------------------------------------------------------------
# progress


class _Announcer(event.Listener):
    """Says on stderr that kernels are compiled: one updated line on a terminal, elsewhere a line at
    the start and one at the end. Numba tells it of cache misses only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._ended_s = 0.0
        self._open = 0
        self._done = 0
        self._line = _Line()

    def on_start(self, compilation: Any) -> None:
        """Count a kernel that is compiled from now on."""
        if not _is_ours(compilation):
            return
        with self._lock:
            self._open += 1
            if self._began_s is not None:
                return
            self._began_s, self._done, self._line = time.monotonic(), 0, _Line()
        if not self._line.redrawn:
            self._line.say("compiling the radio's kernels, once (about a minute, if idle)")
        threading.Thread(target=self._watch, daemon=True).start()

    def on_end(self, compilation: Any) -> None:
        """Count a kernel that is ready."""
        if _is_ours(compilation):
            with self._lock:
                self._open -= 1
                self._done += 1
                self._ended_s = time.monotonic()

    def _watch(self) -> None:
        while True:
            with self._lock:
                if self._began_s is None:
                    return
                elapsed_s, done = time.monotonic() - self._began_s, self._done
                over = self._open == 0 and time.monotonic() - self._ended_s > _QUIET_S
            if over:
                self.finish()
                return
            self._line.draw(f"compiling the radio's kernels, once: {done} ready, {elapsed_s:.0f} s")
            time.sleep(0.5)

    def finish(self) -> None:
        """Say that compiling is over, if it is and was not said."""
        with self._lock:
            if self._began_s is None or self._open:
                return
            took_s, done, self._began_s = self._ended_s - self._began_s, self._done, None
        self._line.draw("")
        self._line.say(f"{done} of the radio's kernels compiled in {took_s:.0f} s")


class _Line:
    """A line on stderr as it is now, whoever puts something else in its place meanwhile.

    Attributes:
        redrawn: True where it can be drawn over: on a terminal, unless a progress bar has put
            something of its own in place of stderr.
    """

    def __init__(self) -> None:
        self._stream, terminal = sys.stderr, sys.__stderr__
        self.redrawn = terminal is not None and self._stream is terminal and terminal.isatty()

    def draw(self, text: str) -> None:
        """Draw over the line, where that can be done."""
        if self.redrawn:
            self._write(f"\r{text:<79}\r")

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):  # closed meanwhile
                self._stream.write(text)
                self._stream.flush()


def _is_ours(compilation: Any) -> bool:
    return compilation.data["dispatcher"].py_func in _KERNELS


_announcer: Final = _Announcer()
event.register("numba:compile", _announcer)  # type: ignore[no-untyped-call]  # half of numba has types
atexit.register(_announcer.finish)
