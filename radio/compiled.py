"""Kernels compiled to machine code by numba, kept on disk, announced once.

A kernel freezes the module constants it reads and the kernels it calls, but numba's cache looks
only at the file the kernel is written in: keep both in the kernel's own file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import event

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_PACKAGE = __name__.partition(".")[0] + "."


class _Announcer(event.Listener):
    """Says once per process that a kernel of this package is being compiled; numba tells it of
    cache misses only."""

    def __init__(self) -> None:
        self._silent_yet = True

    def on_start(self, compilation: Any) -> None:
        kernel = compilation.data["dispatcher"].py_func
        if self._silent_yet and kernel.__module__.startswith(_PACKAGE):
            self._silent_yet = False
            print(
                "compiling the radio's kernels, once (less than a minute)",
                file=sys.stderr,
                flush=True,
            )

    def on_end(self, compilation: Any) -> None:
        """Nothing to say: numba demands the method."""


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]  # half of numba has types


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
    settings: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        kernel: Callable[_Arguments, _Result] = numba.njit(**settings)(function)
        return kernel

    return decorate
