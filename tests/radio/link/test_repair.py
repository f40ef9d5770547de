"""Repair blocks against an arithmetic of their own, and against every pattern of losses."""

from itertools import combinations

import numpy as np
import pytest

from radio.link import repair


def product(a, b):
    """In GF(2^8), bit by bit as polynomials over GF(2) modulo x^8 + x^4 + x^3 + x^2 + 1."""
    total = 0
    for k in range(8):
        if b >> k & 1:
            total ^= a << k
    for k in range(14, 7, -1):
        if total >> k & 1:
            total ^= 0x11D << (k - 8)
    return total


def blocks(n, width=5, seed=71):
    return np.random.default_rng(seed).integers(0, 256, (n, width), dtype=np.uint8)


def test_repair_blocks_are_the_sums_that_are_promised():
    source = blocks(7)
    for r, row in enumerate(repair.encode(source, 0, 4)):
        expected = [0] * 5
        for j, block in enumerate(source):
            # dividing by d is multiplying by that w for which d · w = 1
            d = (255 - r) ^ j
            weight = next(w for w in range(256) if product(d, w) == 1)
            expected = [
                e ^ product(weight, int(byte)) for e, byte in zip(expected, block, strict=True)
            ]
        assert row.tolist() == expected


def test_any_n_of_all_blocks_give_the_payload():
    for n, m in ((1, 3), (2, 3), (5, 4), (4, 5)):
        source = blocks(n)
        everything = np.concatenate([source, repair.encode(source, 0, m)])
        for kept in combinations(range(n + m), n):
            solved = repair.solve(n, {k: everything[k] for k in kept})
            assert sorted(solved) == [j for j in range(n) if j not in kept]
            assert all((solved[j] == source[j]).all() for j in solved)


@pytest.mark.parametrize("n", [199, 200])
def test_the_longest_payload_with_all_its_repair_blocks(n):
    rng = np.random.default_rng(72)
    m = repair.repair_blocks_of(n)
    source = blocks(n, 1035)
    everything = np.concatenate(
        [source, repair.encode(source, 0, 30), repair.encode(source, 30, m - 30)]
    )
    kept = rng.permutation(n + m)[:n]
    kept[:m] = n + np.arange(m)  # every repair block is needed
    solved = repair.solve(
        n, {int(k): everything[k] for k in dict.fromkeys([*kept.tolist(), *range(n)])}
    )
    assert solved == {}
    held = {int(k): everything[k] for k in [*range(m, n), *range(n, n + m)]}
    solved = repair.solve(n, held)
    assert sorted(solved) == list(range(m))
    assert all((solved[j] == source[j]).all() for j in solved)


def test_long_payloads_have_none():
    assert [repair.repair_blocks_of(n) for n in (0, 1, 200, 201)] == [0, 255, 56, 0]


def test_success_probability_is_that_of_trials():
    rng = np.random.default_rng(73)
    arrived = (rng.random((20_000, 23)) > 0.1).sum(axis=1)
    assert repair.success_probability(20, 3, 0.1) == pytest.approx(np.mean(arrived >= 20), abs=0.01)


def expected_samples(wanted, spare, copies, loss, block, round_trip, rng):
    """Air and waiting of one window and, after each failure, of further windows without spares, by
    trial."""
    total = 0.0
    for _ in range(2000):
        total += copies * (wanted + spare) * block
        left = max(0, wanted - int((rng.random(wanted + spare) > loss**copies).sum()))
        while left:
            total += round_trip + left * block
            left -= int((rng.random(left) > loss).sum())
    return total / 2000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "loss", "block", "round_trip"),
    [
        (10, 0.01, 2e3, 1e5),
        (50, 0.01, 8e3, 1e5),
        (50, 0.1, 2e3, 1e5),
        (20, 0.01, 8e3, 5e3),
        (1, 0.3, 500, 1e5),
    ],
)
def test_the_plan_takes_least_time(wanted, loss, block, round_trip):
    rng = np.random.default_rng(74)
    losses = [loss**n for n in (1, 2, 3)]
    plan = repair.plan(wanted, losses, block, round_trip, most_spare=40)
    assert plan.copies == 1
    costs = [
        expected_samples(wanted, spare, 1, loss, block, round_trip, rng)
        for spare in range(plan.spare + 6)
    ]
    assert costs[plan.spare] < 1.03 * min(costs)


def test_a_long_round_trip_makes_the_first_window_sure_and_a_short_one_sends_nothing_in_excess():
    for wanted in (1, 5, 20, 100, 200):
        plan = repair.plan(wanted, [0.01, 1e-4, 1e-6], 2e3, 2e5, most_spare=56)
        assert repair.success_probability(wanted, plan.spare, 0.01) >= 0.95
        assert repair.plan(wanted, [0.01, 1e-4, 1e-6], 2e3, 0.0, most_spare=56) == repair.Plan(
            spare=0, copies=1
        )


def test_blocks_that_only_pass_as_a_sum_are_sent_twice():
    assert repair.plan(10, [1.0, 0.0, 0.0], 5e4, 1e5, most_spare=40) == repair.Plan(
        spare=0, copies=2
    )
