"""Which updates an edge takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_device.acceptance import (
    Limits,
    UpdateRefused,
    check_effect,
    check_loss,
    frobenius_norm,
    validate,
)
from edge_device.runtime import ItemScores
from hil.contract import LoraUpdate, LowRankFactors
from hil.settings import EdgeSettings
from tests.edge_device.random_updates import DOWN1, Q0, random_update

LIMITS = Limits(max_rank=8)


@pytest.mark.slow
def test_frobenius_norm_is_that_of_the_product():
    rng = np.random.default_rng(9)
    a, b = (
        rng.standard_normal((5, 40)).astype(np.float32),
        rng.standard_normal((30, 5)).astype(np.float32),
    )
    assert frobenius_norm(LowRankFactors(a=a, b=b)) == pytest.approx(
        np.linalg.norm(b @ a), rel=1e-6
    )


def _with(
    edit_a: Callable = lambda a: a, edit_b: Callable = lambda b: b, module: str = Q0
) -> Callable:
    def change(update: LoraUpdate) -> LoraUpdate:
        old = update.factors[Q0]
        return replace(
            update, factors={module: LowRankFactors(a=edit_a(old.a.copy()), b=edit_b(old.b.copy()))}
        )

    return change


def _put(value: float) -> Callable:
    def put(values: np.ndarray) -> np.ndarray:
        values[1, 1] = value
        return values

    return put


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda u: replace(u, base_identity="cd" * 32),
            "for base model cdcdcdcdcdcd…, this edge holds abababababab…",
        ),
        (lambda u: replace(u, kept=frozenset({DOWN1})), "does not say of which update"),
        (lambda u: replace(u, kept_from="cd" * 32), "or the other way round"),
        (lambda u: replace(u, kept=frozenset({Q0}), kept_from="cd" * 32), "is both sent and kept"),
        (
            lambda u: replace(u, kept=frozenset({"lm_head"}), kept_from="cd" * 32),
            "'lm_head' is not a projection",
        ),
        (_with(module="model.embed_tokens"), "'model.embed_tokens' is not a projection"),
        (_with(_put(np.nan)), f"'{Q0}': NaN or infinity"),
        (_with(edit_b=_put(-np.inf)), "NaN or infinity"),
        (_with(_put(-2e4)), "a value of 2e\\+04 is beyond ±10000"),
        (
            _with(lambda a: a * np.float32(900), lambda b: b * np.float32(900)),
            r"has norm .*, edge\.max_frobenius is 1000",
        ),
        (_with(lambda a: a[:0], lambda b: b[:, :0]), r"rank 0 is outside 1\.\.8"),
        (
            _with(lambda a: np.tile(a, (5, 1)), lambda b: np.tile(b, 5)),
            r"rank 10 is outside 1\.\.8",
        ),
        (
            _with(lambda a: a[:1]),
            r"factors are \[32, 2\] and \[1, 16\], should be \[32, 1\] and \[1, 16\]",
        ),
        (_with(lambda a: a[:, :15]), r"should be \[32, 2\] and \[2, 16\]"),
        (_with(edit_b=lambda b: b.T), r"factors are \[2, 32\] and"),
        (_with(lambda a: a.astype(np.float64)), "not float32 2-d"),
        (_with(lambda a: a[None]), "not float32 2-d"),
    ],
)
def test_an_update_that_must_not_be_installed_is_refused(model, change, message):
    update = random_update(model.spec, ranks=(2, 0, 5))
    validate(update, model, LIMITS)
    with pytest.raises(UpdateRefused, match=message):
        validate(change(update), model, LIMITS)


def test_each_limit_is_the_largest_value_that_is_taken(model):
    update = random_update(model.spec, ranks=(5,))
    norm = max(frobenius_norm(factors) for factors in update.factors.values())
    validate(update, model, Limits(max_rank=5, max_frobenius=1.001 * norm))
    for limits in (Limits(max_rank=4), Limits(max_frobenius=0.999 * norm)):
        with pytest.raises(UpdateRefused, match=r"edge\.max_"):
            validate(update, model, limits)


def scores(*nats: float) -> ItemScores:
    n = len(nats)
    return ItemScores(
        correct=np.zeros(n, bool), nats=np.array(nats, np.float64), tokens=np.ones(n, np.int64)
    )


def test_an_update_that_changes_no_logit_is_refused():
    check_effect(scores(1.0, 2.0), scores(1.0, np.nextafter(2.0, 3.0)))
    with pytest.raises(UpdateRefused, match="changes nothing"):
        check_effect(scores(1.0, 2.0), scores(1.0, 2.0))


@pytest.mark.parametrize(("rise", "taken"), [(-4.0, True), (0.5, True), (0.51, False)])
def test_the_loss_may_rise_by_the_limit(rise, taken):
    limits = Limits(max_rise_nats=0.5)
    if taken:
        check_loss(scores(2.0 + rise, 4.0 + rise), scores(2.0, 4.0), "http", limits)
        return
    with pytest.raises(UpdateRefused, match=r"on http rises by 0\.51 nats .* is 0\.5"):
        check_loss(scores(2.0 + rise, 4.0 + rise), scores(2.0, 4.0), "http", limits)


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(UpdateRefused):
        check_loss(scores(np.nan), scores(1.0), "http", Limits())


def test_the_defaults_are_those_of_hil_toml():
    defaults = EdgeSettings()
    assert Limits() == Limits(
        max_rank=defaults.max_rank,
        max_frobenius=defaults.max_frobenius,
        max_rise_nats=defaults.max_rise_nats,
    )
