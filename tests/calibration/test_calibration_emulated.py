"""The whole way through the emulator: libiio's client, a server, an ether whose truth is known."""

import math

import pytest

from calibration.bench import Bench, Plan
from calibration.calibrate import calibrate
from calibration.store import load, save
from hil.contract import CalibrationError
from radio.channel import IqImbalance
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether, NodeSpec
from radio.emulator.front_end import RfSettings, noise_dbfs
from radio.modem import mcs
from radio.pluto.driver import PlutoDevice
from radio.pluto.permission import Band, Permission
from radio.pluto.settings import PlutoSettings

pytestmark = pytest.mark.usefixtures("libiio")
LO_HZ = 915e6
PLAN = Plan(
    rx_gain_db=45.0,
    tx_attenuation_db=10.0,
    samples=2**14,
    rx_gains_db=(30.0, 45.0, 55.0, 65.0),
    tx_attenuations_db=(16.0, 22.0, 28.0, 34.0, 40.0),
    blocks=16,
    places=(9,),
)
RECEIVER = NodeSpec(ppm=-2.0, rx_dc_dbfs=-52.0, rx_iq_gain_db=0.4, rx_iq_phase_deg=1.5)


@pytest.fixture(scope="module")
def emulated_records():
    """Records of an emulated pair, and the ether that they are held against."""
    ether = Ether([NodeSpec(ppm=4.0), RECEIVER], clock=VirtualTime(), path_loss_db=45.0, seed=5)
    permission = Permission([Band(low_hz=LO_HZ - 2e6, high_hz=LO_HZ + 2e6, max_dbm=0.0)])
    settings = {
        "rate_hz": 1e6,
        "tx_lo_hz": LO_HZ,
        "rx_lo_hz": LO_HZ,
        "rx_gain_db": 45.0,
        "tx_attenuation_db": 10.0,
    }
    with (
        EmulatedPlutos(ether) as plutos,
        PlutoDevice(PlutoSettings(uri=plutos.uris[0], **settings), permission) as transmitter,
        PlutoDevice(PlutoSettings(uri=plutos.uris[1], **settings), permission) as receiver,
    ):
        bench = Bench(transmitter=transmitter, receiver=receiver, path="emulated, 45 dB")
        records = {
            record.quantity: record for record in calibrate(["gain", "cfo", "snr"], bench, PLAN)
        }
        yield records, ether, transmitter, receiver


@pytest.mark.slow
def test_levels_gains_and_front_end(emulated_records):
    records = emulated_records[0]
    assert records["rx_gain"].values == pytest.approx(records["rx_gain"].at, abs=0.2)
    assert records["tx_attenuation"].values == pytest.approx(records["tx_attenuation"].at, abs=0.2)
    assert records["dc_offset"].values == pytest.approx([-52.0] * 4, abs=1.0)
    truth = -20 * math.log10(abs(IqImbalance(0.4, 1.5).image))
    assert records["image_rejection"].value == pytest.approx(truth, abs=1.0)
    rounding = 2 / 12 / 2048**2
    expected = [
        10
        * math.log10(
            10 ** (noise_dbfs(RECEIVER, RfSettings(rate_hz=1e6, rx_gain_db=gain_db)) / 10)
            + rounding
        )
        for gain_db in PLAN.rx_gains_db
    ]
    assert records["noise_floor"].values == pytest.approx(expected, abs=0.5)


@pytest.mark.slow
def test_offsets_of_the_oscillators(emulated_records):
    records = emulated_records[0]
    assert records["cfo"].value == pytest.approx(6.0, abs=0.1)
    assert records["clock_offset"].value == pytest.approx(6.0, abs=0.1)


@pytest.mark.slow
def test_both_methods_find_the_snr_of_the_ether(emulated_records):
    records, ether, transmitter, receiver = emulated_records
    receiver.configure(rx_gain_db=PLAN.rx_gain_db)
    rms_dbfs = 20 * math.log10(0.2 / 2)  # the driver leaves 6 dB to the converter's full scale
    assert len(records["snr_data_aided"].at) >= 4
    for k, attenuation_db in enumerate(records["snr_data_aided"].at):
        transmitter.configure(tx_attenuation_db=attenuation_db)
        truth = ether.snr_db(0, 1, rms_dbfs)
        # the image of 34 dB is noise to the modem at the top
        for name in ("snr_data_aided", "snr_noise_floor"):
            assert records[name].values[k] == pytest.approx(truth, abs=0.5 if truth < 27 else 1.5)
    assert records["snr_disagreement"].flags == ()


@pytest.mark.slow
def test_a_scheme_and_its_table(emulated_records):
    records = emulated_records[0]
    measured = records["mcs_threshold"].values[9]
    assert measured == pytest.approx(mcs.LOOPBACK.threshold_db[9], abs=0.5)


@pytest.mark.slow
def test_records_say_that_they_are_emulated_and_hardware_refuses_them(emulated_records, tmp_path):
    records = emulated_records[0]
    conditions = records["cfo"].conditions
    assert (conditions.serial, conditions.tx_serial, conditions.emulated) == (
        "emulated-1",
        "emulated-0",
        True,
    )
    assert math.isfinite(conditions.temperature_c)
    save(tmp_path, list(records.values()))
    asked = {
        "serial": "emulated-1",
        "lo_hz": LO_HZ,
        "rate_hz": 1e6,
        "now_utc": records["cfo"].measured_at,
    }
    assert load(tmp_path, **asked, emulated=True).record("cfo").value == pytest.approx(6.0, abs=0.1)
    with pytest.raises(
        CalibrationError, match="kind is hardware, calibrated was an emulated radio"
    ):
        load(tmp_path, **asked, emulated=False)
