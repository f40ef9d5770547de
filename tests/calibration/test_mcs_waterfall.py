import numpy as np
import pytest

from calibration import mcs as calibration
from hil.contract import CalibrationError
from radio.channel import Loopback
from radio.clocks import VirtualClock
from radio.modem import mcs


def counted(threshold_db, width_db, sent, rng):
    points = []
    for snr_db in threshold_db + np.arange(-0.6, 0.61, 0.15):
        odds = 1 / 9 * np.exp(-(snr_db - threshold_db) / width_db)
        lost = int(rng.binomial(sent, odds / (1 + odds)))
        points.append(calibration.BlerPoint(snr_db=float(snr_db), sent=sent, lost=lost))
    return points


@pytest.mark.slow
def test_a_known_waterfall_is_recovered_and_its_sigma_is_honest():
    rng = np.random.default_rng(81)
    fits = [calibration.fit_waterfall(counted(7.0, 0.12, 200, rng)) for _ in range(200)]
    errors = np.array([(f.threshold_db - 7.0) / f.threshold_std_db for f in fits])
    assert np.mean([f.threshold_db for f in fits]) == pytest.approx(7.0, abs=0.01)
    assert np.median([f.width_db for f in fits]) == pytest.approx(0.12, rel=0.1)
    assert 0.58 < np.mean(np.abs(errors) < 1) < 0.78


def test_a_step_is_no_steeper_than_is_believed():
    step = [
        calibration.BlerPoint(snr_db=x, sent=40, lost=40 if x < 3.1 else 0)
        for x in (2.8, 2.9, 3.0, 3.2, 3.3)
    ]
    fit = calibration.fit_waterfall(step, least_width_db=0.05)
    assert fit.width_db == 0.05
    assert fit.threshold_db == pytest.approx(3.15, abs=0.1)
    assert 0.005 < fit.threshold_std_db < 0.1


def test_counts_without_a_waterfall_are_refused():
    for lost in (0, 50):
        with pytest.raises(CalibrationError, match=f"{2 * lost} of 100 blocks lost"):
            calibration.fit_waterfall(
                [calibration.BlerPoint(snr_db=x, sent=50, lost=lost) for x in (1.0, 2.0)]
            )


@pytest.mark.slow
def test_a_loss_between_transmitter_and_receiver_moves_the_threshold_by_as_much():
    def weaker(snr_db, rng):
        attenuator = (lambda iq, _: iq * np.float32(10 ** (-3 / 20)),)
        return Loopback(clock=VirtualClock(), rng=rng, snr_db=snr_db, impairments=attenuator)

    start_db = mcs.MCS_TABLE[7].threshold_db
    one, other = (
        calibration.measure_waterfall(counter, 7, start_db=start_db + 2, blocks=40, seed=2)
        for counter in (calibration.loopback_counter(), calibration.loopback_counter(weaker))
    )
    assert one.threshold_db == pytest.approx(start_db, abs=0.3)
    assert other.threshold_db - one.threshold_db == pytest.approx(3.0, abs=0.3)


@pytest.mark.slow
def test_a_channel_that_never_carries_is_named():
    with pytest.raises(
        CalibrationError, match=r"MCS 26 256-QAM 0.90: no SNR within 12 dB of -30 dB"
    ):
        calibration.measure_waterfall(
            calibration.loopback_counter(), 17, start_db=-30.0, blocks=8, seed=1
        )
