import numpy as np
import pytest

from radio.link import Adaptation, usable
from radio.modem.mcs import MCS_TABLE, block_error_rate


def test_the_fastest_scheme_that_keeps_the_target_is_chosen():
    adaptation = Adaptation()
    for snr_db in np.arange(MCS_TABLE[0].threshold_db + 1.5, 30, 0.1):
        chosen = adaptation.choose(snr_db)
        keeping = [scheme for scheme in MCS_TABLE if block_error_rate(scheme, snr_db) <= 0.01]
        goodput = [scheme.efficiency * (1 - block_error_rate(scheme, snr_db)) for scheme in keeping]
        assert chosen == keeping[int(np.argmax(goodput))]


def test_an_uncertain_snr_and_a_margin_slow_the_choice_down():
    third = MCS_TABLE[9]
    certain = Adaptation().choose(third.threshold_db + 1.0)
    assert certain == third
    assert Adaptation().choose(third.threshold_db + 1.0, 1.0).efficiency < certain.efficiency
    assert (
        Adaptation(margin_db=1.0).choose(third.threshold_db + 1.0).efficiency < certain.efficiency
    )


def test_below_the_slowest_scheme_it_is_used_until_two_copies_do_not_help():
    slowest = MCS_TABLE[0]
    assert Adaptation(margin_db=6.0).choose(slowest.threshold_db - 2.0) == slowest
    assert Adaptation().choose(slowest.threshold_db - 4.5) is None
    assert not usable(-12.0)


def test_the_loop_settles_at_the_target():
    """A channel whose loss falls tenfold with each dB of margin loses 1 % where the loop leaves
    it."""
    rng = np.random.default_rng(61)
    adaptation = Adaptation()
    lost = []
    for _ in range(4000):
        errors = int(rng.binomial(20, min(1.0, 0.2 * 10**-adaptation.margin_db)))
        adaptation.observe(20, errors)
        lost.append(errors)
    assert np.mean(lost[1000:]) / 20 == pytest.approx(0.01, rel=0.15)


def test_one_answer_moves_the_margin_by_a_step_at_most_and_it_stays_bounded():
    adaptation = Adaptation()
    adaptation.observe(2000, 2000)
    assert adaptation.margin_db == 1.5
    for _ in range(10):
        adaptation.observe(2000, 2000)
    assert adaptation.margin_db == 6.0
    for _ in range(10):
        adaptation.observe(10_000, 0)
    assert adaptation.margin_db == 0.0
    adaptation.observe(0, 0)
    assert adaptation.margin_db == 0.0


def test_expected_losses_follow_table_copies_and_experience():
    scheme = MCS_TABLE[4]
    adaptation = Adaptation()
    near = adaptation.expected_losses(scheme, scheme.threshold_db)
    assert near == pytest.approx(
        [0.1, 1e-4, 1e-6], rel=1e-6
    )  # for copies, 1 % each until something was observed
    below = adaptation.expected_losses(scheme, scheme.threshold_db - 2.0)
    assert below[0] > 0.99
    assert below[1] < 0.01
    for _ in range(20):
        adaptation.observe(100, 30)
    assert adaptation.expected_losses(scheme, scheme.threshold_db + 5)[0] == pytest.approx(
        0.3, rel=0.01
    )
