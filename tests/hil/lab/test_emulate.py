"""`hil emulate-pluto`: URIs on the first lines, the channel of hil.toml between the nodes, an
orderly end."""

import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest

from hil.contract import ConfigError
from hil.lab.emulate import emulate_plutos, path_losses
from hil.settings import parse_settings
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether, NodeSpec, RfSettings
from radio.modem.ofdm import RMS_LEVEL


def settings(**radio):
    return parse_settings(
        {"radio": {"kind": "pluto", "uri": "ip:127.0.0.1", **radio}}, source="test"
    )


def test_the_path_loss_makes_the_snr_that_the_file_asks_for():
    steps = {"kind": "steps", "values": [3.0, 25.0]}
    asked = settings(
        channel={"snr_db": steps}, tx_attenuation_db=15.0, rx_gain_db=50.0, rate_hz=2e6
    )
    losses_db, dwells_s = zip(*path_losses(asked), strict=True)
    assert set(dwells_s) == {10.0}
    ether = Ether([NodeSpec(), NodeSpec(ppm=3.0)], clock=VirtualTime(), seed=0)
    for node in range(2):
        ether.configure(node, RfSettings(tx_attenuation_db=15.0, rx_gain_db=50.0, rate_hz=2e6))
    half_scale_dbfs = 20 * np.log10(RMS_LEVEL / 2)
    got_db = []
    for loss_db in losses_db[:3]:
        ether.path_loss_db = loss_db
        got_db.append(ether.snr_db(0, 1, half_scale_dbfs))
    np.testing.assert_allclose(got_db, [3.0, 25.0, 3.0], atol=1e-6)


def test_the_channel_of_a_simulated_radio_serves_as_well():
    losses = path_losses(parse_settings({"radio": {"channel": {"snr_db": 10}}}, source="test"))
    assert len(set(losses)) == 1


def test_the_rows_of_a_file_hold_for_their_times_or_the_dwell(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text("time_s,snr_db\n100,3\n100.5,25\n102,3\n")
    snr_db = {"kind": "csv", "path": str(path), "column": "snr_db"}
    for time, dwells_s in (("seconds", (0.5, 1.5, 1.5)), ("round", (2.0, 2.0, 2.0))):
        asked = settings(channel={"snr_db": {**snr_db, "time": time}}, emulator={"dwell_s": 2.0})
        losses_db, found = zip(*path_losses(asked), strict=True)
        assert found == pytest.approx(dwells_s)
        assert losses_db[0] == losses_db[2] == pytest.approx(losses_db[1] + 22.0, abs=0.1)


@pytest.mark.parametrize(("nodes", "ports"), [(0, []), (17, []), (1, [0, 0])])
def test_impossible_numbers_are_refused(nodes, ports):
    with pytest.raises(ConfigError, match=rf"{nodes} emulated Plutos with {len(ports)} ports"):
        emulate_plutos(settings(), nodes, ports=ports)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_its_uris_and_ends_in_order(number):
    command = [sys.executable, "-m", "hil.cli", "emulate-pluto", "--nodes", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as served:
        try:
            assert select.select([served.stdout], [], [], 120.0)[0], "nothing printed"
            uris = [served.stdout.readline().strip() for _ in range(3)]
            assert len({uri.removeprefix("ip:127.0.0.1:") for uri in uris}) == 3
            assert all(uri.removeprefix("ip:127.0.0.1:").isdecimal() for uri in uris)
        finally:
            served.send_signal(number)
            code = served.wait(60)
        assert code == 0, served.stderr.read()
