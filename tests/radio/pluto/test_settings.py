"""Ranges of a radio's settings."""

from __future__ import annotations

from typing import Any

import pytest

from hil.contract import ConfigError
from radio.pluto.settings import PlutoSettings

GOOD: dict[str, Any] = {
    "uri": "ip:192.168.2.1",
    "rate_hz": 1e6,
    "tx_lo_hz": 2.45e9,
    "rx_lo_hz": 2.45e9,
    "rx_gain_db": 30.0,
    "tx_attenuation_db": 20.0,
}


def test_defaults_follow_the_rate_and_the_attenuation() -> None:
    settings = PlutoSettings(**GOOD)
    assert settings.tx_filter_hz == settings.rx_filter_hz == 1e6
    assert settings.power_dbm == -13.0
    assert settings.buffer_s == pytest.approx(0.016384)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uri", ""),
        ("uri", "192.168.2.1"),
        ("rate_hz", 520e3),
        ("rate_hz", 62e6),
        ("tx_lo_hz", 10e6),
        ("rx_lo_hz", 7e9),
        ("rx_gain_db", 80.0),
        ("rx_gain_db", float("nan")),
        ("tx_attenuation_db", -1.0),
        ("tx_attenuation_db", 90.0),
        ("rx_bandwidth_hz", 1e3),
        ("loopback", "analog"),
        ("buffer_samples", 0),
        ("kernel_buffers", 1),
    ],
)
def test_out_of_range_names_the_setting(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        PlutoSettings(**GOOD | {name: value})


def test_changes_keep_the_rest() -> None:
    settings = PlutoSettings(**GOOD).changed(rx_gain_db=10.0, tx_lo_hz=None)
    assert settings == PlutoSettings(**GOOD | {"rx_gain_db": 10.0})
    with pytest.raises(ConfigError, match="rx_gain_db"):
        settings.changed(rx_gain_db=100.0)
