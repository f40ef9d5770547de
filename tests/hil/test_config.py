"""hil.toml: precedence, the way back, and one-line errors."""

from pathlib import Path

import pytest

from hil.config import Constant, Settings, Steps, load_settings, parse_settings, to_toml
from hil.contract import ConfigError
from hil.policy_settings import FixedPolicy

SHIPPED = Path(__file__).parents[2] / "hil.toml"


def test_file_and_overrides_have_precedence_over_defaults(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[run]\nrounds = 3\nseed = 5\n")
    settings = load_settings(path, ["run.rounds=4", "text.stream=['known']", "control.device=bench-2"])
    assert (settings.run.rounds, settings.run.seed, settings.run.name) == (4, 5, Settings().run.name)
    assert settings.text.stream == ["known"]
    assert settings.control.device == "bench-2"


def test_a_number_is_a_constant_trajectory():
    radio = {"channel": {"snr_db": -10}, "airtime_share": {"kind": "steps", "values": [1.0, 0.5]}}
    settings = parse_settings({"radio": radio}, source="x")
    assert settings.radio.channel.snr_db == Constant(value=-10.0)
    assert settings.radio.airtime_share == Steps(kind="steps", values=[1.0, 0.5])


def test_another_kind_drops_the_keys_of_the_old_one(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('[text]\nkind = "default"\ndwell = 3\n')
    assert load_settings(path, ["text.kind=file", "text.path=a.tsv"]).text.kind == "file"
    assert load_settings(path, ["policy.kind=fixed", "policy.rank=4"]).policy == FixedPolicy(kind="fixed", rank=4)


@pytest.mark.parametrize("sets", [[], ["policy.kind=fixed", "policy.rank=2", "text.kind=file", "text.path=a b.csv"]])
def test_resolved_settings_can_be_fed_back(tmp_path, sets):
    settings = load_settings(SHIPPED, sets)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(settings))
    assert load_settings(path) == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.ruonds=3", r"unknown key run\.ruonds; the nearest known key is run\.rounds"),
        ("radoi.kind=loopback", r"unknown key radoi; the nearest known key is radio"),
        ("radio.channel.snr=3", r"unknown key radio\.channel\.snr; the nearest known key is radio\.channel\.snr_db"),
        ("policy.rank=3", r"unknown key policy\.rank with kind = 'ours'"),
        ("policy.kind=magic", r"policy\.kind = 'magic': must be one of 'fixed', 'largest', 'random'"),
        ("run.rounds=0", r"run\.rounds = 0: input should be greater than or equal to 1"),
        ("run.rounds=ten", r"run\.rounds = 'ten': input should be a valid integer"),
        ("run.seed=true", r"run\.seed = True: input should be a valid integer"),
        ("radio.channel.snr_db=99", r"radio\.channel\.snr_db = 99: must stay within -30 and 60"),
        ("radio.airtime_share={kind='steps', values=[0.5, 1.5]}", r"must stay within 0 and 1"),
        ("radio.channel.snr_db={kind='gauss_markov', mean=3, std=1, correlation=0.5, low=9, high=9}", r"low ≤ mean"),
        ("finetune.learning_rate=nan", r"finetune\.learning_rate = nan"),
        ("text.kind=file", r"text\.path is missing"),
        ("control.url=http://x", r"control\.url = 'http://x'"),
        ("run=3", r"run = 3"),
        ("run.rounds.x=3", r"run\.rounds is a value, not a table"),
        ("rounds", r"write --set table\.key=value"),
    ],
)
def test_mistakes_get_one_line_with_key_value_and_limit(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(SHIPPED, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[run\n", "\xff"])
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    path = tmp_path / "x.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"x\.toml: not a TOML file"):
        load_settings(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file or directory; name another file with --config"):
        load_settings(tmp_path / "gone.toml")
