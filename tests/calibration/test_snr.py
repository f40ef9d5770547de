import json

import numpy as np
import pytest

from calibration import burst, snr
from hil.contract import ConfigError
from radio.channel import Loopback
from radio.clocks import VirtualClock


@pytest.mark.slow
def test_recovers_what_the_channel_was_told():
    points = snr.measure_snr(burst.loopback_factory(), [-3.0, 12.0, 25.0], 30, seed=1)
    for point, snr_db in zip(points, (-3.0, 12.0, 25.0), strict=True):
        assert point.snr_db == snr_db
        assert point.bursts == point.bursts_read == 30
        assert abs(point.bias_db) < 0.1
        assert point.std_db < 0.25
        assert point.within_1_db == 1.0
        assert 0.4 < point.covered < 0.95
        assert point.cfo_rms_subcarriers < 0.01
    assert all(point.block_error_rate <= 0.05 for point in points)


@pytest.mark.slow
def test_an_unknown_loss_shows_as_bias():
    def factory(snr_db, rng):
        weaker = (lambda iq, rng: iq * np.float32(10 ** (-3 / 20)),)
        return Loopback(clock=VirtualClock(), rng=rng, snr_db=snr_db, impairments=weaker)

    (point,) = snr.measure_snr(factory, [15.0], 20, seed=2)
    assert point.bias_db == pytest.approx(-3.0, abs=0.1)
    assert point.within_1_db == 0.0


def test_a_dead_channel_is_a_result():
    (point,) = snr.measure_snr(burst.loopback_factory(), [-25.0], 4, seed=3)
    assert point.bursts_read == 0
    assert point.within_1_db == 0.0
    assert np.isnan(point.bias_db)
    assert point.block_error_rate == 1.0


def test_same_seed_same_points():
    one, two = (snr.measure_snr(burst.loopback_factory(), [12.0], 6, seed=5) for _ in range(2))
    assert one == two


def test_zero_bursts_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        snr.measure_snr(burst.loopback_factory(), [10.0], 0, seed=1)


def test_command_line_writes_json(tmp_path, capsys):
    path = tmp_path / "snr.json"
    snr.main(["--bursts", "4", "--low", "10", "--high", "14", "--step", "4", "--json", str(path)])
    record = json.loads(path.read_text())
    assert [p["snr_db"] for p in record["points"]] == [10.0, 14.0]
    printed = capsys.readouterr().out
    assert "Es/N0 per used subcarrier" in printed
    assert max(map(len, printed.splitlines())) <= 80
    printed.encode("ascii")  # every console shows it
    with pytest.raises(SystemExit):
        snr.main(["--bursts", "0"])
