"""Trajectories of hil.toml as arrays, and a recorded run as one of them."""

from datetime import UTC, datetime

import numpy as np
import pytest

from hil.contract import ConfigError
from hil.radio_kinds.conditions import conditions, seeded
from hil.reporting.run_folder import RunLog
from hil.settings.radio import LoopbackRadio
from radio.channel import trajectory


@pytest.fixture
def record(tmp_path):
    """Writes a run whose rounds measured these values; its folder."""

    def write(values, key="channel.snr_db"):
        log = RunLog.create(
            tmp_path, "trace", config_toml="", manifest={}, now_utc=datetime(2025, 1, 1, tzinfo=UTC)
        )
        with log:
            for i, value in enumerate(values):
                log.write_round({"round.id": i, key: value})
        return log.folder

    return write


def radio(**channel):
    return LoopbackRadio.model_validate({"channel": channel})


def test_every_kind_follows_its_own_generator():
    kinds = {
        "independent": (
            {"values": [0.0, 5.0]},
            lambda rng: trajectory.independent([0.0, 5.0], 9, rng),
        ),
        "fading": (
            {"mean": 10.0, "k_factor_db": 3.0, "doppler_per_round": 0.2, "low": -5.0, "high": 20.0},
            lambda rng: trajectory.fading(10.0, 3.0, 0.2, -5.0, 20.0, 9, rng),
        ),
        "gauss_markov": (
            {"mean": 10.0, "std": 3.0, "correlation": 0.4, "low": 0.0, "high": 20.0},
            lambda rng: trajectory.gauss_markov(10.0, 3.0, 0.4, 0.0, 20.0, 9, rng),
        ),
    }
    for kind, (settings, expected) in kinds.items():
        found = conditions(radio(snr_db={"kind": kind, **settings}), 9, seed=5)
        np.testing.assert_array_equal(found.snr_db, expected(seeded(5, "snr")))
    assert found.bandwidth_hz.tolist() == [1_570_312.5] * 9
    assert found.airtime_share.tolist() == [1.0, 1.0, 1.0, 0.6, 0.6, 0.6, 1.0, 1.0, 1.0]


def test_a_recorded_run_is_replayed_without_its_gaps_and_from_the_start_again(record):
    folder = record([12.5, float("nan"), 14.0, 9.25])
    found = conditions(radio(snr_db={"kind": "replay", "run": str(folder)}), 5, seed=0)
    assert found.snr_db.tolist() == [12.5, 14.0, 9.25, 12.5, 14.0]


def test_each_quantity_replays_its_own_column(record):
    folder = record([0.25, 0.5], key="channel.airtime_share")
    settings = LoopbackRadio.model_validate(
        {"airtime_share": {"kind": "replay", "run": str(folder)}}
    )
    assert conditions(settings, 3, seed=0).airtime_share.tolist() == [0.25, 0.5, 0.25]
    with pytest.raises(ConfigError, match=r"has a channel\.snr_db to replay"):
        conditions(radio(snr_db={"kind": "replay", "run": str(folder)}), 3, seed=0)


def test_runs_that_cannot_be_replayed_are_refused(record, tmp_path):
    with pytest.raises(ConfigError, match=r"must stay within -30 and 60; replay another run"):
        conditions(radio(snr_db={"kind": "replay", "run": str(record([10.0, 75.0]))}), 3, seed=0)
    with pytest.raises(ConfigError, match="is not a run"):
        conditions(radio(snr_db={"kind": "replay", "run": str(tmp_path / "nowhere")}), 3, seed=0)
