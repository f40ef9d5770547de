"""Impulse responses of a file: what is read, what is refused, and what the channel then does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel.responses import RecordedDelayLine, read_responses

RNG = np.random.default_rng(5)
A = (RNG.standard_normal((3, 40)) + 1j * RNG.standard_normal((3, 40))).astype(np.complex64)
TAU = np.array([2e-6, 1e-6, 4e-6])


def save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "responses.npz"
    np.savez(path, **arrays)
    return path


def line_of(path: Path, **changes: Any) -> RecordedDelayLine:
    return RecordedDelayLine(read_responses(path), sample_rate_hz=1e6, **changes)


def test_the_mean_power_is_1_unless_the_gain_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path, a=A, tau_s=TAU, rate_hz=100.0)
    times = np.arange(40) / 100
    power = np.mean(np.sum(np.abs(line_of(path).gains(times)) ** 2, axis=1))
    assert power == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(line_of(path, keep_gain=True).gains(times), A.T, atol=1e-5)


def test_gains_are_drawn_straight_and_begin_again(tmp_path: Path) -> None:
    line = line_of(save(tmp_path, a=A, tau_s=TAU, rate_hz=100.0), keep_gain=True)
    between = line.gains(np.array([0.005, 0.395, 0.4 + 0.01]))
    expected = [(A[:, 0] + A[:, 1]) / 2, (A[:, 39] + A[:, 0]) / 2, A[:, 1]]
    np.testing.assert_allclose(between, expected, atol=1e-5)


def test_sionnas_arrays_of_one_antenna_pair_are_the_same_channel(tmp_path: Path) -> None:
    plain = read_responses(save(tmp_path, a=A, tau_s=TAU, rate_hz=100.0))
    padded = np.concatenate([A, np.zeros((1, 40))])  # a path that does not exist
    tau = np.append(TAU, -1.0)
    for lead in ((1,) * 4, (1,) * 5):
        path = save(
            tmp_path,
            a=padded.reshape(*lead, 4, 40),
            tau=tau.reshape(*lead[:-2], 4),
            rate_hz=np.array([100.0]),
        )
        found = read_responses(path)
        np.testing.assert_array_equal(found.gains, plain.gains)
        np.testing.assert_array_equal(found.delays_s, plain.delays_s)
        assert found.step_s == 0.01


def test_a_signal_meets_each_path_at_its_delay_behind_the_first(tmp_path: Path) -> None:
    a = np.array([[0.5], [1.0j], [-0.25]])
    line = line_of(save(tmp_path, a=a, tau_s=TAU), keep_gain=True)
    n = np.arange(400)
    tone = np.exp(2j * np.pi * 0.1 * n).astype(np.complex64)
    out = line(tone, RNG)
    late = line.tail_samples - 4 - 12  # samples by which every path is late
    delays = np.array([1.0, 0.0, 3.0])
    gain = np.sum(a[:, 0] * np.exp(-2j * np.pi * 0.1 * delays))
    steady = out[100:] / tone[100:]
    assert np.std(steady) < 1e-3
    assert abs(steady.mean()) == pytest.approx(abs(gain), rel=1e-3)
    assert late >= 0


def test_uneven_times_are_brought_to_even_steps(tmp_path: Path) -> None:
    times = np.array([5.0, 5.1, 5.2, 5.4])  # one response is missing
    found = read_responses(save(tmp_path, a=A[:, :4], tau_s=TAU, time_s=times))
    assert found.step_s == pytest.approx(0.1)
    expected = [A[:, 0], A[:, 1], A[:, 2], (A[:, 2] + A[:, 3]) / 2, A[:, 3]]
    np.testing.assert_allclose(found.gains, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"h": A}, r"holds nothing; it must hold a and tau_s"),
        ({"a": A}, r"holds a; it must hold a and tau_s"),
        ({"a": A, "tau_s": TAU}, r"a has 40 times; the file must also hold rate_hz"),
        ({"a": A, "tau_s": TAU, "rate_hz": 0.0}, r"rate_hz is float64\[\]; .* positive"),
        ({"a": A, "tau_s": TAU, "time_s": np.zeros(40)}, r"time_s is .* 40 rising times"),
        ({"a": A, "tau_s": TAU[:2], "rate_hz": 1.0}, r"tau_s is float64\[2\]; .* 3 paths"),
        ({"a": A.real, "tau_s": TAU, "rate_hz": 1.0}, r"a is float32\[3, 40\]; it must be complex"),
        ({"a": A[0], "tau_s": TAU, "rate_hz": 1.0}, r"a is complex64\[40\]"),
        ({"a": A * np.nan, "tau_s": TAU, "rate_hz": 1.0}, r"is not finite, or no path"),
        ({"a": A * 0, "tau_s": TAU, "rate_hz": 1.0}, r"no path has any gain"),
        ({"a": A, "tau_s": TAU * 1e6, "rate_hz": 1.0}, r"give delays in seconds"),
        (
            {"a": np.zeros((1, 2, 1, 1, 3, 4), complex), "tau": np.zeros((1, 1, 3))},
            r"a is complex128\[1, 2, 1, 1, 3, 4\], tau .*: save one antenna pair",
        ),
        ({"a": np.array([None]), "tau_s": TAU}, r"not a \.npz file of numbers \(Object arrays"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"responses\.npz: .*{message}") as caught:
        read_responses(save(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_damaged_files_get_one_line(tmp_path: Path) -> None:
    path = save(tmp_path, a=A, tau_s=TAU, rate_hz=100.0)
    whole = path.read_bytes()
    bad = tmp_path / "bad.npz"
    refused = []
    for place in range(0, len(whole), 37):
        for content in (whole[:place], whole[:place] + b"\xa5" + whole[place + 1 :]):
            bad.write_bytes(content)
            try:
                read_responses(bad)
            except ConfigError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in line for line in refused)
    np.save(tmp_path / "one.npy", A)
    with pytest.raises(ConfigError, match=r"one array; impulse responses are a \.npz"):
        read_responses(tmp_path / "one.npy")
    with pytest.raises(ConfigError, match="no such file"):
        read_responses(tmp_path / "gone.npz")
