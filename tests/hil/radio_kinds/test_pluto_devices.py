"""The devices of [radio]: what each of them is set to, and what it may transmit."""

from __future__ import annotations

from typing import Any

import pytest

from hil.contract import ConfigError
from hil.radio_kinds.pluto_devices import open_receiver, open_transmitter
from hil.settings.pluto import PlutoRadio

BAND = {"low_hz": 2.4e9, "high_hz": 2.4835e9, "max_dbm": -10.0}


def radio(**changes: Any) -> PlutoRadio:
    table = {
        "kind": "pluto",
        "uri": "ip:192.168.2.1",
        "receive_uri": "ip:192.168.3.1",
        "lo_hz": 2.45e9,
        "rate_hz": 1.5e6,
        "tx_attenuation_db": 22.5,
        "rx_gain_db": 33.0,
        "patience_s": 7.0,
        "allow": {"bands": [BAND]},
    }
    return PlutoRadio.model_validate(table | changes)


def test_each_radio_gets_its_own_address_and_the_settings_of_the_table() -> None:
    sender, receiver = open_transmitter(radio()), open_receiver(radio())
    assert (sender.settings.uri, receiver.settings.uri) == ("ip:192.168.2.1", "ip:192.168.3.1")
    for pluto in (sender, receiver):
        assert pluto.sample_rate_hz == pluto.settings.rate_hz == 1.5e6
        assert pluto.settings.rx_gain_db == 33.0
        assert pluto.settings.loopback == "none"
    assert sender.settings.tx_attenuation_db == 22.5


def test_only_the_transmitter_may_transmit() -> None:
    sender, receiver = open_transmitter(radio()), open_receiver(radio())
    sender.permission.require(2.45e9, 1.5e6, -15.5)
    assert receiver.permission.bands == ()
    with pytest.raises(ConfigError, match="not allowed"):
        receiver.permission.require(2.45e9, 1.5e6, -80.0)
    assert receiver.settings.tx_attenuation_db == 89.75


def test_a_second_radio_is_tuned_by_the_calibrated_offset_and_an_echo_is_not() -> None:
    assert open_receiver(radio(cfo_ppm=10.0)).settings.rx_lo_hz == pytest.approx(2.45e9 + 24_500)
    assert open_receiver(radio(cfo_ppm=10.0)).settings.tx_lo_hz == 2.45e9
    echo = radio(cfo_ppm=10.0, receive_uri="")
    assert open_receiver(echo).settings.rx_lo_hz == 2.45e9
    assert open_receiver(echo).settings.uri == "ip:192.168.2.1"
