import json

import numpy as np
import pytest

from hil.contract import CalibrationError
from radio.link import usable
from radio.modem import mcs


def schemes():
    return json.loads(mcs.TABLE_FILE.read_text())["schemes"]


def test_the_shipped_table_is_what_the_functions_go_by():
    snr_db = np.linspace(-10, 30, 401)
    assert (mcs.LOOPBACK.fastest(snr_db) == mcs.fastest(snr_db)).all()
    assert (mcs.LOOPBACK.loss_at(5, snr_db) == mcs.block_error_rate(mcs.MCS_TABLE[5], snr_db)).all()


def test_the_fastest_is_the_last_that_keeps_the_target():
    table = mcs.LossTable(np.arange(18.0), np.full(18, 0.1))
    for snr_db in np.arange(-2, 20, 0.13):
        keeping = np.flatnonzero(table.loss_at(np.arange(18), snr_db) <= mcs.TARGET_LOSS)
        assert table.fastest(snr_db) == (keeping[-1] if len(keeping) else 0)


def test_a_scheme_that_needs_more_than_a_faster_one_is_passed_over():
    thresholds = np.arange(18.0)
    thresholds[4] = 6.5
    table = mcs.LossTable(thresholds, np.full(18, 0.01))
    assert table.fastest(6.3) == 3
    assert table.fastest(6.8) == 6


def test_usable_is_a_matter_of_the_bench():
    worse = mcs.LossTable(mcs.LOOPBACK.threshold_db + 5, mcs.LOOPBACK.width_db)
    assert usable(-5.0)
    assert not usable(-5.0, worse)
    assert usable(0.0, worse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(), "not a table of schemes"),
        (lambda s: s[3].pop("width_db"), "not a table of schemes"),
        (lambda s: s[3].update(threshold_db=None), "not a table of schemes"),
        (lambda s: s[3].update(threshold_db=float("nan")), "not finite"),
        (lambda s: s[3].update(width_db=0.0), "not positive"),
    ],
)
def test_damaged_tables_are_refused(change, message):
    damaged = schemes()
    change(damaged)
    with pytest.raises(CalibrationError, match=f"^here: .*{message}"):
        mcs.read_losses({"schemes": damaged}, "here")
