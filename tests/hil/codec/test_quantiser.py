"""The quantiser against the theory of a uniform quantiser on a max-abs scale."""

import numpy as np
import pytest

from hil.codec import CodecTarget
from hil.codec.quantiser import dequantise, quantise, row_bytes
from hil.contract import CodecError, ConfigError, LowRankFactors

LIMIT = {8: 127, 4: 7}


def gaussian(d_out: int, d_in: int, rank: int, seed: int) -> LowRankFactors:
    rng = np.random.default_rng(seed)
    return LowRankFactors(
        a=rng.standard_normal((rank, d_in)).astype(np.float32),
        b=rng.standard_normal((d_out, rank)).astype(np.float32),
    )


def coefficients_8bit(factors: LowRankFactors, d_out: int) -> tuple[np.ndarray, np.ndarray]:
    rows = quantise(factors, 8)
    return rows[:, 4 : 4 + d_out].view(np.int8).astype(float), rows[:, 4 + d_out :].view(
        np.int8
    ).astype(float)


def test_8bit_coefficients_err_by_half_a_step_at_most_and_one_over_root_12_rms() -> None:
    factors = gaussian(4096, 4096, 8, seed=1)
    errors = []
    for integers, vectors in zip(
        coefficients_8bit(factors, 4096), (factors.b.T, factors.a), strict=True
    ):
        steps = vectors.astype(float) * (
            127 / np.abs(vectors).max(axis=1, keepdims=True).astype(float)
        )
        errors.append(integers - steps)
        assert (np.abs(integers).max(axis=1) == 127).all()
    error = np.concatenate(errors)
    assert np.abs(error).max() <= 0.5 + 1e-9
    assert np.sqrt(np.mean(error**2)) == pytest.approx(1 / np.sqrt(12), rel=0.01)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("magnitude", [1e-12, 1.0, 1e12])
def test_every_entry_of_a_rank_1_term_errs_within_the_bound_of_its_two_steps(
    bits: int, magnitude: float
) -> None:
    rng = np.random.default_rng(bits)
    b, a = magnitude * rng.standard_normal(33), rng.standard_normal(50) / magnitude
    factors = LowRankFactors(
        a=a[np.newaxis].astype(np.float32), b=b[:, np.newaxis].astype(np.float32)
    )
    decoded = dequantise(quantise(factors, bits), (33, 50), bits, "here")
    true_b, true_a = factors.b[:, 0].astype(float), factors.a[0].astype(float)
    half_b, half_a = (np.abs(vector).max() / LIMIT[bits] / 2 for vector in (true_b, true_a))
    error = np.abs(
        np.outer(decoded.b[:, 0].astype(float), decoded.a[0].astype(float))
        - np.outer(true_b, true_a)
    )
    bound = np.abs(true_b)[:, np.newaxis] * half_a + half_b * np.abs(true_a) + half_a * half_b
    assert (error <= bound + 1e-6 * np.abs(true_b).max() * np.abs(true_a).max()).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_relative_error_of_the_update_is_that_of_two_uniform_quantisers(bits: int) -> None:
    factors = gaussian(3000, 2000, 1, seed=bits)
    decoded = dequantise(quantise(factors, bits), (3000, 2000), bits, "here")
    b, a = factors.b[:, 0].astype(float), factors.a[0].astype(float)
    noise = [(np.abs(v).max() / LIMIT[bits]) ** 2 / 12 / np.mean(v**2) for v in (b, a)]
    expected = noise[0] + noise[1] + noise[0] * noise[1]
    error = np.outer(decoded.b[:, 0].astype(float), decoded.a[0].astype(float)) - np.outer(b, a)
    assert np.mean(error**2) / np.mean(b**2) / np.mean(a**2) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("bits", "step"), [(8, 1 / 127), (4, 1 / 7)])
def test_a_row_known_by_hand(bits: int, step: float) -> None:
    # 8 bit: -63.5 and 63.5 round to the even -64 and 64. 4 bit: -3.5 to -4, 3.5 to 4; low nibble
    # first.
    factors = LowRankFactors(
        a=np.array([[2, 1]], np.float32), b=np.array([[1], [-0.5], [0]], np.float32)
    )
    row = quantise(factors, bits)[0].tobytes()
    assert row[:4] == np.array(2 * step * step, "<f4").tobytes()
    assert row[4:] == {8: bytes([127, 256 - 64, 0, 127, 64]), 4: bytes([0xC7, 0x00, 0x47])}[bits]


def test_decoded_directions_are_balanced() -> None:
    factors = gaussian(40, 60, 5, seed=4)
    lopsided = LowRankFactors(a=factors.a * 1e5, b=factors.b)
    decoded = dequantise(quantise(lopsided, 8), (40, 60), 8, "here")
    np.testing.assert_allclose(
        np.linalg.norm(decoded.a, axis=1), np.linalg.norm(decoded.b, axis=0), rtol=1e-6
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_quantising_what_was_decoded_gives_the_same_coefficients(bits: int) -> None:
    rows = quantise(gaussian(41, 60, 5, seed=9), bits)
    again = quantise(dequantise(rows, (41, 60), bits, "here"), bits)
    np.testing.assert_array_equal(again[:, 4:], rows[:, 4:])
    np.testing.assert_allclose(
        again[:, :4].copy().view("<f4"), rows[:, :4].copy().view("<f4"), rtol=3e-7
    )


@pytest.mark.parametrize(
    ("b_peak", "a_peak"), [(0.0, 1.0), (3e38, 0.0), (1e-30, 1e-30), (1e-44, 1e-3)]
)
def test_a_direction_too_small_for_a_normal_float32_scale_is_sent_as_zero(
    b_peak: float, a_peak: float
) -> None:
    factors = LowRankFactors(
        a=np.full((1, 4), a_peak, np.float32), b=np.full((6, 1), b_peak, np.float32)
    )
    rows = quantise(factors, 8)
    assert not rows.any()
    decoded = dequantise(rows, (6, 4), 8, "here")
    assert not decoded.a.any()
    assert not decoded.b.any()


def test_largest_float32_factors_survive_or_are_refused_by_name() -> None:
    big = LowRankFactors(a=np.full((1, 4), 1e18, np.float32), b=np.full((6, 1), 3e20, np.float32))
    decoded = dequantise(quantise(big, 8), (6, 4), 8, "here")
    np.testing.assert_allclose(decoded.b.astype(float) @ decoded.a.astype(float), 3e38, rtol=1e-5)
    with pytest.raises(CodecError, match="direction 0 has scale"):
        quantise(LowRankFactors(a=big.a * np.float32(1e6), b=big.b), 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_factor_that_is_not_finite_is_refused(value: float) -> None:
    factors = gaussian(6, 4, 2, seed=0)
    factors.a[1, 2] = value
    with pytest.raises(CodecError, match="not finite"):
        quantise(factors, 8)


@pytest.mark.parametrize(
    ("scale", "coefficients", "message"),
    [
        (np.nan, [1, 1, 1, 1], "direction 1 has scale nan"),
        (np.inf, [1, 1, 1, 1], "direction 1 has scale inf"),
        (-1.0, [1, 1, 1, 1], "direction 1 has scale -1"),
        (-0.0, [0, 0, 0, 0], "direction 1 has scale -0"),
        (0.0, [1, 1, 1, 1], "direction 1 has scale 0"),
        (1.0, [0, 0, 1, 1], "squared coefficient norms 0 and 2"),
        (1.0, [1, 0, -128, 1], "coefficient -128 lies outside -127..127"),
    ],
)
def test_rows_that_no_encoder_writes_are_refused(
    scale: float, coefficients: list[int], message: str
) -> None:
    good = np.array([1], "<f4").tobytes() + bytes(np.array([5, -5, 127, 0], np.int8))
    bad = np.array([scale], "<f4").tobytes() + bytes(np.array(coefficients, np.int8))
    with pytest.raises(CodecError, match=message) as error:
        dequantise(np.frombuffer(good + bad, np.uint8).reshape(2, 8), (2, 2), 8, "in module m")
    assert str(error.value).startswith("in module m: ")


@pytest.mark.parametrize("scale_bits", [0x7F800001, 0x7FA00000, 0xFFFFFFFF, 0xFF800000])
def test_every_kind_of_nan_and_infinity_is_refused_without_a_warning(scale_bits: int) -> None:
    row = scale_bits.to_bytes(4, "little") + bytes([1, 1])
    with pytest.raises(CodecError, match="here: direction 0 has scale"):
        dequantise(np.frombuffer(row, np.uint8).reshape(1, 6), (1, 1), 8, "here")


@pytest.mark.parametrize(
    ("vector", "message"), [(0x17, "padding"), (0x08, "coefficient -8 lies outside -7..7")]
)
def test_4bit_rows_that_no_encoder_writes_are_refused(vector: int, message: str) -> None:
    row = np.array([1], "<f4").tobytes() + bytes([vector, 0x07])
    with pytest.raises(CodecError, match=message):
        dequantise(np.frombuffer(row, np.uint8).reshape(1, 6), (1, 1), 4, "here")


def test_row_length_counts_each_vector_in_whole_bytes() -> None:
    assert row_bytes((7, 12), 8) == 4 + 7 + 12
    assert row_bytes((7, 12), 4) == 4 + 4 + 6


def test_target_of_other_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="coefficient_bits = 6: the codec knows 4 and 8"):
        CodecTarget(coefficient_bits=6)
