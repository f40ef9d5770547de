"""`hil bench pluto` measures what it says, in a form of seconds."""

import pytest

from hil.benchmarks.pluto import SNRS_DB, bench


@pytest.mark.slow
@pytest.mark.usefixtures("libiio")
def test_figures_of_the_whole_stack():
    told = []
    figures = bench(
        lambda done, total, what: told.append((done, total)), bursts=1, seconds=0.05, seed=3
    )
    assert told == [(k, 3 + len(SNRS_DB)) for k in range(4 + len(SNRS_DB))]
    assert all(
        figures[name] > 0 for name in ("rx_free_running_hz", "rx_of_4e6_in_real_time_hz", "open_s")
    )
    for snr_db in SNRS_DB:
        assert figures[f"found_at_{snr_db:g}_db"] == 1
        assert 0 < figures[f"snr_error_worst_at_{snr_db:g}_db_db"] < 1
        assert 0 < figures[f"cfo_error_worst_at_{snr_db:g}_db_hz"] < 20
