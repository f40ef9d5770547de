import numpy as np
import pytest

from hil.contract import ConfigError
from radio import channel
from radio.modem import ofdm


def test_noise_gives_used_subcarriers_the_stated_ratio():
    rng = np.random.default_rng(51)
    noise = channel.Awgn(13.0)(np.zeros(256 * 2000, np.complex64), rng)
    per_subcarrier = ofdm.read_used(noise.reshape(2000, 256))
    n0 = np.mean(np.abs(per_subcarrier) ** 2)  # unit symbols: Es/N0 = 1 / n0
    assert -10 * np.log10(n0) == pytest.approx(13.0, abs=0.03)


def test_noise_level_must_be_finite():
    with pytest.raises(ConfigError, match="finite"):
        channel.Awgn(float("nan"))(np.zeros(4, np.complex64), np.random.default_rng(0))


def test_frequency_offset_moves_a_tone():
    tone = np.exp(2j * np.pi * 100 / 1024 * np.arange(1024)).astype(np.complex64)
    moved = channel.FrequencyOffset(cfo_hz=50e3, sample_rate_hz=1.024e6)(
        tone, np.random.default_rng(52)
    )
    assert np.argmax(np.abs(np.fft.fft(moved))) == 150


def test_delay_is_uniform_and_loses_nothing():
    rng = np.random.default_rng(53)
    iq = np.ones(10, np.complex64)
    lengths = [len(channel.RandomDelay(3)(iq, rng)) - 10 for _ in range(400)]
    assert sorted(set(lengths)) == [0, 1, 2, 3]
    assert channel.RandomDelay(3)(iq, rng)[-10:].tolist() == iq.tolist()


def test_a_chain_applies_in_order():
    def double(iq, rng):
        return iq * 2

    def add(iq, rng):
        return iq + 1

    out = channel.Chain((double, add))(np.ones(2, np.complex64), np.random.default_rng(0))
    assert out.tolist() == [3, 3]


def test_a_chain_speaks_to_those_that_remember():
    offset, clocks = channel.FrequencyOffset(1e3, 1e6), channel.ClockOffset(20.0, 1e6)
    chain = channel.Chain((offset, lambda iq, rng: iq, channel.Chain((clocks, channel.Awgn(5.0)))))
    assert chain.media == (offset, clocks)
    assert chain.tail_samples == clocks.tail_samples > 0
    chain.set_sample_rate(2e6)
    assert (offset.sample_rate_hz, clocks.sample_rate_hz) == (2e6, 2e6)


def test_same_seed_same_samples():
    def run(seed):
        rng = np.random.default_rng(seed)
        echoes = channel.TappedDelayLine("TDL-A", sample_rate_hz=1e6, rng=rng, delay_spread_ns=900)
        tremble = channel.PhaseNoise(-60.0, 1e6, pll_bandwidth_hz=1e4)
        offset = channel.FrequencyOffset(1e3, 1e6)
        chain = channel.Chain((echoes, offset, tremble, channel.RandomDelay(50), channel.Awgn(5.0)))
        return chain(np.ones(100, np.complex64), rng)

    one, two, other = run(1), run(1), run(2)
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()
