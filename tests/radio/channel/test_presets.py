import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel import (
    PRESETS,
    ClockOffset,
    Figures,
    TappedDelayLine,
    figures,
    frontend,
    oscillator,
)
from radio.channel.presets import NOISE_ALONE, clocks, multipath, receive_end, transmit_end


def test_a_figure_of_its_own_replaces_the_presets():
    harsh = figures("harsh", clock_offset_ppm=-5.0, adc_bits=8)
    assert (harsh.clock_offset_ppm, harsh.adc_bits) == (-5.0, 8)
    assert harsh.iq_gain_db == PRESETS["harsh"].iq_gain_db
    assert figures("awgn") == Figures(cfo_hz=10e3)


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("sunny", {}, "presets are awgn, lab_cable"),
        ("awgn", {"colour": 3}, "colour.*figures adc_bits"),
        (
            "awgn",
            {"doppler_hz": 5.0},
            "doppler_hz = 5.0 does nothing while profile = none; set profile",
        ),
        ("awgn", {"profile": "flat", "delay_spread_ns": 50.0}, "does nothing while profile = flat"),
        ("lab_cable", {"pll_bandwidth_hz": 1e3}, "set phase_noise_dbc_hz as well"),
        ("indoor_los", {"profile": "none", "k_factor_db": 3.0}, "does nothing"),
    ],
)
def test_figures_that_mean_nothing_are_refused(preset, overrides, words):
    with pytest.raises(ConfigError, match=words):
        figures(preset, **overrides)


def test_models_stand_in_the_order_of_the_signals_way():
    rng = np.random.default_rng(0)
    everything = figures("harsh", profile="TDL-A", tx_dc_dbfs=-40.0, tx_iq_gain_db=0.5)
    kinds = {
        "transmit": [type(model) for model in transmit_end(everything)],
        "air": [type(model) for model in multipath(everything, 2e6, rng)],
        "clocks": [type(model) for model in clocks(everything, 2e6)],
        "receive": [type(model) for model in receive_end(everything)],
    }
    assert kinds == {
        "transmit": [frontend.DcOffset, frontend.IqImbalance, frontend.RappAmplifier],
        "air": [TappedDelayLine],
        "clocks": [ClockOffset, oscillator.PhaseNoise],
        "receive": [
            frontend.IqImbalance,
            frontend.DcOffset,
            frontend.Clipping,
            frontend.Quantisation,
        ],
    }


def test_noise_alone_is_noise_alone():
    rng = np.random.default_rng(0)
    for f in (NOISE_ALONE, PRESETS["awgn"]):
        assert transmit_end(f) + multipath(f, 2e6, rng) + clocks(f, 2e6) + receive_end(f) == ()
