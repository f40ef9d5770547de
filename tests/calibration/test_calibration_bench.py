"""Every measurement recovers what the invented bench was told."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from calibration import noise
from calibration.bench import SETTLE_SAMPLES, Plan
from calibration.bench_mcs import measure_schemes
from calibration.burst import cyclic_burst, hear
from calibration.calibrate import calibrate
from calibration.compression import measure_compression
from calibration.gain import measure_rx_gain, measure_tx_attenuation
from calibration.image import measure_image
from calibration.oscillator import measure_offsets
from calibration.reference import measure_reference
from calibration.snr_sweep import Dial, measure_sweep, sweep_records
from hil.contract import CalibrationError, DeviceError
from radio.channel import IqImbalance
from radio.modem import mcs

PLAN = Plan(rx_gain_db=20.0, tx_attenuation_db=10.0, samples=2**14, blocks=24)


def by_name(records):
    return {record.quantity: record for record in records}


@pytest.mark.slow
def test_noise_floor_and_dc_offset_gain_by_gain(make_air, make_bench):
    air = make_air(dc_dbfs=-52.0)
    found = by_name(noise.measure_noise(make_bench(air), PLAN))
    truth = [air.noise_dbfs(gain_db) for gain_db in PLAN.rx_gains_db]
    assert found["noise_floor"].values == pytest.approx(truth, abs=0.3)
    per_subcarrier = np.array(truth) - 10 * math.log10(256)
    assert found["noise_per_subcarrier"].values == pytest.approx(per_subcarrier, abs=0.3)
    assert found["dc_offset"].values == pytest.approx([-52.0] * len(truth), abs=1.0)
    assert found["noise_floor"].axis == "rx_gain_db"
    assert all(0 < spread < 0.3 for spread in found["noise_floor"].spread)


@pytest.mark.slow
def test_a_dc_offset_below_the_noise_is_a_bound_and_says_so(make_air, make_bench):
    found = by_name(noise.measure_noise(make_bench(make_air()), PLAN))["dc_offset"]
    floor = PLAN.samples**-1
    assert "does not stand out of the noise" in found.notes[0]
    assert max(found.values) < -30 + 10 * math.log10(floor) + 8


@pytest.mark.slow
def test_gain_and_attenuation_steps(make_air, make_bench):
    air = make_air(
        gain_error_db=lambda gain_db: 0.8 * math.sin(gain_db / 6),
        attenuation_error_db=lambda attenuation_db: 0.03 * attenuation_db - (attenuation_db > 40),
        cfo_hz=-3100.0,
    )
    bench = make_bench(air)
    (gain,) = measure_rx_gain(bench, PLAN)
    assert gain.at == PLAN.rx_gains_db
    assert gain.values == pytest.approx([air.gain_db(g) - air.gain_db(0) for g in gain.at], abs=0.2)
    (attenuation,) = measure_tx_attenuation(bench, PLAN)
    assert attenuation.at[0] == 10
    assert attenuation.at[-1] >= 70
    real = [air.real_attenuation_db(a) - air.real_attenuation_db(10) + 10 for a in attenuation.at]
    assert attenuation.values == pytest.approx(real, abs=0.35)
    steep = [k for k, a in enumerate(attenuation.at) if a <= 60]
    assert np.array(attenuation.values)[steep] == pytest.approx(np.array(real)[steep], abs=0.1)
    assert "furthest from its setting" in attenuation.notes[-1]


@pytest.mark.slow
def test_a_path_on_which_no_tone_is_heard_is_named(make_air, make_bench):
    with pytest.raises(
        CalibrationError, match=r"rx_gain: the tone is not clear .* lower tx_attenuation_db"
    ):
        measure_rx_gain(make_bench(make_air(loss_db=160.0)), PLAN)


def compressed(amplitude):
    """Amplitude of a tone behind a limiter of I and Q at 1: the describing function of
    saturation."""
    x = 1 / amplitude
    return (
        amplitude * 2 / math.pi * (math.asin(x) + x * math.sqrt(1 - x * x))
        if amplitude > 1
        else amplitude
    )


@pytest.mark.slow
def test_compression_and_window_of_a_converter(make_air, make_bench):
    air = make_air()
    found = by_name(measure_compression(make_bench(air), PLAN))
    amplitude = brentq(lambda a: 20 * math.log10(a / compressed(a)) - 1, 1, 3)
    assert found["compression_level"].value == pytest.approx(
        20 * math.log10(compressed(amplitude)), abs=0.1
    )
    # I and Q are Gaussian: one sample in 10,000 has one of them beyond the limit at this rms level;
    # the sweep has steps
    rms = 2**0.5 / 4.06
    assert 20 * math.log10(rms) - 1.2 <= found["usable_high"].value <= 20 * math.log10(rms) + 0.2
    gain_db = found["usable_low"].conditions.rx_gain_db
    # noise adds 1 dB to a signal of 1 / (10^0.1 - 1) times its power
    assert found["usable_low"].value == pytest.approx(air.noise_dbfs(gain_db) + 5.87, abs=0.3)
    assert not any(record.flags for record in found.values())


@pytest.mark.slow
def test_a_bench_that_cannot_be_overdriven_says_so(make_air, make_bench):
    found = by_name(measure_compression(make_bench(make_air(loss_db=90.0, noise_db=-120.0)), PLAN))
    assert "not reached" in found["compression_level"].flags[0]


@pytest.mark.slow
@pytest.mark.parametrize(("gain_db", "phase_deg"), [(0.5, 2.0), (0.1, 0.5), (1.0, -3.0)])
def test_image_rejection(make_air, make_bench, gain_db, phase_deg):
    air = make_air(iq_gain_db=gain_db, iq_phase_deg=phase_deg, cfo_hz=1500.0, dc_dbfs=-50.0)
    (found,) = measure_image(make_bench(air), PLAN)
    truth = -20 * math.log10(abs(IqImbalance(gain_db, phase_deg).image))
    assert found.value == pytest.approx(truth, abs=0.5)
    assert not found.notes


@pytest.mark.slow
def test_an_image_that_is_not_there_is_a_bound(make_air, make_bench):
    (found,) = measure_image(make_bench(make_air(), one_radio=True), PLAN)
    assert found.value > 55
    assert len(found.notes) == 2  # it hides in the noise, and the carriers are equal


@pytest.mark.slow
@pytest.mark.parametrize(("cfo_hz", "clock_ppm"), [(2745.0, 3.0), (-22875.0, -25.0), (0.4, 0.0004)])
def test_carrier_and_clock_offset_to_a_tenth_of_a_ppm(make_air, make_bench, cfo_hz, clock_ppm):
    air = make_air(
        cfo_hz=cfo_hz, clock_ppm=clock_ppm, iq_gain_db=0.5, dc_dbfs=-45.0, phase_noise_dbc_hz=-85.0
    )
    found = by_name(measure_offsets(make_bench(air), PLAN))
    assert found["cfo"].value == pytest.approx(cfo_hz / 915, abs=0.01)
    assert found["cfo_hz"].value == pytest.approx(cfo_hz, abs=10)
    assert found["clock_offset"].value == pytest.approx(clock_ppm, abs=0.1)
    assert found["cfo"].unit == "ppm"
    assert found["cfo"].conditions.temperature_c == 31.0
    assert not found["cfo"].notes


@pytest.mark.slow
def test_carriers_that_were_set_apart_are_no_offset(make_air, make_bench):
    bench = make_bench(make_air(cfo_hz=20e3 + 915.0), rx_lo_hz=915e6 - 20e3)
    assert by_name(measure_offsets(bench, PLAN))["cfo"].value == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_one_radio_has_no_offset_by_construction(make_air, make_bench):
    found = by_name(measure_offsets(make_bench(make_air(), one_radio=True), PLAN))
    assert found["cfo"].value == pytest.approx(0, abs=1e-3)
    assert "by construction" in found["cfo"].notes[0]


@pytest.fixture(scope="module")
def swept(make_air, make_bench):
    """An air with both offsets, its bench, and the SNR sweep over it."""
    air = make_air(cfo_hz=5000.0, clock_ppm=5.0, adc_noise_db=-66.0)
    bench = make_bench(air)
    return air, bench, measure_sweep(bench, PLAN)


@pytest.mark.slow
def test_both_methods_find_the_snr(swept):
    air, bench, sweep = swept
    truth = np.array([air.snr_db(20.0, a) for a in sweep.attenuation_db])
    middle = (truth > 3) & (truth < 36)
    assert middle.sum() >= 6
    for measured in (sweep.data_aided_db, sweep.noise_floor_db):
        assert measured.mean(axis=0)[middle] == pytest.approx(truth[middle], abs=0.4)
    found = by_name(sweep_records(bench, PLAN, sweep))
    assert not found["snr_disagreement"].flags
    assert abs(found["snr_disagreement"].value) < 0.5
    assert found["snr_data_aided"].at == tuple(sweep.attenuation_db)


@pytest.mark.slow
def test_distortion_that_one_method_does_not_see_is_a_disagreement(make_air, make_bench):
    bench = make_bench(make_air(phase_noise_dbc_hz=-75.0, cfo_hz=500.0))
    (flag,) = by_name(sweep_records(bench, PLAN, measure_sweep(bench, PLAN)))[
        "snr_disagreement"
    ].flags
    assert "differ by -" in flag
    assert "phase noise" in flag


@pytest.mark.slow
def test_an_interferer_in_the_silence_is_a_disagreement(make_air, make_bench):
    bench = make_bench(make_air(interferer_in_silence=True, noise_db=-90.0))
    (flag,) = by_name(sweep_records(bench, PLAN, measure_sweep(bench, PLAN)))[
        "snr_disagreement"
    ].flags
    assert "differ by +" in flag
    assert "interferer" in flag


@pytest.mark.slow
def test_no_whole_burst_is_missed_wherever_the_capture_begins(make_air, make_bench):
    bench = make_bench(make_air(cfo_hz=700.0))
    bench.set(rx_gain_db=20.0)
    sent = cyclic_burst(12, 1, np.random.default_rng(8))
    whole = np.zeros(0, np.complex64)
    bench.receiver.capture = lambda n_samples: whole[:n_samples]
    rng = np.random.default_rng(9)
    for first in [0, *range(169, 186, 2), 500, *rng.integers(len(sent.iq), size=4)]:
        whole = np.resize(
            np.roll(sent.iq, -int(first) + SETTLE_SAMPLES), SETTLE_SAMPLES + 3 * len(sent.iq)
        )
        whole += rng.standard_normal(2 * len(whole), np.float32).view(np.complex64) * np.float32(
            0.004
        )
        heard = hear(bench, sent, 2)
        assert [reception.n_passed for reception in heard.receptions] == [1, 1]


@pytest.mark.slow
def test_a_bench_that_carries_nothing_is_named(make_air, make_bench):
    with pytest.raises(CalibrationError, match="unclipped at 0 of"):
        measure_sweep(make_bench(make_air(loss_db=120.0)), PLAN)


@pytest.mark.slow
def test_schemes_against_measured_snr_and_what_cannot_be_reached(make_air, make_bench):
    air = make_air(cfo_hz=900.0, adc_noise_db=-54.0)  # 19 dB at most
    bench = make_bench(air)
    plan = Plan(
        rx_gain_db=20.0, tx_attenuation_db=10.0, samples=2**14, blocks=24, places=(7, 12, 17)
    )
    names = []
    found = by_name(
        measure_schemes(bench, plan, Dial(sweep=measure_sweep(bench, plan)), on_scheme=names.append)
    )
    table = found["mcs_threshold"]
    moved = np.array(table.values) - mcs.LOOPBACK.threshold_db
    assert table.at == tuple(float(scheme.index) for scheme in mcs.MCS_TABLE)
    assert moved == pytest.approx(np.zeros(18), abs=0.3)  # noise alone, as in loopback
    assert moved[17] == pytest.approx(moved[12])
    assert "MCS 26 256-QAM 0.90: SNR of" in table.flags[0]
    assert "cannot be set" in table.flags[0]
    assert np.isfinite(table.spread[7])
    assert np.isnan(table.spread[17])
    assert set(found) == {"mcs_threshold", "mcs_width", "bler_9", "bler_17"}
    assert found["bler_9"].values[0] > 0.5 > found["bler_9"].values[-1]
    assert names == [mcs.MCS_TABLE[place].name for place in plan.places]


@pytest.mark.slow
def test_a_dial_sets_the_snr_between_the_steps_of_the_attenuator(swept):
    air, _, sweep = swept
    dial = Dial(sweep=sweep)
    for snr_db in (2.0, 7.3, 20.11):
        attenuation_db, backoff_db = dial.settings(snr_db)
        assert attenuation_db % 0.25 == 0
        assert 0 <= backoff_db < 0.25
        assert air.snr_db(20.0, attenuation_db) - backoff_db == pytest.approx(snr_db, abs=0.4)
    with pytest.raises(CalibrationError, match=r"SNR of 60.0 dB cannot be set: this bench reaches"):
        dial.settings(60.0)


@pytest.mark.slow
def test_dbm_only_from_a_stated_reference(make_air, make_bench):
    bench = make_bench(make_air(loss_db=30.0))
    assert measure_reference(bench, PLAN) == []
    plan = Plan(rx_gain_db=20.0, tx_attenuation_db=10.0, reference_dbm=-37.0)
    (found,) = measure_reference(bench, plan)
    # the tone of amplitude 0.5 arrives at -6.02 - 10 - 30 + 20 dBFS
    assert found.value == pytest.approx(-37.0 + 26.02, abs=0.05)
    assert found.unit == "dBm"


@pytest.mark.slow
def test_the_transmitter_never_exceeds_what_is_allowed_and_is_silent_afterwards(
    make_air, make_bench
):
    air = make_air()
    bench = make_bench(air)
    least = []
    capture = bench.receiver.capture

    def watched(n_samples):
        if air.sent is not None:
            least.append(air.attenuation_db)
        return capture(n_samples)

    bench.receiver.capture = watched
    told = []
    plan = replace(PLAN, rx_gains_db=(0.0, 20.0, 40.0, 60.0), tx_attenuations_db=(18.0, 34.0, 50.0))
    calibrate(["cfo", "gain"], bench, plan, on_progress=lambda *step: told.append(step))
    assert min(least) == PLAN.tx_attenuation_db
    assert air.sent is None
    assert air.attenuation_db == 89.75
    assert [done for done, _, _ in told] == list(range(len(told)))
    assert told[-1] == (7, 7, "done")


@pytest.mark.slow
def test_an_error_leaves_the_transmitter_silent_and_the_steps_before_it_kept(make_air, make_bench):
    air = make_air()
    bench = make_bench(air)
    capture = bench.receiver.capture
    kept = []

    def failing(n_samples):
        if air.sent is not None:
            raise DeviceError("the receiver is gone")
        return capture(n_samples)

    bench.receiver.capture = failing
    with pytest.raises(DeviceError, match="gone"):
        calibrate(["gain"], bench, PLAN, on_records=kept.extend)
    assert air.sent is None
    assert "noise_floor" in by_name(kept)


@pytest.mark.slow
def test_a_capture_that_is_cut_short_is_refused(make_air, make_bench):
    bench = make_bench(make_air())
    capture = bench.receiver.capture
    bench.receiver.capture = lambda n_samples: capture(n_samples)[:-1]
    with pytest.raises(CalibrationError, match="gave 16383 of 16384 samples"):
        noise.measure_noise(bench, PLAN)


@pytest.mark.slow
def test_a_head_of_samples_that_has_not_settled_does_not_count(make_air, make_bench):
    air = make_air()
    bench = make_bench(air)
    capture = bench.receiver.capture

    def settling(n_samples):
        iq = capture(n_samples)
        iq[:2000] += 0.5
        return iq

    bench.receiver.capture = settling
    found = by_name(noise.measure_noise(bench, PLAN))
    assert found["noise_floor"].values[0] == pytest.approx(air.noise_dbfs(0), abs=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 2}, "a spread needs at least 3"),
        ({"rx_gains_db": (10.0, 5.0)}, "give at least two, rising"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(CalibrationError, match=message):
        Plan(rx_gain_db=20.0, tx_attenuation_db=10.0, **change)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loopback": "digital"}, 'loopback = "digital" has no noise'),
        ({"rx_lo_hz": 920e6}, "set both to the same"),
    ],
)
def test_a_receiver_that_cannot_hear_the_transmitter_is_refused(
    make_air, make_bench, settings, message
):
    with pytest.raises(CalibrationError, match=message):
        calibrate(["cfo"], make_bench(make_air(), **settings), PLAN)


@pytest.mark.slow
def test_a_tone_that_overdrives_the_receiver_is_turned_down_first(make_air, make_bench):
    air = make_air(loss_db=0.0, attenuation_error_db=lambda attenuation_db: 0.02 * attenuation_db)
    bench = make_bench(air)
    plan = Plan(rx_gain_db=40.0, tx_attenuation_db=10.0, samples=2**14)
    (attenuation,) = measure_tx_attenuation(bench, plan)
    assert attenuation.at[0] == 10
    assert attenuation.values == pytest.approx(
        [10 + 1.02 * (a - 10) for a in attenuation.at], abs=0.15
    )


@pytest.mark.slow
def test_unknown_quantities_are_refused(make_air, make_bench):
    with pytest.raises(CalibrationError, match="cannot calibrate phase; choose of gain, cfo, snr"):
        calibrate(["phase"], make_bench(make_air()), PLAN)
