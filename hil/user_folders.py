"""Where the kit keeps what it makes for this user: caches, which may be deleted, and records, which
may not.

On Linux the XDG folders (https://specifications.freedesktop.org/basedir-spec/latest/), on macOS
those of its Library. Standard library alone: the set-up of a clone asks here too.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

KIT: Final = "hil-lora-testbed"
"""Name of the kit's folder below the user's."""


def cache_folder() -> Path:
    """Folder for what can be made again: quantised models, trained streams, compiled kernels."""
    return _folder("XDG_CACHE_HOME", linux=".cache", macos="Library/Caches")


def data_folder() -> Path:
    """Folder for what cannot be made again: calibrations, and what an edge has installed."""
    return _folder("XDG_DATA_HOME", linux=".local/share", macos="Library/Application Support")


def _folder(variable: str, *, linux: str, macos: str) -> Path:
    """The kit's folder below the one that a variable names, or below the home; made if missing.

    Without a folder that can be written, a private one among the temporary files takes its place:
    one line says so, and the variable hands it on to child processes and to the libraries (numba
    and Hugging Face read XDG_CACHE_HOME, matplotlib MPLCONFIGDIR).
    """
    below = os.environ.get(variable) or os.path.expanduser(
        f"~/{macos if sys.platform == 'darwin' else linux}"
    )
    folder = Path(below) / KIT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        folder = private_temporary_folder(KIT) / variable.lower() / KIT
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder.parent)
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
        print(
            f"{below} cannot be written ({error.strerror}): {folder} takes its place; "
            f"set {variable} to choose another",
            file=sys.stderr,
        )
    return folder


def private_temporary_folder(name: str) -> Path:
    """A folder among the temporary files that only this user can write: the one of the last time,
    or a new one where that name belongs to somebody else.

    Args:
        name: begins the folder's own name.
    Raises:
        OSError: there is no place for temporary files.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        owned = folder.lstat()
        private = stat.S_ISDIR(owned.st_mode) and not owned.st_mode & 0o022
        if owned.st_uid != os.getuid() or not private:
            return Path(tempfile.mkdtemp(prefix=f"{name}-"))
    return folder
