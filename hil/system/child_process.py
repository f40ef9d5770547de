"""A module of this program in a process of its own, asked over a pipe; what it holds cannot take
its parent with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

import hil
from hil.contract import DeviceError
from hil.system.pipe import Pipe

_LAST_WORDS_BYTES: Final = 1000


class ChildProcess:
    """A started `python -m module`.

    Attributes:
        popen: the process; in a group of its own, since Ctrl-C in a terminal is for the parent.
        pipe: messages to its standard input, and from its standard output.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            module: name of a module of this program.
            environment: variables beside the parent's own; BLAS gets one thread.
        """
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        root = str(Path(hil.__file__).resolve().parent.parent)
        python_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env={
                **os.environ,
                "PYTHONPATH": python_path,
                "OPENBLAS_NUM_THREADS": "1",
                **environment,
            },
            process_group=0,
        )
        if self.popen.stdin is None or self.popen.stdout is None:
            raise DeviceError(f"the process of {module} has no pipes")
        self.pipe = Pipe(self.popen.stdout.fileno(), self.popen.stdin.fileno())

    @property
    def freed(self) -> bool:
        """Whether free() was called."""
        return self._stderr.closed

    def close_pipe(self) -> None:
        """Hang up: a healthy child ends by that. May be called again."""
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()

    def free(self) -> str:
        """Free what belongs to a process that has ended; how it ended, and its last words."""
        self.close_pipe()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        words = self._stderr.read().decode(errors="replace").strip().splitlines()
        self._stderr.close()
        code = self.popen.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{how}, {words[-1]}" if words else how
