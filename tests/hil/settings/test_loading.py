"""hil.toml: precedence, the way back, and one-line errors."""

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from hil.contract import ConfigError
from hil.radio_kinds.conditions import conditions
from hil.reporting.run_folder import RunLog
from hil.settings import Settings, load_settings, parse_settings, to_toml
from hil.settings.channel import ChannelFigures, ChannelPreset, ChannelProfile
from hil.settings.policy import FixedPolicy
from hil.settings.trajectories import Constant, Steps
from radio.channel import PRESETS, Figures, figures
from radio.channel.profiles import SCATTERED

SHIPPED = Path(__file__).parents[3] / "hil.toml"


def test_file_and_overrides_have_precedence_over_defaults(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[run]\nrounds = 3\nseed = 5\n")
    settings = load_settings(
        path, ["run.rounds=4", "text.stream=['known']", "control.device=bench-2"]
    )
    assert (settings.run.rounds, settings.run.seed, settings.run.name) == (
        4,
        5,
        Settings().run.name,
    )
    assert settings.text.stream == ["known"]
    assert settings.control.device == "bench-2"


def test_a_number_is_a_constant_trajectory():
    radio = {"channel": {"snr_db": -10}, "airtime_share": {"kind": "steps", "values": [1.0, 0.5]}}
    settings = parse_settings({"radio": radio}, source="x")
    assert settings.simulated_radio.channel.snr_db == Constant(value=-10.0)
    assert settings.simulated_radio.airtime_share == Steps(kind="steps", values=[1.0, 0.5])


def test_another_kind_drops_the_keys_of_the_old_one(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('[text]\nkind = "default"\ndwell = 3\n')
    assert load_settings(path, ["text.kind=file", "text.path=a.tsv"]).text.kind == "file"
    assert load_settings(path, ["policy.kind=fixed", "policy.rank=4"]).policy == FixedPolicy(
        kind="fixed", rank=4
    )


def test_the_channel_has_the_presets_profiles_and_figures_of_the_simulator():
    assert set(get_args(ChannelPreset)) == set(PRESETS)
    assert set(get_args(ChannelProfile)) == {"none", *SCATTERED, "file"}
    assert set(ChannelFigures.model_fields) == {field.name for field in fields(Figures)}


def test_a_preset_and_figures_of_its_own_reach_the_simulator():
    settings = load_settings(
        SHIPPED,
        ["radio.channel.preset=harsh", "radio.channel.adc_bits=8", "radio.channel.cfo_hz=0"],
    )
    channel = settings.simulated_radio.channel
    assert channel.overrides() == {"adc_bits": 8, "cfo_hz": 0.0}
    found = figures(channel.shipped_preset, **channel.overrides())
    assert found.iq_gain_db == PRESETS["harsh"].iq_gain_db
    assert load_settings(SHIPPED).radio.channel.preset == "awgn"


def test_a_preset_of_ones_own_lies_between_a_shipped_one_and_the_table():
    channel = {
        "preset": "hall",
        "cfo_hz": 5.0,
        "presets": {"hall": {"like": "indoor_los", "delay_spread_ns": 80.0, "cfo_hz": 9.0}},
    }
    settings = parse_settings({"radio": {"channel": channel}}, source="x").radio.channel
    found = figures(settings.shipped_preset, **settings.overrides())
    assert (found.profile, found.delay_spread_ns, found.cfo_hz) == ("TDL-D", 80.0, 5.0)
    with pytest.raises(ConfigError, match=r"channel\.presets = .* the name 'harsh' ships"):
        parse_settings({"radio": {"channel": {"presets": {"harsh": {}}}}}, source="x")
    with pytest.raises(ConfigError, match=r"preset = 'hal': must be one of 'awgn', .*, 'hall'"):
        parse_settings({"radio": {"channel": channel | {"preset": "hal"}}}, source="x")


@pytest.mark.parametrize(
    ("key", "column", "values"),
    [
        ("radio.channel.snr_db", "channel.snr_db", [7.0, 9.0]),
        ("radio.bandwidth_hz", "channel.bandwidth_hz", [0.8e6, 1.6e6]),
        ("radio.airtime_share", "channel.airtime_share", [0.25, 0.75]),
    ],
)
def test_snr_bandwidth_and_share_follow_every_kind_of_trajectory(tmp_path, key, column, values):
    def follow(trajectory):
        air = conditions(load_settings(SHIPPED, [f"{key}={trajectory}"]).radio, 6, seed=3)
        return getattr(air, key.rpartition(".")[2]).tolist()

    low, high = values
    assert follow(low) == [low] * 6
    assert follow(f"{{kind='steps', values={values}, dwell=2}}") == [low, low, high, high, low, low]
    walk = follow(
        f"{{kind='gauss_markov', mean={low}, std={high - low}, correlation=0.5, "
        f"low={low}, high={high}}}"
    )
    assert len(set(walk)) > 1
    assert all(low <= value <= high for value in walk)
    log = RunLog.create(
        tmp_path, "trace", config_toml="", manifest={}, now_utc=datetime(2025, 1, 1, tzinfo=UTC)
    )
    with log:
        for i, value in enumerate(values):
            log.write_round({"round.id": i, column: value})
    assert follow(f"{{kind='replay', run='{log.folder}'}}") == [low, high] * 3


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["policy.kind=fixed", "policy.rank=2", "text.kind=file", "text.path=a b.csv"],
        [
            "radio.channel.preset=indoor_nlos",
            "radio.channel.doppler_hz=3",
            "radio.channel.profile='TDL-C'",
        ],
    ],
)
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
        (
            "radio.channel.snr=3",
            r"unknown key radio\.channel\.snr; the nearest known key is radio\.channel\.snr_db",
        ),
        ("policy.rank=3", r"unknown key policy\.rank with kind = 'ours'; another kind has it"),
        (
            "policy.kind=magic",
            r"policy\.kind = 'magic': must be one of 'fixed', 'largest', 'random'",
        ),
        ("run.rounds=0", r"run\.rounds = 0: input should be greater than or equal to 1"),
        ("run.rounds=ten", r"run\.rounds = 'ten': input should be a valid integer"),
        ("run.seed=true", r"run\.seed = True: input should be a valid integer"),
        ("radio.channel.snr_db=99", r"radio\.channel\.snr_db = 99: must stay within -30 and 60"),
        (
            "radio.channel.preset=indor",
            r"radio\.channel\.preset = 'indor': must be one of 'awgn', 'lab_cable'",
        ),
        (
            "radio.channel.profile='TDL-F'",
            r"radio\.channel\.profile = 'TDL-F': input should be 'none', 'flat', 'TDL-A'",
        ),
        (
            "radio.channel.clock_offset_ppm=250",
            r"clock_offset_ppm = 250: input should be less than or equal to 100",
        ),
        (
            "radio.channel.adc_bits=12.5",
            r"radio\.channel\.adc_bits = 12\.5: input should be a valid integer",
        ),
        (
            "radio.channel.dopler_hz=3",
            r"unknown key radio\.channel\.dopler_hz; the nearest .* radio\.channel\.doppler_hz",
        ),
        ("radio.airtime_share={kind='steps', values=[0.5, 1.5]}", r"must stay within 0 and 1"),
        (
            "radio.channel.snr_db={kind='gauss_markov', mean=3, std=1, correlation=0.5, low=9, "
            "high=9}",
            r"low ≤ mean",
        ),
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
    with pytest.raises(
        ConfigError, match=r"gone\.toml: neither a file nor a configuration that ships"
    ):
        load_settings(tmp_path / "gone.toml")
