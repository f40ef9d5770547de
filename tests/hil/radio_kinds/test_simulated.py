"""The simulated radio, round by round: its channel, its budget and its bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from hil.contract import ConfigError
from hil.control.bus import InProcessBus
from hil.radio_kinds.simulated import SimulatedRadio
from hil.settings.radio import LoopbackRadio
from radio.link.budget import airtime_s, payload_bits
from radio.modem.ofdm import N_FFT, N_USED

SNRS_DB = [8.0, 20.0]
SHARES = [1.0, 0.5]
WIDTHS_HZ = [1e6, 1.5e6]


@contextmanager
def simulated(rounds: int = 2, **table: Any) -> Iterator[SimulatedRadio]:
    steps = {
        "channel": {"snr_db": {"kind": "steps", "values": SNRS_DB}},
        "airtime_share": {"kind": "steps", "values": SHARES},
        "bandwidth_hz": {"kind": "steps", "values": WIDTHS_HZ},
        "deadline_s": 2.0,
    }
    settings = LoopbackRadio.model_validate(steps | table)
    cloud, edge = InProcessBus.pair("device")
    with cloud, edge, SimulatedRadio(settings, rounds, 4, (cloud, edge)) as radio:
        yield radio


def test_every_round_has_the_channel_of_its_trajectories() -> None:
    with simulated() as radio:
        for k in range(2):
            radio.start_round(k)
            assert (radio.snr_db, radio.airtime_share) == (SNRS_DB[k], SHARES[k])
            assert radio.bandwidth_hz == pytest.approx(WIDTHS_HZ[k])
            assert radio.sample_rate_hz == pytest.approx(WIDTHS_HZ[k] * N_FFT / (N_USED + 1))
            assert radio.sound().snr_db == pytest.approx(SNRS_DB[k], abs=1.0)


@pytest.mark.slow
def test_a_budget_is_what_the_link_model_carries_before_the_deadline() -> None:
    with simulated() as radio:
        radio.start_round(1)
        sounding = replace(radio.sound(), snr_db=17.0, flat_snr_db=16.0)
        bits = [
            radio.budget(spent_s, sounding, rounds=3, pooled=True).bits for spent_s in (1.0, 2.0)
        ]
        assert 0 < bits[0] < bits[1]
        endless = radio.budget(50.0, sounding, rounds=3, pooled=True)
        assert endless.bits == bits[1]  # the deadline of 2 s caps it
        assert (endless.airtime_s, endless.rounds, endless.pooled) == (50.0, 3, True)
        adaptation = radio.link.adaptation
        expected = payload_bits(
            1.0,
            16.0,
            radio.sample_rate_hz,
            margin_db=adaptation.margin_db,
            round_trip_s=0.02,
            table=adaptation.table,
        )
        assert bits[0] == int(expected)


@pytest.mark.slow
def test_before_the_first_answer_the_link_counts_as_the_worst() -> None:
    with simulated() as radio:
        radio.start_round(0)
        silent = replace(radio.sound(), snr_db=math.nan, flat_snr_db=math.nan)
        lowest_db = radio.link.adaptation.table.lowest_db
        worst = replace(silent, snr_db=lowest_db, flat_snr_db=lowest_db)
        found = radio.budget(1.0, silent, rounds=1, pooled=False)
        assert found == radio.budget(1.0, worst, rounds=1, pooled=False)
        assert found.bits > 0
        assert radio.predicted_airtime_s(b"payload", silent) is None
        assert radio.predicted_airtime_s(b"", worst) is None


def test_a_prediction_is_the_link_models() -> None:
    with simulated() as radio:
        radio.start_round(1)
        sounding = radio.sound()
        found = radio.predicted_airtime_s(bytes(40_000), sounding)
        expected = airtime_s(
            40_000,
            sounding.flat_snr_db,
            radio.sample_rate_hz,
            margin_db=radio.link.adaptation.margin_db,
            round_trip_s=0.02,
            table=radio.link.adaptation.table,
        )
        assert found == pytest.approx(expected)


def test_a_carrier_offset_that_the_preamble_cannot_resolve_is_refused() -> None:
    channel = {"snr_db": 10.0, "cfo_hz": 45_000.0}
    with simulated(channel=channel, bandwidth_hz=1.5e6):
        pass
    with (
        pytest.raises(ConfigError, match=r"radio\.channel\.cfo_hz = 45000: the preamble resolves"),
        simulated(channel=channel, bandwidth_hz=1e6),
    ):
        pass
