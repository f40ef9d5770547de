"""What emulated radios hear of each other: levels, noise, carriers and clocks, against what their
figures say."""

from dataclasses import replace

import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel import Figures
from radio.channel.interferer import Interferer, WhiteNoise
from radio.channel.interferer import Tone as InterferingTone
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether, NodeSpec, RfSettings, Tone
from radio.link import receiver
from radio.modem import framing, sync
from radio.modem.mcs import MCS_TABLE

RATE = 2e6
LO = 2.4e9
N = 1 << 14
PLAIN = RfSettings(rx_lo_hz=LO, tx_lo_hz=LO, rate_hz=RATE, rx_gain_db=40.0, tx_attenuation_db=10.0)


def never():
    return False


def ether_of(*nodes, settings=PLAIN, seed=1, **kwargs):
    """An ether in virtual time whose radios are all set alike."""
    ether = Ether(nodes, clock=VirtualTime(), seed=seed, **kwargs)
    for node in range(len(nodes)):
        ether.configure(node, settings)
    return ether


def as_block(iq, full_scale=2**15 - 16):
    """The bytes that a client sends."""
    return np.round(np.stack([iq.real, iq.imag], 1) * full_scale).astype("<i2").tobytes()


def as_iq(data):
    """Full scale 1.0 from the bytes that a client receives."""
    codes = np.frombuffer(data, "<i2").astype(float)
    return (codes[::2] + 1j * codes[1::2]) / 2048


def tone(cycles, n=N):
    return np.exp(2j * np.pi * cycles * np.arange(n))


def repeat(ether, iq, node=0, full_scale=2**15 - 16):
    """A radio repeats these samples from now on."""
    queue = ether.open_tx(node, len(iq), 4, True)
    queue.push(as_block(iq, full_scale), 1.0, never)
    return queue


def listen(ether, n, node=1, buffer=N):
    """n samples or a few more, from now on."""
    ring = ether.open_rx(node, buffer, 4)
    heard = np.concatenate([as_iq(ring.read(1.0, never)) for _ in range(-(-n // buffer))])
    ring.close()
    return heard


def level_db(iq):
    return 10 * np.log10(np.mean(np.abs(iq) ** 2))


def frequency_hz(iq, near_hz, rate_hz=RATE):
    """Frequency of a tone that is within rate / 64 of near_hz: the slope of its phase."""
    turned = iq * np.exp(-2j * np.pi * near_hz / rate_hz * np.arange(len(iq)))
    means = turned[: len(iq) // 32 * 32].reshape(-1, 32).mean(axis=1)
    slope = np.polyfit(np.arange(len(means)), np.unwrap(np.angle(means)), 1)[0]
    return near_hz + slope / (2 * np.pi * 32) * rate_hz


# ------------------------------------------------------------------------------------------------
# levels


@pytest.mark.slow
def test_a_tone_arrives_at_the_level_of_the_link_budget():
    ether = ether_of(NodeSpec(), NodeSpec(), path_loss_db=50.0)
    repeat(ether, tone(0.125))
    # +7 dBm - 10 dB - 50 dB + 40 dB over the +5.9 dBm that fill the converter
    assert level_db(listen(ether, N)[1000:]) == pytest.approx(7 - 10 - 50 + 40 - 5.9, abs=0.02)


def test_attenuation_moves_the_level_by_as_much_until_the_noise_floor():
    floor_db = level_db(listen(ether_of(NodeSpec(), NodeSpec()), 8 * N))
    ether = ether_of(NodeSpec(), NodeSpec())
    repeat(ether, tone(0.125))
    levels, totals = [], []
    for attenuation in range(0, 90, 10):
        ether.configure(0, replace(PLAIN, tx_attenuation_db=float(attenuation)))
        heard = listen(ether, 9 * N)[N:]
        levels.append(20 * np.log10(np.abs(np.mean(heard * np.conj(np.tile(tone(0.125), 8))))))
        totals.append(level_db(heard))
    assert np.diff(levels[:6]) == pytest.approx(np.full(5, -10.0), abs=0.2)
    assert totals[:3] == pytest.approx(levels[:3], abs=0.1)
    assert totals[-2:] == pytest.approx([floor_db] * 2, abs=0.1)


@pytest.mark.parametrize(("gain_db", "rate_hz"), [(0.0, 2e6), (71.0, 2e6), (71.0, 20e6)])
def test_the_noise_floor_is_that_of_receiver_and_converter(gain_db, rate_hz):
    settings = RfSettings(rate_hz=rate_hz, rx_gain_db=gain_db)
    heard = listen(ether_of(NodeSpec(noise_figure_db=5.0), settings=settings), 16 * N, node=0)
    thermal = 10 ** ((-173.98 + 5.0 + 10 * np.log10(rate_hz) + gain_db - 5.9) / 10)
    # the converter's own, and the rounding of I and Q
    expected = thermal + 10**-6.6 + 2 / 12 / 2048**2
    assert level_db(heard) == pytest.approx(10 * np.log10(expected), abs=0.05)
    assert level_db(heard.real) == pytest.approx(level_db(heard.imag), abs=0.1)


def test_noise_is_white_and_gaussian():
    settings = RfSettings(rx_gain_db=71.0)
    heard = listen(ether_of(NodeSpec(), settings=settings), 64 * N, node=0)
    density = np.mean(np.abs(np.fft.fft(heard.reshape(-1, 64), axis=1)) ** 2, axis=0)
    assert density / density.mean() == pytest.approx(np.ones(64), abs=0.05)
    kurtosis = np.mean(heard.real**4) / np.mean(heard.real**2) ** 2
    assert kurtosis == pytest.approx(3.0, abs=0.03)


def test_too_much_gain_clips_at_full_scale():
    ether = ether_of(NodeSpec(), NodeSpec(), path_loss_db=30.0)
    repeat(ether, tone(0.125))
    heard = listen(ether, N)[1000:] * 2048
    assert heard.real.max() == 2047
    assert heard.real.min() == -2048


def test_a_receivers_own_dc_and_image():
    spec = NodeSpec(rx_dc_dbfs=-30.0, rx_iq_gain_db=1.0, rx_iq_phase_deg=3.0)
    ether = ether_of(NodeSpec(), spec, path_loss_db=40.0)
    repeat(ether, tone(0.125))
    spectrum = 20 * np.log10(np.abs(np.fft.fft(listen(ether, 2 * N)[N:]) / N))
    assert spectrum[0] == pytest.approx(-30.0, abs=0.1)
    # Valkama: image over signal |1 - g e^{jφ}| / |1 + g e^{-jφ}|
    ratio = 10 ** (1 / 20) * np.exp(1j * np.deg2rad(3))
    image_db = 20 * np.log10(abs((1 - ratio) / (1 + ratio.conjugate())))
    assert spectrum[-N // 8] - spectrum[N // 8] == pytest.approx(image_db, abs=0.1)


def test_one_radio_hears_itself_over_its_coupling():
    ether = ether_of(NodeSpec(ppm=20.0), coupling_loss_db=50.0)
    repeat(ether, tone(0.125))
    heard = listen(ether, N, node=0)[1000:]
    assert level_db(heard) == pytest.approx(7 - 10 - 50 + 40 - 5.9, abs=0.02)
    assert frequency_hz(heard, RATE / 8) == pytest.approx(
        RATE / 8, abs=0.1
    )  # one oscillator, no offset


def test_every_radio_hears_all_others():
    ether = ether_of(NodeSpec(), NodeSpec(), NodeSpec())
    repeat(ether, tone(0.125), node=0)
    repeat(ether, 0.5 * tone(-0.25), node=1)
    spectrum = 20 * np.log10(np.abs(np.fft.fft(listen(ether, 2 * N, node=2)[N:]) / N))
    assert spectrum[N // 8] == pytest.approx(7 - 10 - 60 + 40 - 5.9, abs=0.1)
    assert spectrum[-N // 4] == pytest.approx(7 - 10 - 60 + 40 - 5.9 - 6.02, abs=0.1)


def test_a_silent_radio_is_neither_heard_nor_hears():
    ether = ether_of(NodeSpec(), NodeSpec())
    floor_db = level_db(listen(ether, N))
    repeat(ether, tone(0.125))
    for node in (0, 1):
        ether.silence(node)
        assert level_db(listen(ether, N)) == pytest.approx(floor_db, abs=0.2)
        ether.restore(node)
        assert level_db(listen(ether, N)) > floor_db + 10


def test_a_transmitter_without_carrier_is_not_heard():
    ether = ether_of(NodeSpec(), NodeSpec())
    floor_db = level_db(listen(ether, N))
    ether.configure(0, replace(PLAIN, tx_lo_on=False))
    repeat(ether, tone(0.125))
    assert level_db(listen(ether, N)) == pytest.approx(floor_db, abs=0.2)


# ------------------------------------------------------------------------------------------------
# carrier and clock


@pytest.mark.parametrize(
    ("ppm", "lo_apart_hz"), [((12.0, -7.0), 0.0), ((0.0, 0.0), 150e3), ((-20.0, 15.0), -90e3)]
)
def test_the_carrier_offset_is_what_ppm_and_lo_say(ppm, lo_apart_hz):
    ether = ether_of(*(NodeSpec(ppm=p) for p in ppm))
    ether.configure(0, replace(PLAIN, tx_lo_hz=LO + lo_apart_hz))
    repeat(ether, tone(0.125))
    heard = listen(ether, 16 * N)[1000:]
    sent_hz = (LO + lo_apart_hz) * (1 + ppm[0] * 1e-6) + RATE / 8 * (1 + ppm[0] * 1e-6)
    offset_hz = sent_hz - LO * (1 + ppm[1] * 1e-6)
    # as counted by the receiver's own clock
    expected = offset_hz / (1 + ppm[1] * 1e-6)
    assert frequency_hz(heard, expected + 300) == pytest.approx(expected, abs=0.3)


def test_phase_goes_on_over_buffers_captures_and_changes():
    ether = ether_of(NodeSpec(ppm=5.0), NodeSpec(), path_loss_db=40.0)
    repeat(ether, tone(0.125))
    ring = ether.open_rx(1, N, 4)
    parts = [as_iq(ring.read(1.0, never))]
    ether.configure(0, replace(PLAIN, tx_attenuation_db=13.0))
    parts += [as_iq(ring.read(1.0, never)) for _ in range(3)]
    heard = np.concatenate(parts)[1000:]
    offset_hz = RATE / 8 * (1 + 5e-6) + LO * 5e-6
    turned = heard * np.exp(-2j * np.pi * offset_hz / RATE * np.arange(len(heard)))
    phases = np.angle(
        turned[: len(turned) // 256 * 256].reshape(-1, 256).mean(axis=1) / turned[:256].mean()
    )
    assert np.abs(phases).max() < 0.01


def test_a_carrier_that_is_set_anew_keeps_its_phase():
    ether = ether_of(NodeSpec(ppm=5.0), NodeSpec(), path_loss_db=40.0)
    repeat(ether, tone(0.0))
    ring = ether.open_rx(1, N, 4)
    parts = [as_iq(ring.read(1.0, never))]
    for offset_hz in (3e3, -20e3, 0.0):
        ether.configure(0, replace(PLAIN, tx_lo_hz=LO + offset_hz))
        parts.append(as_iq(ring.read(1.0, never)))
    phases = np.unwrap(np.angle(np.concatenate(parts)[100:]))
    frequencies = np.diff(phases) / (2 * np.pi) * RATE
    middles = [np.median(frequencies[n * N + 100 : (n + 1) * N - 200]) for n in range(4)]
    assert middles == pytest.approx(
        [LO * 5e-6 + offset_hz for offset_hz in (0.0, 3e3, -20e3, 0.0)], abs=200
    )
    for change in (N, 2 * N, 3 * N):
        before, after = (
            phases[change - 110 - 64 : change - 110],
            phases[change - 90 : change - 90 + 64],
        )
        at = np.arange(64)
        # both straight lines meet at the change
        ends = np.polyval(np.polyfit(at, before, 1), 74), np.polyval(np.polyfit(at, after, 1), -10)
        assert ends[0] == pytest.approx(ends[1], abs=0.05)


@pytest.mark.parametrize("ppm", [0.0, 3.0, 95.0, 300.0])
@pytest.mark.parametrize("cycles", [0.01, 0.2, 0.39])
def test_samples_between_samples_are_right_to_65_db_in_the_used_band(ppm, cycles):
    spec = NodeSpec(ppm=ppm, tx_full_scale_dbm=5.9, adc_noise_dbfs=-200.0, noise_figure_db=-100.0)
    settings = RfSettings(
        rx_lo_hz=LO, tx_lo_hz=LO, rate_hz=RATE, rx_gain_db=0.0, tx_attenuation_db=0.0
    )
    quiet = NodeSpec(tx_full_scale_dbm=5.9, adc_noise_dbfs=-200.0, noise_figure_db=-100.0)
    ether = ether_of(spec, quiet, settings=settings, path_loss_db=0.1)
    # carriers alike, so that only the sample clocks differ
    ether.configure(0, replace(settings, tx_lo_hz=LO / (1 + ppm * 1e-6)))
    cycles = round(cycles * N) / N
    repeat(ether, tone(cycles))
    heard = listen(ether, 4 * N)[1000:]
    offset = cycles * RATE * (1 + ppm * 1e-6)
    fitted = np.exp(2j * np.pi * offset / RATE * np.arange(len(heard)))
    error = heard - np.vdot(fitted, heard) / len(heard) * fitted
    # converters of 12 bits at both ends leave -71 dB already
    assert level_db(error) - level_db(heard) < -65


def test_clock_and_carrier_stay_exact_for_hours():
    ether = ether_of(NodeSpec(ppm=7.0), NodeSpec(ppm=-3.0), path_loss_db=40.0)
    ether.clock.wait_until(20_000.0, timeout_s=None, cancelled=never)
    repeat(ether, 0.9 * tone(0.125))
    heard = listen(ether, 8 * N)[1000:]
    offset = (RATE / 8 * (1 + 7e-6) + LO * 10e-6) / (1 - 3e-6) / RATE
    fitted = np.exp(2j * np.pi * offset * np.arange(len(heard)))
    error = heard - np.vdot(fitted, heard) / len(heard) * fitted
    assert level_db(error) < -64  # the noise floor lies at -65


@pytest.mark.parametrize("ratio", [0.25, 0.8, 1.25, 4.0])
def test_another_sample_rate_keeps_a_tone_and_makes_no_other(ratio):
    ether = ether_of(NodeSpec(), NodeSpec(), path_loss_db=40.0)
    ether.configure(0, replace(PLAIN, rate_hz=RATE * ratio))
    repeat(ether, tone(0.0625 / ratio if ratio < 1 else 0.0625))
    sent_hz = 0.0625 * RATE * max(ratio, 1.0)
    window = np.blackman(N)
    spectrum = np.abs(np.fft.fft(listen(ether, 2 * N)[N:] * window) / window.sum())
    place = round(sent_hz / RATE * N)
    assert 20 * np.log10(spectrum[place]) == pytest.approx(7 - 10 - 40 + 40 - 5.9, abs=0.2)
    spectrum[place - 4 : place + 5] = 0
    assert 20 * np.log10(spectrum.max()) < -55 - 8.9


@pytest.mark.parametrize(
    ("lo_apart", "cycles", "heard_at"), [(0.6, -0.3, 0.3), (0.6, 0.3, None), (1.2, -0.3, None)]
)
def test_what_lies_outside_the_receivers_band_does_not_fold_into_it(lo_apart, cycles, heard_at):
    ether = ether_of(NodeSpec(), NodeSpec(), path_loss_db=40.0)
    ether.configure(0, replace(PLAIN, tx_lo_hz=LO + round(lo_apart * N) / N * RATE))
    repeat(ether, tone(round(cycles * N) / N))
    spectrum = 20 * np.log10(np.abs(np.fft.fft(listen(ether, 2 * N)[N:]) / N))
    if heard_at is not None:
        place = round(cycles * N) + round(lo_apart * N)
        assert spectrum[place] == pytest.approx(7 - 10 - 40 + 40 - 5.9, abs=0.1)
        spectrum[place - 1 : place + 2] = -100
    assert spectrum.max() < -80


@pytest.mark.parametrize(("end", "corner"), [("tx", 1.6), ("rx", 1.4)])
def test_an_analogue_bandwidth_cuts_the_band(end, corner):
    ether = ether_of(NodeSpec(), NodeSpec(), path_loss_db=40.0)
    bandwidth_hz = 400e3
    ether.configure(
        0 if end == "tx" else 1, replace(PLAIN, **{f"{end}_bandwidth_hz": bandwidth_hz})
    )
    levels = []
    for over_corner in (-0.75, 0.75, 1.3):
        cycles = round(over_corner * corner * bandwidth_hz / 2 / RATE * N) / N
        queue = repeat(ether, tone(cycles))
        spectrum = np.fft.fft(listen(ether, 2 * N)[N:]) / N
        levels.append(20 * np.log10(np.abs(spectrum[round(cycles * N)])))
        queue.close()
    assert levels[:2] == pytest.approx([7 - 10 - 40 + 40 - 5.9] * 2, abs=0.1)
    assert levels[2] < -70


# ------------------------------------------------------------------------------------------------
# the kit's receiver


def burst(mcs=3, n_blocks=3):
    """A burst of random blocks, full scale 1.0."""
    rng = np.random.default_rng(7)
    size = framing.LONG.block_payload_bytes
    header = framing.BurstHeader(
        session=1,
        burst=0,
        mcs=MCS_TABLE[mcs],
        basis=0,
        first=0,
        block_count=n_blocks,
        payload_bytes=n_blocks * size,
        tag=bytes(6),
    )
    return framing.build_burst(
        header, rng.integers(0, 256, (n_blocks, size)).astype(np.uint8), range(n_blocks)
    ).iq


def receptions(ether, iq, full_scale=2**15 - 16):
    """What the kit's receiver makes of a burst that is repeated with pauses."""
    block = np.concatenate([iq, np.zeros(1000 + -len(iq) % 1000)])
    queue = repeat(ether, block, full_scale=full_scale)
    heard = listen(ether, 4 * len(block)).astype(np.complex64)
    queue.close()
    whole = [found for found in sync.find_bursts(heard) if found.start + len(iq) + 100 < len(heard)]
    return [receiver.receive_burst(heard, found) for found in whole]


@pytest.mark.slow
@pytest.mark.parametrize("snr_db", [3.0, 10.0, 20.0, 30.0])
@pytest.mark.parametrize("gain_db", [20.0, 60.0])
def test_the_kits_receiver_measures_the_snr_that_was_set(snr_db, gain_db):
    settings = replace(PLAIN, rx_gain_db=gain_db)
    ether = ether_of(NodeSpec(ppm=4.0), NodeSpec(ppm=-3.0), settings=settings)
    iq = burst()
    rms_dbfs = 20 * np.log10(0.2 * 2**14 / 2**15)  # OFDM at RMS_LEVEL, full scale sent as 2^14
    ether.set_snr(0, 1, snr_db, rms_dbfs)
    assert ether.snr_db(0, 1, rms_dbfs) == pytest.approx(snr_db, abs=1e-6)
    received = receptions(ether, iq, full_scale=2**14)
    assert len(received) >= 3
    measured = np.mean([r.measurement.snr_db for r in received])
    assert measured == pytest.approx(snr_db, abs=0.3)


@pytest.mark.parametrize("gain_db", [10.0, 60.0])
def test_white_interference_gives_the_sinr_of_theory(gain_db):
    ether = ether_of(
        NodeSpec(ppm=4.0),
        NodeSpec(ppm=-3.0),
        settings=replace(PLAIN, rx_gain_db=gain_db),
        interferer=Interferer(6.0, WhiteNoise(3)),
    )
    ether.set_snr(0, 1, 18.0, 20 * np.log10(0.2 * 2**14 / 2**15))
    received = receptions(ether, burst(), full_scale=2**14)
    measured = np.mean([r.measurement.snr_db for r in received])
    assert measured == pytest.approx(18.0 - 10 * np.log10(1 + 10**0.6), abs=0.3)


def test_a_tone_is_heard_at_its_level_over_the_noise():
    heard = [
        level_db(listen(ether_of(NodeSpec(), NodeSpec(), interferer=interferer), N))
        for interferer in (None, Interferer(20.0, InterferingTone(2e5)))
    ]
    assert heard[1] - heard[0] == pytest.approx(10 * np.log10(101), abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("ppm", [(10.0, -8.0), (-15.0, 5.0)])
def test_the_kits_receiver_finds_carrier_and_clock_offset(ppm):
    ether = ether_of(*(NodeSpec(ppm=p) for p in ppm))
    ether.set_snr(0, 1, 25.0, -20.0)
    received = receptions(ether, burst(n_blocks=12), full_scale=2**14)
    assert received
    for reception in received:
        assert reception.cfo * RATE == pytest.approx(LO * (ppm[0] - ppm[1]) * 1e-6, abs=30)
        assert reception.clock_offset_ppm == pytest.approx(ppm[0] - ppm[1], abs=1.0)


def test_an_snr_beyond_the_transmitters_converter_is_refused():
    with pytest.raises(ConfigError, match="cannot exceed"):
        ether_of(NodeSpec(), NodeSpec()).set_snr(0, 1, 60.0, -40.0)


# ------------------------------------------------------------------------------------------------
# figures


@pytest.mark.slow
def test_multipath_has_unit_mean_power_and_differs_from_radio_to_radio():
    figures = Figures(profile="TDL-B", delay_spread_ns=1000.0)
    rng = np.random.default_rng(5)
    iq = 0.2 * (rng.standard_normal((N, 2)) @ [1, 1j])
    gains = []
    responses = []
    for seed in range(12):
        ether = ether_of(NodeSpec(), NodeSpec(), NodeSpec(), figures=figures, seed=seed)
        repeat(ether, iq)
        for node in (1, 2):
            heard = np.fft.fft(listen(ether, 2 * N, node=node)[N:]) / np.fft.fft(iq)
            smooth = heard.reshape(-1, 16).mean(axis=1)
            gains.append(np.mean(np.abs(smooth[:300]) ** 2))
            responses.append(smooth)
    level = 10 ** ((7 - 10 - 60 + 40 - 5.9) / 10)
    assert np.mean(gains) / level == pytest.approx(1.0, abs=0.5)
    one, other = np.abs(responses[0]), np.abs(responses[1])
    assert np.corrcoef(one, other)[0, 1] < 0.8
    assert one[:300].std() / one[:300].mean() > 0.1  # the spread of delays bends the spectrum


def test_echoes_go_on_over_a_gap_between_captures():
    figures = Figures(profile="TDL-D", delay_spread_ns=300.0, doppler_hz=200.0)
    ether = ether_of(NodeSpec(ppm=2.0), NodeSpec(), figures=figures, path_loss_db=40.0)
    other = ether_of(NodeSpec(ppm=2.0), NodeSpec(), figures=figures, path_loss_db=40.0)
    for one in (ether, other):
        repeat(one, 0.9 * tone(0.125))
    whole = listen(ether, 8 * N)
    listen(other, N)
    other.clock.wait_until(5 * N / RATE, timeout_s=None, cancelled=never)
    np.testing.assert_allclose(listen(other, N), whole[5 * N : 6 * N], atol=1.01 / 2048)


def test_phase_noise_turns_the_receivers_carrier():
    figures = Figures(phase_noise_dbc_hz=-80.0, pll_bandwidth_hz=50e3)
    ether = ether_of(NodeSpec(), NodeSpec(), figures=figures, path_loss_db=40.0)
    repeat(ether, 0.9 * tone(0.125))
    heard = listen(ether, 17 * N)[N:]
    phases = np.angle(heard * np.conj(np.tile(tone(0.125), 16)))
    # a loop holds 2π · plateau · bandwidth of phase variance (plateau: 10 kHz lies within the loop)
    plateau = 10 ** (-80 / 10) * (10e3**2 + 50e3**2) / 50e3**2
    variance = np.pi * 50e3 * plateau
    assert np.std(np.unwrap(phases)) == pytest.approx(variance**0.5, rel=0.1)


def test_the_transmitters_amplifier_compresses_and_its_carrier_leaks():
    figures = Figures(pa_backoff_db=6.0, tx_dc_dbfs=-40.0)
    ether = ether_of(
        NodeSpec(), NodeSpec(), figures=figures, path_loss_db=40.0, coupling_loss_db=200.0
    )
    spectrum = np.abs(np.fft.fft(listen(ether, 2 * N)[N:]) / N)
    assert 20 * np.log10(spectrum[0]) == pytest.approx(-40 - 8.9, abs=0.2)
    levels = []
    for amplitude in (0.01, 0.4):  # saturation lies 6 dB over the modem's rms level of 0.2
        queue = repeat(ether, amplitude * tone(0.125))
        spectrum = np.abs(np.fft.fft(listen(ether, 2 * N)[N:]) / N)
        levels.append(20 * np.log10(spectrum[N // 8] / amplitude))
        queue.close()
    # Rapp, p = 2, at saturation: 2^(-1/4)
    assert levels[1] - levels[0] == pytest.approx(20 * np.log10(2**-0.25), abs=0.15)


# ------------------------------------------------------------------------------------------------
# tones


def test_tones_sound_while_no_stream_plays():
    place = round(0.1 * N)
    tones = (
        Tone(frequency_hz=place / N * RATE, scale=0.5, phase_deg=90.0, channel="I"),
        Tone(frequency_hz=place / N * RATE, scale=0.5, phase_deg=0.0, channel="Q"),
    )
    ether = ether_of(NodeSpec(), NodeSpec(), path_loss_db=40.0)
    ether.configure(0, replace(PLAIN, tones=tones))

    def levels():
        spectrum = 20 * np.log10(np.abs(np.fft.fft(listen(ether, 2 * N)[N:]) / N))
        return spectrum[place], spectrum[N // 4], spectrum[-place]

    expected = 7 - 10 - 40 + 40 - 5.9 - 6.02
    alone = levels()
    assert alone[0] == pytest.approx(expected, abs=0.2)
    assert alone[2] < -70  # cosine on I and sine on Q: no mirror image
    queue = repeat(ether, 0.5 * tone(0.25))
    playing = levels()
    assert playing[1] == pytest.approx(expected, abs=0.1)
    assert playing[0] < -70
    queue.close()
    afterwards = levels()
    assert afterwards[0] == pytest.approx(expected, abs=0.2)
    assert afterwards[1] < -70
