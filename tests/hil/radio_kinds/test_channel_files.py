"""Channels that people bring, over the whole link: what the receiver measures, and what is said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hil.contract import ConfigError, LinkReport
from hil.control.bus import InProcessBus
from hil.radio_kinds.channel_files import sources
from hil.radio_kinds.conditions import conditions, sinr_db
from hil.radio_kinds.simulated import SimulatedRadio
from hil.settings.radio import LoopbackRadio

PAYLOAD = np.random.default_rng(0).bytes(6000)


def table(channel: dict[str, Any], **more: Any) -> LoopbackRadio:
    return LoopbackRadio.model_validate({"channel": channel, "deadline_s": 1.0, **more})


@contextmanager
def radio_of(channel: dict[str, Any], rounds: int = 2, **more: Any) -> Iterator[SimulatedRadio]:
    cloud, edge = InProcessBus.pair("device")
    settings = table(channel, **more)
    with cloud, edge, SimulatedRadio(settings, rounds, 4, (cloud, edge)) as radio:
        yield radio


def round_of(radio: SimulatedRadio, round_id: int = 0) -> LinkReport:
    radio.start_round(round_id)
    return radio.deliver(PAYLOAD, radio.sound())


def write(path: Path, *rows: str) -> str:
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def csv(path: str, **more: Any) -> dict[str, Any]:
    return {"kind": "csv", "path": path, "column": "snr_db", **more}


# -------------------------------------------------------------------------------- trajectories


@pytest.mark.parametrize("snr", [3.0, 11.5])
def test_the_receiver_measures_the_snr_of_a_flat_file(tmp_path: Path, snr: float) -> None:
    path = write(tmp_path / "flat.csv", "time_s,snr_db", f"0,{snr}", f"0.03,{snr}", f"9,{snr}")
    with radio_of({"snr_db": csv(path, time="seconds")}, round_period_s=0.5) as radio:
        report = round_of(radio, 1)
        assert radio.clock.now() > 0.5
        assert report.delivered
        assert report.snr_db == pytest.approx(snr, abs=0.5)
        assert radio.disturbances == {"truth.snr_low_db": snr, "truth.snr_high_db": snr}


def test_the_snr_moves_while_a_burst_is_on_the_air(tmp_path: Path) -> None:
    path = write(tmp_path / "falls.csv", "time_s,snr_db", "0,20", "1.02,-10", "4,-10")
    with radio_of({"snr_db": csv(path, time="seconds")}, round_period_s=1.0) as radio:
        report = round_of(radio, 1)  # the sounding is heard, the payload is not
        assert radio.snr_db == 20.0
        assert not report.delivered
        assert report.reason
        assert radio.disturbances == {"truth.snr_low_db": -10.0, "truth.snr_high_db": 20.0}


def test_rows_are_rounds_and_a_short_file_is_refused_unless_said(tmp_path: Path) -> None:
    path = write(tmp_path / "three.csv", "snr_db;share", "1;0.1", "2;0.2", "3;0.3")

    def follow(rounds: int, **more: Any) -> list[float]:
        return conditions(table({"snr_db": csv(path, **more)}), rounds, 0).snr_db.tolist()

    assert follow(2) == [1.0, 2.0]
    assert follow(5, at_end="loop") == [1.0, 2.0, 3.0, 1.0, 2.0]
    assert follow(5, at_end="hold") == [1.0, 2.0, 3.0, 3.0, 3.0]
    with pytest.raises(ConfigError, match=r"three\.csv: 3 rows for 5 rounds; .* at_end = 'loop'"):
        follow(5)
    share = table({}, airtime_share=csv(path) | {"column": "share"})
    assert conditions(share, 3, 0).airtime_share.tolist() == [0.1, 0.2, 0.3]
    with pytest.raises(ConfigError, match=r"three\.csv: row 2, column 'snr_db' is 1; .* 50000 "):
        conditions(table({}, bandwidth_hz=csv(path)), 3, 0)


def test_seconds_need_a_period_and_enough_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "t,snr_db", "5,1", "6,2", "8,3")  # covers 5 s

    def follow(rounds: int, period_s: float, **more: Any) -> list[float]:
        snr = csv(path, time="seconds", time_column="t", **more)
        radio = table({"snr_db": snr}, round_period_s=period_s)
        return conditions(radio, rounds, 0).snr_db.tolist()

    assert follow(5, 1.0) == [1.0, 2.0, 2.0, 3.0, 3.0]
    assert follow(7, 1.0, at_end="loop") == [1.0, 2.0, 2.0, 3.0, 3.0, 1.0, 2.0]
    with pytest.raises(ConfigError, match=r"s\.csv: covers 5 s, 6 rounds of 1 s last 6 s; give"):
        follow(6, 1.0)
    with pytest.raises(ConfigError, match=r"s\.csv: time = 'seconds' .* radio\.round_period_s"):
        follow(1, 0.0)


# -------------------------------------------------------------------------------- interferers


@pytest.mark.parametrize(("snr", "inr"), [(12.0, 0.0), (20.0, 10.0), (15.0, 6.0)])
def test_white_interference_gives_the_sinr_of_theory(snr: float, inr: float) -> None:
    channel = {"snr_db": snr, "interferer": {"kind": "noise", "inr_db": inr}}
    expected = snr - 10 * np.log10(1 + 10 ** (inr / 10))
    assert sinr_db(table(channel), np.array([snr]))[0] == pytest.approx(expected)
    with radio_of(channel) as radio:
        report = round_of(radio)
        assert report.delivered
        assert report.snr_db == pytest.approx(expected, abs=1.0)
        assert radio.snr_db == snr
        assert radio.disturbances == {"truth.interferer": "noise", "truth.inr_db": inr}


@pytest.mark.parametrize(
    "interferer",
    [
        {"kind": "tone", "inr_db": 10.0, "offset_hz": 210e3},
        {"kind": "burst", "inr_db": 15.0, "period_s": 0.02, "duty": 0.2},
        {"kind": "tone", "inr_db": 60.0, "offset_hz": 210e3},
    ],
)
def test_a_round_beside_an_interferer_ends_and_says_its_level(interferer: dict[str, Any]) -> None:
    with radio_of({"snr_db": 18.0, "interferer": interferer}) as radio:
        report = round_of(radio)
        assert report.delivered != bool(report.reason)
        assert radio.disturbances["truth.interferer"] == interferer["kind"]
        assert radio.disturbances["truth.inr_db"] == interferer["inr_db"]


def test_a_tone_outside_the_band_is_refused() -> None:
    channel = {"snr_db": 18.0, "interferer": {"kind": "tone", "inr_db": 0.0, "offset_hz": 1e6}}
    with pytest.raises(ConfigError, match=r"offset_hz = 1e\+06: the receiver hears"):
        radio_of(channel).__enter__()


# -------------------------------------------------------------------------------- responses


def test_a_moving_channel_of_a_file_carries_a_payload_or_says_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    turns = np.arange(400) / 400  # 1 s at 400 Hz; Doppler of ± 3 Hz
    a = np.exp(2j * np.pi * (np.outer([3.0, -2.0], turns) + rng.uniform(size=(2, 1))))
    path = tmp_path / "street.npz"
    np.savez(path, a=(a * [[1e-4], [4e-5]]).astype(np.complex64), tau_s=[0, 4e-7], rate_hz=400.0)
    channel = {"snr_db": 18.0, "profile": "file", "response_path": str(path)}
    with radio_of(channel) as radio:
        report = round_of(radio)
        assert report.delivered
        assert abs(float(radio.disturbances["truth.gain_db"])) < 4.0
    with radio_of({**channel, "keep_gain": True}) as radio:  # the path loss is in the file
        report = round_of(radio)
        assert not report.delivered
        assert report.reason
        assert float(radio.disturbances["truth.gain_db"]) == pytest.approx(-80.0, abs=4.0)


# -------------------------------------------------------------------------------- provenance


def test_a_manifest_names_every_file_and_its_hash(tmp_path: Path) -> None:
    trace = write(tmp_path / "x.csv", "snr_db", "1")
    np.save(tmp_path / "i.npy", np.ones(8, np.complex64))
    np.savez(tmp_path / "r.npz", a=np.ones((1, 1), complex), tau_s=[0.0])
    channel = {
        "snr_db": csv(trace),
        "profile": "file",
        "response_path": str(tmp_path / "r.npz"),
        "interferer": {"kind": "recording", "inr_db": 1.0, "path": str(tmp_path / "i.npy")},
    }
    found = sources(table(channel))

    def named(kind: str, path: Path) -> dict[str, str]:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"kind": kind, "file": str(path), "sha256": digest}

    assert found["snr_db"] == named("csv", tmp_path / "x.csv")
    assert found["profile"] == named("file", tmp_path / "r.npz")
    assert found["interferer"] == named("recording", tmp_path / "i.npy")
    assert found["airtime_share"] == {"kind": "steps"}
    assert sources(table({}))["profile"] == {"kind": "none"}
