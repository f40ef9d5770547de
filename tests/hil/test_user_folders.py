"""Folders of the user, and what takes their place where nothing can be written."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from hil import user_folders


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Temporary files below the test's own folder."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A home below a file: not even root can make a folder there."""
    (tmp_path / "file").touch()
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))


@pytest.mark.parametrize(
    ("platform", "cache", "data"),
    [
        ("linux", ".cache", ".local/share"),
        ("darwin", "Library/Caches", "Library/Application Support"),
    ],
)
def test_folders_follow_the_platform(tmp_path, monkeypatch, platform, cache, data):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert user_folders.cache_folder() == tmp_path / cache / "hil-lora-testbed"
    assert user_folders.data_folder() == tmp_path / data / "hil-lora-testbed"
    assert user_folders.cache_folder().is_dir()


def test_the_users_choice_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert user_folders.cache_folder() == tmp_path / "mine" / "hil-lora-testbed"


def test_without_a_writable_home_a_temporary_folder_is_named_once(nowhere, temporary, capsys):
    folder = user_folders.cache_folder()
    assert folder.is_relative_to(temporary)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(folder) in line
    assert "XDG_CACHE_HOME" in line
    assert user_folders.cache_folder() == folder
    assert capsys.readouterr().err == ""
    assert Path(os.environ["XDG_CACHE_HOME"]) == folder.parent  # for child processes


def test_the_temporary_folder_is_found_again_and_private(nowhere, temporary, monkeypatch):
    first = user_folders.cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")  # as another process that begins anew
    assert user_folders.cache_folder() == first
    [private] = temporary.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_others_may_write_is_not_trusted(nowhere, temporary):
    lure = temporary / f"{user_folders.KIT}-{os.getuid()}"
    lure.mkdir()
    lure.chmod(0o777)
    assert not user_folders.cache_folder().is_relative_to(lure)
