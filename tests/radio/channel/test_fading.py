"""Multipath against theory: distributions, Doppler correlation, delay spreads, and exact responses
to tones."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import j0
from scipy.stats import kstest, ncx2

from hil.contract import ConfigError
from radio.channel import PlaneWaves, TappedDelayLine
from radio.channel.profiles import SCATTERED, power_delay_profile

LATENCY = 12
"""Samples by which every path is late."""


def line(name, seed=1, rate=2e6, **figures):
    return TappedDelayLine(name, sample_rate_hz=rate, rng=np.random.default_rng(seed), **figures)


@pytest.mark.parametrize("letter", "ABCDE")
def test_profiles_are_the_standards_tables(letter):
    folder = Path(importlib.util.find_spec("sionna").submodule_search_locations[0])
    table = json.loads((folder / f"phy/channel/tr38901/models/v16_1/TDL-{letter}.json").read_text())
    delays, powers_db = np.array(table["delays"]), np.array(table["powers"])
    powers = 10 ** (powers_db / 10) / np.sum(10 ** (powers_db / 10))
    mine = power_delay_profile(f"TDL-{letter}", 100e-9)
    assert mine.sight_power == pytest.approx(powers[0] if table["los"] else 0.0)
    np.testing.assert_allclose(mine.powers, powers[table["los"] :])
    # the standard's delays have a spread of 1 but for rounding, and of 0.994 in profile D
    np.testing.assert_allclose(mine.delays_s, delays[table["los"] :] * 100e-9, rtol=7e-3)


@pytest.mark.parametrize("name", [n for n in SCATTERED if n != "flat"])
def test_impulse_responses_have_the_delay_spread_and_unit_mean_power(name):
    channel = line(name, rate=50e6, delay_spread_ns=300.0, doppler_hz=1000.0)
    rng = np.random.default_rng(0)
    impulse = np.zeros(channel.tail_samples + 1, np.complex64)
    impulse[0] = 1
    responses = []
    for _ in range(600):
        responses.append(channel(impulse, rng))
        channel.advance(
            rng.uniform(0, 0.01)
        )  # at equal steps waves would alias onto the line of sight
    used = np.abs(np.fft.fftfreq(len(impulse))) < 0.39
    spectra = np.abs(np.fft.fft(responses, axis=1)[:, used]) ** 2
    power = np.mean(np.abs(responses) ** 2, axis=0)
    place = np.arange(len(power)) / 50e6
    mean = np.average(place, weights=power)
    assert spectra.mean() == pytest.approx(1.0, abs=0.06)
    assert np.sqrt(np.average((place - mean) ** 2, weights=power)) == pytest.approx(
        300e-9, rel=0.05
    )


@pytest.mark.parametrize(("name", "k_factor_db"), [("TDL-D", 3.0), ("TDL-A", 6.0)])
def test_a_line_of_sight_can_be_set_and_the_delay_spread_stays(name, k_factor_db):
    profile = power_delay_profile(name, 50e-9, k_factor_db)
    assert 10 * np.log10(profile.sight_power / profile.powers.sum()) == pytest.approx(k_factor_db)
    assert profile.sight_power + profile.powers.sum() == pytest.approx(1.0)
    assert profile.delay_spread_s == pytest.approx(50e-9)


@pytest.mark.parametrize("k_factor_db", [None, 6.0])
def test_gains_are_distributed_as_rayleigh_and_rice_have_it(k_factor_db):
    times = np.arange(40) * 3.21
    lines = [line("flat", seed, doppler_hz=1.0, k_factor_db=k_factor_db) for seed in range(100)]
    power = np.concatenate([np.abs(each.gains(times).sum(axis=1)) ** 2 for each in lines])
    k = 10 ** (k_factor_db / 10) if k_factor_db else 0.0
    # |line of sight + scatter|² is a non-central chi-square of two degrees; without line of sight
    # exponential
    law = ncx2(df=2, nc=2 * k).cdf if k else (lambda x: 1 - np.exp(-x / 2))
    assert kstest(2 * (k + 1) * power, law).pvalue > 0.01
    assert power.mean() == pytest.approx(1.0, abs=0.05)


def test_gains_correlate_over_time_as_jakes_has_it_and_paths_are_independent():
    turns = np.arange(12) * 0.11
    gains = PlaneWaves(8000, np.random.default_rng(91))(turns)
    found = np.mean(gains * np.conj(gains[0]), axis=1)
    np.testing.assert_allclose(found, j0(2 * np.pi * turns), atol=0.045)
    assert abs(np.mean(gains[0, 1:] * np.conj(gains[0, :-1]))) < 0.045


@pytest.mark.parametrize("cycles", [-0.39, 0.13, 0.39])
@pytest.mark.parametrize("doppler_hz", [0.0, 5.0, 300.0])
def test_a_tone_meets_the_paths_where_they_are_to_58_db(cycles, doppler_hz):
    rate = 4e6
    channel = line("TDL-C", 3, rate, delay_spread_ns=300.0, doppler_hz=doppler_hz)
    channel.advance(12.34)
    n = np.arange(12_000)
    out = channel(np.exp(2j * np.pi * cycles * n).astype(np.complex64), np.random.default_rng(0))
    delays = np.append(channel.profile.delays_s, 0.0) * rate + LATENCY
    response = channel.gains(12.34 + n / rate) @ np.exp(-2j * np.pi * cycles * delays)
    settled = slice(100, None)
    error = out[settled] - (response * np.exp(2j * np.pi * cycles * n))[settled]
    assert np.sqrt(np.mean(np.abs(error) ** 2)) < 1.3e-3


def test_calls_one_after_another_are_one_channel():
    rng = np.random.default_rng(92)
    iq = (rng.standard_normal(9000) + 1j * rng.standard_normal(9000)).astype(np.complex64)
    whole = line("TDL-B", 4, delay_spread_ns=900.0, doppler_hz=200.0)(iq, rng)
    channel = line("TDL-B", 4, delay_spread_ns=900.0, doppler_hz=200.0)
    pieces = np.concatenate([channel(part, rng) for part in np.split(iq, [1, 5, 5, 700, 4000])])
    np.testing.assert_allclose(pieces, whole, atol=2e-4)


def test_a_pause_changes_the_channel_as_much_as_its_doppler_says():
    pause_s = 0.05
    pairs = []
    for seed in range(400):
        channel = line("flat", seed, doppler_hz=5.0)
        before = channel.gains(np.array([0.0]))[0, 0]
        channel.advance(pause_s)
        out = channel(np.ones(40, np.complex64), np.random.default_rng(0))
        pairs.append((before, out[-1]))
    before, after = np.array(pairs).T
    assert np.mean(before.conj() * after).real == pytest.approx(
        j0(2 * np.pi * 5.0 * pause_s), abs=0.12
    )


def test_another_sample_rate_keeps_the_channel():
    channel = line("TDL-C", 5, rate=8e6, delay_spread_ns=1000.0)
    tail, gains = channel.tail_samples, channel.gains(np.array([0.0]))
    channel.sample_rate_hz = 1e6
    assert channel.tail_samples < tail
    np.testing.assert_array_equal(channel.gains(np.array([0.0])), gains)
    out = channel(np.ones(400, np.complex64), np.random.default_rng(0))
    assert out[-1] == pytest.approx(gains.sum(), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "figures", "words"),
    [
        ("TDL-F", {}, "must be one of flat, TDL-A"),
        ("TDL-A", {"delay_spread_ns": -1.0}, "at least 0"),
        ("TDL-A", {"doppler_hz": float("nan")}, "Doppler"),
    ],
)
def test_impossible_channels_are_refused(name, figures, words):
    with pytest.raises(ConfigError, match=words):
        line(name, **figures)
