"""The constant in a burst: by the pauses beside it, unless it is the burst's own."""

import numpy as np
import pytest

from radio.modem import ofdm
from radio.modem.dc_offset import constant

PAUSE, SYMBOLS = 3000, 20


def capture(seed, in_pauses, in_burst, noise=0.01):
    """(samples, first and last of the burst): OFDM between two pauses, with a constant in each."""
    rng = np.random.default_rng(seed)
    data = (rng.standard_normal((SYMBOLS, ofdm.N_DATA, 2)) @ [0.7, 0.7j]).astype(np.complex64)
    body = ofdm.modulate(data) + in_burst
    pause = np.full(PAUSE, in_pauses)
    iq = np.concatenate([pause, body, pause])
    iq = iq + noise * (rng.standard_normal((len(iq), 2)) @ [1, 1j])
    return iq.astype(np.complex64), PAUSE, PAUSE + len(body)


@pytest.mark.parametrize("seed", range(5))
def test_a_receivers_constant_is_found_in_the_pauses_better_than_in_the_burst(seed):
    dc = 0.004 - 0.003j
    iq, first, last = capture(seed, dc, dc)
    found = constant(iq, first, last)
    assert abs(found - dc) < 0.0006
    assert abs(found - dc) < abs(iq[first:last].mean() - dc)


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_that_only_the_burst_has_is_taken_from_the_burst(seed):
    leakage = 0.08 + 0.05j
    iq, first, last = capture(seed, 0.0, leakage)
    assert abs(constant(iq, first, last) - leakage) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_what_may_be_chance_stays_in(seed):
    iq, first, last = capture(seed, 0.0, 0.0)
    found = constant(iq, first, last)
    assert abs(found) < abs(iq[first:last].mean())
    assert abs(found) < 5e-4


@pytest.mark.parametrize("n", [0, 1, 100])
def test_silence_and_few_samples_have_no_constant(n):
    assert constant(np.zeros(n, np.complex64), 0, n) == 0
