"""matplotlib's import, made safe: import this module before any part of matplotlib.

A variable MPLBACKEND that was inherited from a notebook may name a backend that is not installed
here, and matplotlib then fails while it is imported. Figures of the kit are drawn without any
backend, so the variable is kept from it. Without a home folder that can be written to, matplotlib
gets a temporary one.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

_HOMES: Final = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))


def _import() -> None:
    backend = os.environ.pop("MPLBACKEND", None)
    if not _writable():
        folder = tempfile.mkdtemp(prefix="hil-matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["MPLCONFIGDIR"] = folder
        logging.getLogger(__name__).warning(
            "matplotlib: no home folder that can be written to; %s for now. Set MPLCONFIGDIR to "
            "a folder of yours to keep its font cache",
            folder,
        )
    import matplotlib

    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        try:
            matplotlib.rcParams["backend"] = backend
        except ValueError:
            logging.getLogger(__name__).debug("MPLBACKEND=%s is not installed", backend)


def _writable() -> bool:
    """Whether matplotlib's folders of settings and caches can be made and written to."""
    given = os.environ.get("MPLCONFIGDIR")
    try:
        folders = (
            [Path(given)]
            if given
            else [
                Path(os.environ.get(key) or Path.home() / name) / "matplotlib"
                for key, name in _HOMES
            ]
        )
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home at all
        return False
    return all(os.access(folder, os.W_OK) for folder in folders)


if "matplotlib" not in sys.modules:
    _import()
