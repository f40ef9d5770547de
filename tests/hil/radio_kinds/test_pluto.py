"""Both ends of the link over emulated Plutos in one process: a run, a recording and its replay; and
no torch below."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hil.contract import ConfigError
from hil.lab.recording_session import random_payload, record, replay_all, verdict
from hil.loop.rounds import Watcher, run
from hil.radio_kinds.pluto_devices import real_radio
from hil.reporting.run_folder import read_run
from hil.settings import Settings, load_settings
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime
from radio.emulator.ether import Ether, NodeSpec

pytestmark = pytest.mark.usefixtures("libiio")

ROOT = Path(__file__).parents[3]
ALLOWED = "radio.allow.bands=[{low_hz = 2.4e9, high_hz = 2.4835e9, max_dbm = -10.0}]"


@pytest.fixture(scope="module")
def over_plutos(
    small_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Settings]]:
    ether = Ether([NodeSpec(ppm=0.0), NodeSpec(ppm=3.0)], clock=RealTime(), seed=0)
    with EmulatedPlutos(ether) as plutos:
        tx, rx = plutos.uris

        def settings(*overrides: str) -> Settings:
            small = small_overrides(tmp_path_factory.mktemp("runs"))
            radio = ["radio.kind=pluto", f"radio.uri='{tx}'", f"radio.receive_uri='{rx}'"]
            return load_settings(ROOT / "hil.toml", [*small, *radio, *overrides])

        yield settings


@pytest.mark.slow
def test_hil_run_over_two_radios(over_plutos: Callable[..., Settings]) -> None:
    finished = read_run(run(over_plutos(ALLOWED, "run.rounds=2"), Watcher()))
    assert [row["edge.status"] for row in finished.rows] == ["installed"] * 2
    for row in finished.rows:
        assert row["truth.snr_db"] != row["truth.snr_db"]  # nobody knows
        assert abs(float(row["link.cfo_hz"]) + 3e-6 * 2.45e9) < 50
        assert (row["radio.outages"], row["radio.clipped_samples"]) == (0, 0)
    assert finished.manifest["simulated"] == []
    assert len(finished.manifest["emulated"]) == 2
    assert finished.manifest["devices"]["receiver"]["serial"] == "emulated-1"


@pytest.mark.slow
def test_hil_record_over_one_radio_with_its_own_echo(
    over_plutos: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = over_plutos(
        ALLOWED,
        "radio.receive_uri=''",
        "radio.loopback=digital",
        "radio.path='none: digital loopback'",
    )
    recorded = record(settings, tmp_path, random_payload(settings, 5000))
    assert recorded.report.delivered
    assert (
        verdict(replay_all(tmp_path))
        == "equal in every field: 2 soundings and deliveries, 5000 payload bytes"
    )
    facts = json.loads(recorded.path.read_text())
    assert facts["captures"][0]["core:frequency"] == 2.45e9
    notes = facts["global"]["hil:notes"]
    assert notes["simulated"] is False
    assert notes["devices"]["receiver"]["emulated"] is True
    assert notes["path"] == "none: digital loopback"


@pytest.mark.slow
def test_nothing_is_transmitted_without_permission(
    over_plutos: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = over_plutos()
    with pytest.raises(ConfigError, match=r"is not allowed; .*\[radio\.allow\] bands"):
        record(settings, tmp_path, b"payload")


def test_a_process_alone_needs_a_radio_that_others_hear(
    over_plutos: Callable[..., Settings],
) -> None:
    with pytest.raises(ConfigError, match=r"radio\.kind = 'loopback': hil edge needs a radio"):
        real_radio(load_settings(ROOT / "hil.toml"), "hil edge")
    with pytest.raises(ConfigError, match=r"radio\.record = true: hil cloud has one end"):
        real_radio(over_plutos("radio.record=true"), "hil cloud")
