"""Files that appear whole: what is on disk at every moment that power may fail at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hil.system.whole_file import written_whole


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), written_whole(target) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_is_flushed_before_it_is_moved_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that reaches the disk before the data would leave an empty file."""
    target, done = tmp_path / "file", []
    flush, replace = os.fsync, Path.replace

    def recorded_flush(descriptor: int) -> None:
        done.append(("flushed", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        flush(descriptor)

    def recorded_replace(source: Path, destination: Path) -> Path:
        done.append(("moved", source.stat().st_ino, source.stat().st_size))
        return replace(source, destination)

    monkeypatch.setattr(os, "fsync", recorded_flush)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    with written_whole(target) as temporary:
        temporary.write_text("new")
    file, folder = target.stat().st_ino, tmp_path.stat().st_ino
    assert done[:2] == [("flushed", file, 3), ("moved", file, 3)]
    assert [event[:2] for event in done[2:]] == [("flushed", folder)]
