"""Compiled kernels: announced, kept, and none the worse for a damaged or read-only disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = """
from radio.compiled import compiled

@compiled()
def add(a, b):
    return a + b

@compiled()
def twice(a):
    return add(a, a)
"""
ANNOUNCED = [
    "compiling the radio's kernels, once (about a minute, if idle)",
    "2 of the radio's kernels compiled in",
]


@pytest.fixture
def package(tmp_path):
    """A folder with kernels, beside the kit as a wheel would unpack it."""
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "kernels.py").write_text(KERNELS)
    parts = ("hil/__init__.py", "hil/user_folders.py", "radio/__init__.py", "radio/compiled.py")
    for part in parts:
        (site / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, site / part)
    return site


def lines_of_a_process(site, **env):
    """What a process that uses a kernel says on stderr."""
    code = "import kernels; assert kernels.twice(21) == 42"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(site), **env},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    return done.stderr.splitlines()


def announced(lines):
    assert all(len(line) <= 80 for line in lines)
    return [line.startswith(start) for line, start in zip(lines, ANNOUNCED, strict=True)] == [
        True,
        True,
    ]


def cache_files(folder):
    return sorted(folder.glob("kernels.*.nb[ic]"))


@pytest.mark.slow
def test_compilation_is_announced_and_kept_beside_the_source(package):
    assert announced(lines_of_a_process(package))
    assert len(cache_files(package / "__pycache__")) == 4  # an index and the code of either kernel
    assert lines_of_a_process(package) == []


def flip(content):
    """One wrong bit in the middle: it may still unpickle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.slow
def test_damaged_cache_files_are_deleted_and_compiled_again(package):
    lines_of_a_process(package)
    damages = {
        ".nbi": (lambda content: b"",),
        ".nbc": (lambda content: b"\x80garbage" * 20, flip),
    }
    for suffix, ways in damages.items():
        for damage in ways:
            for path in cache_files(package / "__pycache__"):
                if path.suffix == suffix:
                    path.write_bytes(damage(path.read_bytes()))
            assert announced(lines_of_a_process(package))
    assert lines_of_a_process(package) == []


@pytest.mark.slow
def test_without_a_folder_to_write_kernels_are_kept_in_a_temporary_one(package, tmp_path):
    (package / "__pycache__").write_text("in the way, as a read-only installation is")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}
    first, *rest = lines_of_a_process(package, TMPDIR=str(temporary), **nowhere)
    assert first.startswith("no folder for compiled kernels can be written: kept in")
    assert announced(rest)
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    again = lines_of_a_process(package, TMPDIR=str(temporary), **nowhere)
    assert again == [first]


@pytest.mark.slow
def test_a_temporary_folder_that_others_may_write_is_not_trusted(package, tmp_path):
    (package / "__pycache__").write_text("in the way")
    temporary = tmp_path / "tmp"
    planted = temporary / f"hil-kernels-{os.getuid()}"
    planted.mkdir(parents=True)
    planted.chmod(0o777)
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "TMPDIR": str(temporary)}
    lines_of_a_process(package, **nowhere)
    assert not list(planted.iterdir())
