import numpy as np
import pytest

from cloud.finetuning.directions import Directions
from hil.contract import LowRankFactors, ModelError


def directions(a, b):
    found = Directions.of(LowRankFactors(a=a, b=b))
    return found.u, found.s, found.vt


def cut(u, s, vt, rank):
    return Directions(u, s, vt).cut(rank)


@pytest.mark.parametrize(
    ("d_out", "d_in", "rank"), [(40, 30, 8), (30, 40, 8), (6, 40, 16), (40, 6, 16), (1, 9, 1)]
)
def test_directions_agree_with_the_dense_svd(d_out: int, d_in: int, rank: int) -> None:
    rng = np.random.default_rng(d_out * 100 + rank)
    a, b = rng.standard_normal((rank, d_in)), rng.standard_normal((d_out, rank))
    u, s, vt = directions(a, b)
    k = min(rank, d_out, d_in)
    dense_u, dense_s, dense_vt = np.linalg.svd(b @ a)
    assert (u.shape, s.shape, vt.shape) == ((d_out, k), (k,), (k, d_in))
    np.testing.assert_allclose(s, dense_s[:k], rtol=1e-12)
    for i in range(k):
        np.testing.assert_allclose(
            np.outer(u[:, i], vt[i]), np.outer(dense_u[:, i], dense_vt[i]), atol=1e-11
        )


def test_directions_of_a_product_known_by_hand() -> None:
    # b @ a = [[0, 3], [-4, 0]]: 4 along (0, -1) x (1, 0), then 3 along (1, 0) x (0, 1).
    u, s, vt = directions(np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[3.0, 0.0], [0.0, -2.0]]))
    np.testing.assert_allclose(s, [4, 3])
    np.testing.assert_allclose(u, [[0, 1], [1, 0]], atol=1e-15)
    np.testing.assert_allclose(vt, [[-1, 0], [0, 1]], atol=1e-15)


def test_sign_convention_makes_the_largest_entry_of_u_positive_whatever_the_factors_signs() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((6, 20)), rng.standard_normal((25, 6))
    flip = np.array([1, -1, 1, -1, -1, 1.0])
    u, _, vt = directions(a, b)
    u_flipped, _, vt_flipped = directions(a * flip[:, np.newaxis], b * flip)
    assert (u[np.abs(u).argmax(axis=0), np.arange(6)] > 0).all()
    np.testing.assert_allclose(u_flipped, u, atol=1e-12)
    np.testing.assert_allclose(vt_flipped, vt, atol=1e-12)


def test_float32_factors_with_a_wide_spectrum_keep_their_small_directions() -> None:
    rng = np.random.default_rng(6)
    q_out, q_in = (
        np.linalg.qr(rng.standard_normal((50, 4)))[0],
        np.linalg.qr(rng.standard_normal((60, 4)))[0],
    )
    s = np.array([1e3, 1.0, 1e-2, 1e-4])
    _, found, _ = directions(q_in.T.astype(np.float32), (q_out * s).astype(np.float32))
    np.testing.assert_allclose(found, s, rtol=1e-2)


def test_an_untrained_update_is_zero_directions() -> None:
    u, s, vt = directions(np.ones((3, 8)), np.zeros((5, 3)))
    assert (s == 0).all()
    assert np.isfinite(u).all()
    assert np.isfinite(vt).all()


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_cut_loses_exactly_the_energy_of_the_directions_left_out(rank: int) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((8, 30)), rng.standard_normal((40, 8))
    _, dense_s, _ = np.linalg.svd(b @ a)
    factors = cut(*directions(a, b), rank)
    assert (factors.a.shape, factors.b.shape) == ((rank, 30), (40, rank))
    assert (factors.a.dtype, factors.b.dtype) == (np.float32, np.float32)
    lost = np.linalg.norm(b @ a - factors.b.astype(float) @ factors.a.astype(float))
    np.testing.assert_allclose(
        lost, np.sqrt(np.square(dense_s[rank:8]).sum()), rtol=1e-6, atol=1e-4
    )


def test_cut_is_balanced_and_in_falling_order() -> None:
    rng = np.random.default_rng(8)
    factors = cut(*directions(rng.standard_normal((5, 30)), 100 * rng.standard_normal((40, 5))), 5)
    norm_a, norm_b = np.linalg.norm(factors.a, axis=1), np.linalg.norm(factors.b, axis=0)
    np.testing.assert_allclose(norm_a, norm_b, rtol=1e-6)
    assert (np.diff(norm_a) < 0).all()


def test_a_cut_gives_all_there_is_where_more_is_asked_for_and_nothing_for_rank_0():
    found = Directions.of(LowRankFactors(a=np.ones((3, 4)), b=np.ones((5, 3))))
    assert [found.cut(rank).rank for rank in (0, 2, 3, 4)] == [0, 2, 3, 3]
    with pytest.raises(ValueError, match="rank -1"):
        found.cut(-1)


def test_factors_of_rank_0_have_no_directions() -> None:
    found = Directions.of(LowRankFactors(a=np.zeros((0, 4)), b=np.zeros((5, 0))))
    assert (found.u.shape, found.s.shape, found.vt.shape) == ((5, 0), (0,), (0, 4))
    assert found.rank == 0


def test_directions_refuse_factors_that_do_not_multiply_or_are_not_finite() -> None:
    with pytest.raises(ModelError, match="are not \\[r, d_in\\] and \\[d_out, r\\]"):
        directions(np.ones((3, 4)), np.ones((5, 2)))
    with pytest.raises(ModelError, match="not finite"):
        directions(np.full((3, 4), np.nan), np.ones((5, 3)))
