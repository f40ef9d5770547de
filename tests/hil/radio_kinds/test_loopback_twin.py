"""The simulated twin of a run is the link without radios."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hil.radio_kinds.loopback_twin import compare
from hil.radio_kinds.pluto_devices import real_radio
from hil.reporting.run_folder import Run
from hil.settings import load_settings

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_twin_has_the_same_payloads_at_the_same_snr() -> None:
    """A run over a perfect radio is as good as its twin; one that took twice the air and thrice the
    time is not."""
    radio = real_radio(load_settings(ROOT / "configs" / "demo_pluto.toml"), "a test")
    row = {
        "payload.bytes": 30_000,
        "link.snr_db": 18.0,
        "link.cfo_hz": -7350.0,
        "link.delivered": True,
    }
    rows = [{**row, "round.id": k, "link.airtime_s": 1.0, "link.elapsed_s": 1.0} for k in range(2)]
    nothing = {
        **rows[0],
        "round.id": 2,
        "payload.bytes": 0,
        "link.snr_db": math.nan,
        "link.cfo_hz": math.nan,
    }
    run = Run(folder=Path(), config_toml="", manifest={}, rows=[*rows, nothing])
    first, second = compare(run, radio, seed=1)
    bits = 8 * 30_000
    assert (second.round_id, second.payload_bytes) == (1, 30_000)
    # 18 dB carries 4.0 to 4.8 bit per used subcarrier (MCS 17 to 19): 200 of 272 samples of a
    # symbol
    assert 2.5e6 < first.loopback_goodput_bps < 3.5e6
    assert first.loopback_elapsed_goodput_bps < first.loopback_goodput_bps
    assert first.airtime_ratio == pytest.approx(bits / first.loopback_goodput_bps)
    slower = {**rows[0], "link.airtime_s": 2.0, "link.elapsed_s": 3.0}
    poor, _ = compare(
        Run(folder=Path(), config_toml="", manifest={}, rows=[slower, rows[1]]), radio, seed=1
    )
    assert poor.airtime_ratio == pytest.approx(first.airtime_ratio / 2)
    assert poor.elapsed_ratio == pytest.approx(first.elapsed_ratio / 3)
