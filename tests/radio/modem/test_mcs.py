import numpy as np
import pytest

from radio.modem import mcs


def test_entries_are_those_of_the_standard():
    # TS 38.214 table 5.1.3.1-2: spectral efficiency of the entries used
    expected = {
        0: 0.2344,
        1: 0.3770,
        2: 0.6016,
        3: 0.8770,
        4: 1.1758,
        5: 1.4766,
        7: 1.9141,
        9: 2.4063,
        10: 2.5703,
    }
    expected |= {
        11: 2.7305,
        13: 3.3223,
        15: 3.9023,
        17: 4.5234,
        19: 5.1152,
        20: 5.3320,
        22: 5.8906,
        24: 6.5703,
    }
    expected |= {26: 7.1602}
    assert {scheme.index: scheme.efficiency for scheme in mcs.MCS_TABLE} == pytest.approx(
        expected, abs=6e-5
    )


def test_faster_schemes_need_more_snr_and_none_beats_capacity():
    thresholds = [scheme.threshold_db for scheme in mcs.MCS_TABLE]
    assert thresholds == sorted(thresholds)
    for scheme in mcs.MCS_TABLE:
        assert scheme.efficiency < np.log2(1 + 10 ** (scheme.threshold_db / 10))


def test_loss_is_ten_per_cent_at_the_threshold_and_falls():
    for scheme in mcs.MCS_TABLE:
        assert mcs.block_error_rate(scheme, scheme.threshold_db) == pytest.approx(0.1)
        grid = mcs.block_error_rate(scheme, scheme.threshold_db + np.linspace(-40, 40, 81))
        assert (np.diff(grid) <= 0).all()
        assert grid[0] == pytest.approx(1.0)
        assert grid[-1] == pytest.approx(0.0)


def test_names_are_unique_and_speak():
    names = [scheme.name for scheme in mcs.MCS_TABLE]
    assert len(set(names)) == 18
    assert names[2] == "MCS 2 QPSK 0.30"
    assert [entry.robust for entry in mcs.MCS_TABLE] == [True] * 2 + [False] * 16
    assert [entry.place for entry in mcs.MCS_TABLE] == list(range(18))
    assert [mcs.slowest(robust=robust).index for robust in (True, False)] == [0, 2]
