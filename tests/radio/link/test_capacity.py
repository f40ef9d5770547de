import numpy as np
import pytest

from radio.link import ModemLink, ShannonLink, budget, sample_rate_hz

BANDWIDTH_HZ = 1_570_312.5


def test_shannon_has_its_known_values():
    link = ShannonLink(efficiency=1.0)
    assert link.bits(1.0, 0.0, 1e6) == 1_000_000
    assert link.bits(2.0, 10 * np.log10(3), 1e6) == pytest.approx(4_000_000, abs=1)
    assert ShannonLink(efficiency=0.55).bits(1.0, 0.0, 1e6) == 550_000
    assert link.airtime_s(500_000, 0.0, 1e6) == pytest.approx(0.5)


@pytest.mark.parametrize("link", [ShannonLink(efficiency=0.55), ModemLink()])
def test_arrays_are_what_scalars_are_one_by_one(link):
    snr_db = np.array([12.0, 18.0, np.nan, 25.0])
    airtime_s = np.array([0.1, 0.4, 0.4, 0.0])
    bits = link.bits(airtime_s, snr_db, BANDWIDTH_HZ)
    assert bits.dtype == np.int64
    assert bits.tolist() == [
        int(link.bits(a, s, BANDWIDTH_HZ)) for a, s in zip(airtime_s, snr_db, strict=True)
    ]
    seconds = link.airtime_s(np.array([8000, 800_000, 8, 0]), snr_db, BANDWIDTH_HZ)
    alone = [
        float(link.airtime_s(b, s, BANDWIDTH_HZ))
        for b, s in zip((8000, 800_000, 8, 0), snr_db, strict=True)
    ]
    assert seconds.tolist() == alone


@pytest.mark.parametrize("link", [ShannonLink(efficiency=0.55), ModemLink()])
def test_without_a_measurement_nothing_gets_through(link):
    assert link.bits(1.0, np.nan, BANDWIDTH_HZ) == 0
    assert link.airtime_s(8, np.nan, BANDWIDTH_HZ) == np.inf
    assert link.airtime_s(0, np.nan, BANDWIDTH_HZ) == 0


@pytest.mark.parametrize("link", [ShannonLink(efficiency=0.55), ModemLink()])
@pytest.mark.parametrize("snr_db", [11.0, 17.0, 24.0])
def test_what_fits_an_airtime_takes_no_longer_and_one_block_more_does(link, snr_db):
    bits = link.bits(0.3, snr_db, BANDWIDTH_HZ)
    assert bits > 0
    assert link.airtime_s(bits, snr_db, BANDWIDTH_HZ) <= 0.3
    assert link.airtime_s(bits + 2000, snr_db, BANDWIDTH_HZ) > 0.3


def test_the_modem_is_the_links_own_budget_at_its_sample_rate():
    # 201 of 256 subcarriers are occupied
    assert sample_rate_hz(BANDWIDTH_HZ) == pytest.approx(2e6)
    link = ModemLink(margin_db=1.5)
    assert link.bits(0.4, 19.0, BANDWIDTH_HZ) == budget.payload_bits(0.4, 19.0, 2e6, margin_db=1.5)
    assert link.airtime_s(8 * 50_000, 19.0, BANDWIDTH_HZ) == budget.airtime_s(
        50_000, 19.0, 2e6, margin_db=1.5
    )
    assert ModemLink().airtime_s(8 * 50_000, -20.0, BANDWIDTH_HZ) == np.inf
