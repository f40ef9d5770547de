"""Configurations that ship, by name."""

from pathlib import Path

import pytest

from hil.contract import ConfigError
from hil.settings.loading import load_settings
from hil.settings.shipped import find_configuration, shipped_configurations

ROOT = Path(__file__).parents[3]


def test_hil_toml_and_every_file_of_configs_ship():
    expected = {"hil", *(path.stem for path in (ROOT / "configs").glob("*.toml"))}
    assert set(shipped_configurations()) == expected


@pytest.mark.parametrize("name", sorted(shipped_configurations()))
def test_every_one_is_valid(name):
    load_settings(Path(name))


def test_the_shipped_experiment_runs_where_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("hil.toml")) == load_settings(ROOT / "hil.toml")


def test_a_file_comes_before_what_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hil.toml").write_text("[run]\nname = 'mine'\n", encoding="utf-8")
    assert load_settings(Path("hil.toml")).run.name == "mine"


@pytest.mark.parametrize("given", ["pluto_pair", "pluto_pair.toml"])
def test_a_name_stands_for_its_file(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    assert find_configuration(Path(given)).name == "pluto_pair.toml"


@pytest.mark.parametrize("given", ["pluto_pear", "elsewhere/hil.toml"])
def test_what_is_nowhere_is_answered_by_what_ships(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"{given}: neither .* hil, .*pluto_pair"):
        find_configuration(Path(given))


def test_caches_are_the_users_unless_the_file_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    settings = load_settings(Path("hil"))
    kit = tmp_path / "hil-lora-testbed"
    assert settings.edge.cache_folder == kit / "edge"
    assert settings.streams.cache_folder == kit / "streams"
    assert settings.calibration.records_folder == tmp_path / "data/hil-lora-testbed/calibration"
    chosen = load_settings(
        Path("hil"), ["edge.cache=here", "streams.cache=there", "calibration.folder=records"]
    )
    assert chosen.edge.cache_folder == Path("here")
    assert chosen.streams.cache_folder == Path("there")
    assert chosen.calibration.records_folder == Path("records")
