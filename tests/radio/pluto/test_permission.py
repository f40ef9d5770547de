"""What may be transmitted, and what a refusal says."""

from __future__ import annotations

import pytest

from hil.contract import ConfigError
from radio.pluto.permission import Band, Permission

ISM = Band(low_hz=2.4e9, high_hz=2.4835e9, max_dbm=-10.0)


def test_nothing_is_allowed_by_default_and_the_refusal_can_be_pasted() -> None:
    with pytest.raises(ConfigError) as refusal:
        Permission().require(2.45e9, 2e6, -13.0)
    assert (
        "[radio.allow] bands = [{ low_hz = 2449000000, high_hz = 2451000000, max_dbm = -13 }]"
        in str(refusal.value)
    )
    Permission([Band(low_hz=2449000000, high_hz=2451000000, max_dbm=-13)]).require(
        2.45e9, 2e6, -13.0
    )


@pytest.mark.parametrize(
    ("lo_hz", "bandwidth_hz", "power_dbm", "allowed"),
    [
        (2.45e9, 1e6, -10.0, True),
        (2.45e9, 1e6, -9.9, False),
        (2.4005e9, 1e6, -20.0, True),
        (2.4004e9, 1e6, -20.0, False),
        (2.483e9, 1e6, -20.0, True),
        (2.4831e9, 1e6, -20.0, False),
        (868e6, 1e6, -80.0, False),
    ],
)
def test_the_whole_signal_lies_in_one_band(
    lo_hz: float, bandwidth_hz: float, power_dbm: float, allowed: bool
) -> None:
    permission = Permission([ISM])
    if allowed:
        permission.require(lo_hz, bandwidth_hz, power_dbm)
    else:
        with pytest.raises(ConfigError, match="transmitting"):
            permission.require(lo_hz, bandwidth_hz, power_dbm)


def test_bands_that_touch_do_not_add_up_and_the_strongest_counts() -> None:
    halves = Permission(
        [Band(low_hz=1e9, high_hz=1.1e9, max_dbm=0), Band(low_hz=1.1e9, high_hz=1.2e9, max_dbm=0)]
    )
    with pytest.raises(ConfigError, match="not allowed"):
        halves.require(1.1e9, 1e6, -50.0)
    Permission([ISM, Band(low_hz=2.44e9, high_hz=2.46e9, max_dbm=5.0)]).require(2.45e9, 1e6, 4.0)


def test_too_much_power_names_the_attenuation_that_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"by 3\.50 dB"):
        Permission([ISM]).require(2.45e9, 1e6, -6.5)


@pytest.mark.parametrize(
    "edges", [(2e9, 1e9), (0.0, 1e9), (1e9, float("inf")), (float("nan"), 1e9)]
)
def test_a_band_has_edges_in_order(edges: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="low_hz < high_hz"):
        Band(low_hz=edges[0], high_hz=edges[1], max_dbm=0.0)


def test_a_band_has_a_power() -> None:
    with pytest.raises(ConfigError, match="max_dbm"):
        Band(low_hz=1e9, high_hz=2e9, max_dbm=float("nan"))
