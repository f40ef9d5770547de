"""hil init: an experiment written down."""

from pathlib import Path

import pytest

from hil.settings import load_settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def init(call):
    return lambda *arguments: call("init", *arguments)


def test_what_is_written_is_the_shipped_experiment_with_its_comments(init, tmp_path):
    done = init(tmp_path / "new")
    assert done.code == 0, done.err
    assert str(tmp_path / "new" / "hil.toml") in done.out.replace("\n", "")
    written = tmp_path / "new" / "hil.toml"
    assert written.read_text(encoding="utf-8") == (ROOT / "hil.toml").read_text(encoding="utf-8")


def test_here_is_the_default_folder(init, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert init().code == 0
    assert (tmp_path / "hil.toml").is_file()


def test_another_configuration_can_be_begun_from(init, tmp_path):
    init(tmp_path, "--from", "pluto_pair")
    assert load_settings(tmp_path / "hil.toml").run.name == "pluto-pair"


def test_nothing_is_overwritten(init, tmp_path):
    (tmp_path / "hil.toml").write_text("mine", encoding="utf-8")
    done = init(tmp_path)
    assert done.code == 2
    assert "is there already" in done.error
    assert (tmp_path / "hil.toml").read_text(encoding="utf-8") == "mine"


def test_an_unknown_name_is_answered_by_what_ships(init, tmp_path):
    done = init(tmp_path, "--from", "pluto")
    assert done.code == 2
    assert "pluto_pair" in done.error
    assert not (tmp_path / "hil.toml").exists()


def test_a_folder_that_cannot_be_made_is_named(init, tmp_path):
    (tmp_path / "file").touch()
    done = init(tmp_path / "file")
    assert done.code == 2
    assert "file" in done.error
