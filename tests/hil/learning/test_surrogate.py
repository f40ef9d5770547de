"""Rounds without a model: what tables say, what plans cost, and that the best plan is the best of
all plans."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from cloud.policies.allocator import allocate_ranks
from cloud.policies.plans import bits_of_ranks
from hil import codec
from hil.contract import BaseSpec, ConfigError, LoraUpdate, LowRankFactors, ModelError, TextState
from hil.learning.surrogate import BatchRounds, Knots, synthetic_table, table_of
from hil.radio_kinds.conditions import conditions
from hil.settings import parse_settings
from radio.link import ModemLink, ShannonLink
from radio.modem.mcs import LOOPBACK

RICH = {"budget": {"airtime_s": 60.0}, "radio": {"deadline_s": 600.0}}


def rounds_over(tables, n, changes=None):
    return BatchRounds(tables, parse_settings(changes or {}, source="test"), n)


@pytest.fixture(scope="module")
def table():
    return synthetic_table(np.random.default_rng(1), rounds=8)


def whole(batch, rank=16):
    modules = (batch.n, len(batch.module_shapes))
    return np.full(modules, rank), np.zeros(modules, bool)


def nothing(batch):
    ranks, keep = whole(batch, 0)
    return ranks, ~keep


# ----------------------------------------------------------------------------------------- tables


def test_an_invented_stream_lacks_what_its_directions_lack(table):
    directions = np.diff(table.sent_kfac[:, :, ::-1], axis=2)[:, :, ::-1]
    np.testing.assert_allclose(directions, table.spectra**2, rtol=1e-3, atol=1e-6)
    assert (np.diff(table.spectra, axis=2) < 0).all()
    now = np.arange(table.n_rounds)
    np.testing.assert_allclose(table.kept_kfac[now, :, :, now], table.sent_kfac, atol=1e-6)
    np.testing.assert_allclose(
        table.base_losses - table.full_losses, table.sent_kfac[:, :, 0].sum(axis=1), rtol=1e-5
    )


def test_a_change_of_domain_makes_a_stale_update_useless(table):
    domains = [text.domain for text in table.texts]
    stale = table.kept_kfac[:-1, :, -1, :].sum(axis=1)
    bare = table.sent_kfac[:, :, 0].sum(axis=1)
    share = np.array([stale[t - 1, t] / bare[t] for t in range(1, len(domains))])
    changed = np.array([domains[t] != domains[t - 1] for t in range(1, len(domains))])
    assert changed.any()
    assert not changed.all()
    assert (share[changed] > 0.9).all()
    assert (share[~changed] < 0.6).all()


def test_prices_are_the_lengths_of_the_codecs_payloads():
    shapes = {"q": (8, 12), "k": (6, 12), "down": (12, 20)}
    spec = BaseSpec(identity="ab" * 32, module_shapes=shapes | {"unadapted": (5, 5)})
    rng = np.random.default_rng(2)
    fields = {
        "sent_kfac": (4, 3, 5),
        "sent_energy": (4, 3, 5),
        "kept_kfac": (4, 3, 5, 4),
        "kept_energy": (4, 3, 5, 4),
    }
    text = TextState(
        domain="d", lexical_entropy_bits=5.0, lexical_entropy=0.5, oov_rate=0.1, pieces_per_word=1.5
    )
    losses = ("base_losses", "full_losses", "base_scores", "full_scores")
    stream = SimpleNamespace(
        spec=spec,
        module_shapes=shapes,
        texts=[text] * 4,
        spectra=np.ones((4, 3, 4), np.float32),
        **{name: rng.random(shape).astype(np.float32) for name, shape in fields.items()},
        **{name: np.ones(4) for name in losses},
        **{name: np.tile([0.0, 1.0], (4, 1)) for name in ("trial_missing", "trial_excess")},
    )
    batch = rounds_over([table_of(stream, coefficient_bits=4)], 1, RICH)
    ranks = {"q": 3, "k": 0, "down": 1}
    factors = {
        name: LowRankFactors(
            a=np.eye(r, shapes[name][1], dtype=np.float32), b=np.eye(shapes[name][0], r, dtype="f")
        )
        for name, r in ranks.items()
        if r
    }
    update = LoraUpdate(round_id=0, base_identity=spec.identity, factors=factors)
    payload = codec.encode(update, codec.CodecTarget(coefficient_bits=4), base=spec)
    batch.reset([0])
    outcome = batch.step(np.array([list(ranks.values())]), np.zeros((1, 3), bool))
    assert outcome.payload_bits.tolist() == [8 * len(payload)]
    assert outcome.parameters.tolist() == [3 * 20 + 32]


def test_tables_of_other_shapes_are_refused(table):
    other = synthetic_table(np.random.default_rng(1), rounds=8, modules=21)
    with pytest.raises(ConfigError, match="stream table 1 differs"):
        rounds_over([table, other], 2)
    with pytest.raises(ConfigError, match="no stream tables"):
        rounds_over([], 2)


# --------------------------------------------------------------------------------------- best plans


@pytest.mark.parametrize("price", [0.0, 0.3, 3.0])
def test_the_allocator_has_no_regret_and_random_plans_have(price):
    tiny = synthetic_table(np.random.default_rng(3), rounds=4, modules=3, r_max=2)
    every = np.array(list(product(range(4), repeat=3)))  # 3 stands for keep
    batch = rounds_over([tiny], len(every), RICH)
    batch.reset([7] * len(every))
    batch.step(*whole(batch, 1))  # so that there is something to keep
    situation = batch.situation
    best, kept = allocate_ranks(situation, price)
    keep = every == 3
    outcome = batch.step(np.where(keep, 0, every), keep)
    cost = outcome.excess_nats + price * 1e-6 * outcome.payload_bits
    batch.reset([7] * len(every))
    batch.step(*whole(batch, 1))
    chosen = batch.step(best, kept)
    regret = chosen.excess_nats + price * 1e-6 * chosen.payload_bits - cost.min()
    np.testing.assert_allclose(regret, 0.0, atol=1e-9)
    assert (cost - cost.min()).mean() > 1e-3


def test_knots_bend_what_is_missing(table):
    missing = np.tile([0.0, 0.1, 0.4, 2.0], (8, 1))
    excess = np.arange(8)[:, np.newaxis] / 10 + np.array([0.0, 0.2, 0.3, 0.9])
    batch = rounds_over([replace(table, knots=Knots(missing=missing, excess=excess))], 5, RICH)
    batch.reset(range(5))
    batch.step(*nothing(batch))
    ranks = np.random.default_rng(4).integers(0, 5, (5, 28))
    outcome = batch.step(ranks, np.zeros_like(ranks, bool))
    lacks = np.take_along_axis(
        np.broadcast_to(table.sent_kfac[1], (5, 28, 17)), ranks[..., np.newaxis], axis=2
    )
    expected = np.interp(lacks.sum(axis=(1, 2), dtype=np.float64), missing[1], excess[1])
    np.testing.assert_allclose(outcome.excess_nats, expected)
    np.testing.assert_allclose(outcome.loss_nats, expected + table.full_losses[1])


# --------------------------------------------------------------------------------- air and budget


def test_one_seed_means_the_channel_of_a_run_whatever_runs_beside(table):
    settings = {"environment": {"snr_std_db": 0.0}}
    batch, alone = rounds_over([table], 3, settings), rounds_over([table], 1, settings)
    situation = batch.reset([4, 11, 5])
    alone.reset([11])
    air = conditions(parse_settings({}, source="test").radio, 8, 11)
    for t in range(8):
        assert situation.snr_db[1] == alone.situation.snr_db[0] == air.snr_db[t]
        assert situation.airtime_share[1] == air.airtime_share[t]
        outcome = batch.step(*nothing(batch))
        alone.step(*nothing(alone))
        situation = batch.situation
        assert outcome.snr_db[1] == air.snr_db[t]
        assert outcome.airtime_s.tolist() == outcome.payload_bits.tolist() == [0, 0, 0]
    assert situation is None
    with pytest.raises(ConfigError, match="reset"):
        batch.step(*nothing(batch))


@pytest.mark.parametrize("link", ["shannon", "modem"])
def test_a_budget_for_each_round_is_its_share_of_the_airtime(table, link):
    model = ModemLink(round_trip_s=0.02) if link == "modem" else ShannonLink(efficiency=0.55)
    batch = rounds_over([table], 2, {"environment": {"link": link}, "budget": {"airtime_s": 0.2}})
    batch.reset([1, 2])
    for share in (1.0, 1.0, 1.0, 0.6):
        s = batch.situation
        assert s.rounds_left.tolist() == [1, 1]
        np.testing.assert_allclose(s.airtime_s, 0.2 * share)
        np.testing.assert_array_equal(
            s.budget_bits, model.bits(s.airtime_s, s.snr_db, s.bandwidth_hz)
        )
        outcome = batch.step(*whole(batch, 2))
        np.testing.assert_array_equal(
            outcome.airtime_s, model.airtime_s(outcome.payload_bits, outcome.snr_db, s.bandwidth_hz)
        )


def test_an_episodes_airtime_is_one_pot(table):
    batch = rounds_over(
        [table],
        2,
        {"budget": {"airtime_s": 0.3, "scope": "episode"}, "environment": {"link": "shannon"}},
    )
    batch.reset([1, 2])
    left = np.full(2, 2.4)
    for t in range(8):
        s = batch.situation
        np.testing.assert_allclose(s.airtime_s, left)
        assert s.rounds_left.tolist() == [8 - t] * 2
        np.testing.assert_array_equal(
            s.budget_bits, ShannonLink().bits(left, s.snr_db, s.bandwidth_hz)
        )
        ranks, keep = whole(batch, t)
        keep[1] = True
        outcome = batch.step(ranks, keep)
        left = left - outcome.airtime_s
    assert left[0] < left[1] == 2.4


def test_a_plan_beyond_the_budget_is_not_sent(table):
    batch = rounds_over([table], 2, {"budget": {"airtime_s": 0.02}})
    batch.reset([1, 2])
    first = batch.step(*whole(batch, 16))
    assert (first.payload_bits > first.budget_bits).all()
    assert not (first.feasible | first.delivered).any()
    assert first.airtime_s.tolist() == [0, 0]
    np.testing.assert_allclose(first.loss_nats, first.base_loss_nats)
    assert (batch.situation.last_ranks == 0).all()
    np.testing.assert_array_equal(
        batch.situation.missing_if_kept, batch.situation.missing_if_sent[:, :, 0]
    )


def test_a_snr_that_is_reported_too_high_costs_airtime_and_then_the_update(table):
    optimistic = {
        "environment": {"snr_error_db": 6.0, "snr_std_db": 0.0},
        "budget": {"airtime_s": 0.1},
    }
    for deadline_s, delivered in ((20.0, True), (0.1, False)):
        batch = rounds_over([table], 1, {**optimistic, "radio": {"deadline_s": deadline_s}})
        s = batch.reset([1])
        ranks, keep = allocate_ranks(s)
        outcome = batch.step(ranks, keep)
        assert bits_of_ranks(s, ranks, keep)[0] > 0.99 * s.budget_bits[0]
        assert outcome.feasible[0]
        assert outcome.delivered[0] == delivered
        assert outcome.airtime_s[0] > 0.1 if delivered else outcome.airtime_s[0] == 0.1
        assert (batch.situation.last_ranks[0] == (ranks[0] if delivered else 0)).all()


def test_reports_lag_spread_and_stay_out(table):
    exact = rounds_over([table], 1, {"environment": {"snr_std_db": 0.0}})
    lagging = rounds_over([table], 1, {"environment": {"snr_std_db": 0.0, "snr_age_rounds": 3}})
    exact.reset([9])
    lagging.reset([9])
    true = []
    for t in range(8):
        true.append(exact.situation.snr_db[0])
        assert lagging.situation.snr_db[0] == true[max(0, t - 3)]
        assert lagging.situation.age_s[0] == pytest.approx(0.4 * min(t, 3))
        exact.step(*nothing(exact))
        lagging.step(*nothing(lagging))
    many = rounds_over(
        [table],
        400,
        {"environment": {"snr_std_db": 2.0, "snr_error_db": -1.0, "snr_missing_rate": 0.25}},
    )
    s = many.reset(range(400))
    outcome = many.step(*nothing(many))
    heard = ~np.isnan(s.snr_db)
    assert heard.mean() == pytest.approx(0.75, abs=0.06)
    # what was never measured counts as the worst that the modem is made for
    low = many._link.bits(s.airtime_s, LOOPBACK.lowest_db, s.bandwidth_hz)
    np.testing.assert_array_equal(s.budget_bits[~heard], low[~heard])
    assert low.min() > 0
    error = (s.snr_db - outcome.snr_db)[heard]
    assert error.mean() == pytest.approx(-1.0, abs=0.35)
    assert error.std() == pytest.approx(2.0, rel=0.1)


def test_a_missing_report_leaves_the_last_one_standing(table):
    gaps = rounds_over([table], 50, {"environment": {"snr_std_db": 0.0, "snr_missing_rate": 0.5}})
    gaps.reset(range(50))
    true, missing = [], 0
    for t in range(8):
        s = gaps.situation
        age = np.rint(s.age_s / 0.4)
        known = ~np.isnan(s.snr_db)
        true.append(gaps.step(*nothing(gaps)).snr_db)
        measured_in = (t - np.nan_to_num(age)).astype(int)
        np.testing.assert_array_equal(
            s.snr_db[known], np.array(true)[measured_in, np.arange(50)][known]
        )
        assert (s.budget_bits[~known] > 0).all()
        assert (np.isnan(age) == ~known).all()
        missing += (~(age == 0)).sum()
    assert known.all()
    assert missing == pytest.approx(50 * 8 / 2, rel=0.1)


def test_kept_modules_age_and_sent_ones_do_not(table):
    batch = rounds_over([table], 1, RICH)
    batch.reset([0])
    batch.step(*whole(batch, 4))
    ranks, keep = whole(batch, 7)
    keep[0, ::2] = True
    outcome = batch.step(ranks, keep)
    assert outcome.held_round[0].tolist() == [0, 1] * 14
    assert outcome.held_rank[0].tolist() == [4, 7] * 14
    even, odd = np.arange(0, 28, 2), np.arange(1, 28, 2)
    lacks = table.kept_kfac[0, even, 4, 1].sum() + table.sent_kfac[1, odd, 7].sum()
    assert outcome.excess_nats[0] == pytest.approx(lacks, rel=1e-5)
    np.testing.assert_allclose(
        batch.situation.missing_if_kept[0, even], table.kept_kfac[0, even, 4, 2], rtol=1e-6
    )
    np.testing.assert_allclose(
        batch.situation.missing_if_kept[0, odd], table.kept_kfac[1, odd, 7, 2], rtol=1e-6
    )


def test_plans_that_no_edge_can_follow_are_refused(table):
    batch = rounds_over([table], 2)
    batch.reset([0, 1])
    ranks, keep = whole(batch)
    with pytest.raises(ModelError, match=r"outside 0\.\.16"):
        batch.step(ranks + 1, keep)
    with pytest.raises(ModelError, match="shape"):
        batch.step(ranks[:1], keep[:1])
    keep[0, 3] = True
    with pytest.raises(ModelError, match="the edge holds no update"):
        batch.step(ranks, keep)
