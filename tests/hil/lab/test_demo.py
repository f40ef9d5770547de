"""The demo's run folder, its verdict, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hil.contract import ConfigError
from hil.lab import demo as lab
from hil.lab.demo import Demo, demo_pluto, table_of
from hil.radio_kinds.loopback_twin import Comparison
from hil.radio_kinds.pluto_devices import real_radio
from hil.reporting.run_folder import Run
from hil.settings import Settings, load_settings, to_toml
from hil.system.helper_processes import HelperError

ROOT = Path(__file__).parents[3]


def settings_of(out: Path, *overrides: str) -> Settings:
    return load_settings(ROOT / "configs" / "demo_pluto.toml", [f"run.out='{out}'", *overrides])


def folder_with(out: Path, name: str, settings: Settings) -> Path:
    folder = out / name
    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(settings))
    return folder


def test_the_run_folder_is_found_whatever_lies_beside_it(tmp_path: Path) -> None:
    ours = settings_of(tmp_path, "control.url='mqtt://127.0.0.1:1884'")
    others = settings_of(tmp_path, "control.url='mqtt://127.0.0.1:1885'")
    folder = folder_with(tmp_path, "20260101T000000Z-demo-pluto", ours)
    folder_with(tmp_path, "20260101T000000Z-demo-pluto-2", others)
    folder_with(tmp_path, "20270101T000000Z-other", others)
    (tmp_path / "20270101T000000Z-demo-pluto").mkdir()
    assert lab._folder_of(ours) == folder


def test_a_cloud_that_leaves_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HelperError, match="hil cloud ended without a run folder"):
        lab._folder_of(settings_of(tmp_path))


def test_the_processes_share_radios_and_broker_and_wait_for_a_busy_machine(tmp_path: Path) -> None:
    asked = settings_of(tmp_path, "control.secrets_file='secret'", "radio.patience_s=1.0")
    joined = lab._joined(asked, ["ip:127.0.0.1:7", "ip:127.0.0.1:8"], 1886)
    radio = real_radio(joined, "a test")
    assert (radio.uri, radio.receive_uri) == ("ip:127.0.0.1:7", "ip:127.0.0.1:8")
    assert (joined.control.url, joined.control.secrets_file) == ("mqtt://127.0.0.1:1886", "")
    assert min(radio.patience_s, joined.control.timeout_s) >= 240
    assert joined.finetune == asked.finetune


def row(status: str) -> dict[str, Any]:
    return {"edge.status": status, "edge.gain": -1.0}


def demo_of(statuses: list[str], goodputs_bps: list[float], rounds: int = 3) -> Demo:
    comparisons = [
        Comparison(
            round_id=k,
            delivered=True,
            payload_bytes=12_000,
            snr_db=18.0,
            goodput_bps=goodput_bps,
            elapsed_goodput_bps=0.25e6,
            loopback_goodput_bps=2e6,
            loopback_elapsed_goodput_bps=1e6,
        )
        for k, goodput_bps in enumerate(goodputs_bps)
    ]
    run = Run(folder=Path("runs/one"), config_toml="", manifest={}, rows=list(map(row, statuses)))
    return Demo(run=run, rounds=rounds, comparisons=comparisons)


@pytest.mark.parametrize(
    ("statuses", "arrived"),
    [
        (["installed", "kept", "installed"], 3),
        (["installed", "refused", "installed"], 2),
        (["installed"], 1),
        ([], 0),
    ],
)
def test_the_verdict_is_that_every_update_arrived(statuses: list[str], arrived: int) -> None:
    complaints = demo_of(statuses, []).complaints
    if arrived == 3:
        assert complaints == []
    else:
        assert complaints == [f"{arrived} of 3 updates arrived; see runs/one/log.txt"]


def test_a_low_goodput_is_a_remark_and_no_complaint() -> None:
    demo = demo_of(["installed"] * 3, [1.9e6, 1.3e6, 1.5e6])
    assert demo.complaints == []
    (remark,) = demo.remarks
    assert remark.startswith("round 1: goodput below 0.7 of the simulated link's")


def test_the_table_fits_eighty_columns() -> None:
    lines = table_of(demo_of(["installed"] * 3, [1.9e6] * 3)).lines(80)
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if line.split()[:1] == ["1"])
    assert line.split() == ["1", "12.0", "1.90", "2.00", "0.95", "0.25", "1.00", "0.25"]


def test_the_demo_needs_real_radios(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hil demo-pluto needs a radio"):
        demo_pluto(load_settings(ROOT / "hil.toml", [f"run.out='{tmp_path}'"]), lambda line: None)
