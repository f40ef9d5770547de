"""What is missing, against dense matrices; the curvature, against a softmax whose Fisher matrix is
known."""

import numpy as np
import pytest
import torch

from cloud.finetuning import importance
from cloud.finetuning.importance import (
    RIDGE,
    Curvature,
    CurvatureRecorder,
    Moment,
    held_curve,
    inner_products,
    joined,
    residuals,
    sent_curve,
)
from hil.contract import LowRankFactors

D_OUT, D_IN = 7, 5


def _factors(rng, rank):
    a = rng.normal(size=(rank, D_IN)).astype(np.float32)
    return LowRankFactors(a=a, b=rng.normal(size=(D_OUT, rank)).astype(np.float32))


def _dense(factors, start=0):
    return factors.b[:, start:].astype(np.float64) @ factors.a[start:].astype(np.float64)


@pytest.fixture
def curvature():
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=(D_IN, D_IN)), rng.normal(size=(D_OUT, D_OUT))
    return Curvature(
        Moment(x @ x.T, None, np.full(D_IN, 0.1)), Moment(g @ g.T, None, np.full(D_OUT, 0.2))
    )


def _cost(curvature, e):
    x = curvature.x.core + np.diag(curvature.x.diagonal)
    g = curvature.g.core + np.diag(curvature.g.diagonal)
    return 0.5 * np.trace(g @ e @ x @ e.T)


def test_sent_curve_is_the_cost_of_the_directions_left_out(curvature):
    factors = _factors(np.random.default_rng(2), 4)
    direct = np.array([_cost(curvature, _dense(factors, r)) for r in range(5)])
    curve = sent_curve(inner_products(factors, curvature), 6)
    np.testing.assert_allclose(curve[:5], np.minimum.accumulate(direct), rtol=1e-5, atol=1e-6)
    assert curve.shape == (7,)
    assert (np.diff(curve) <= 0).all()
    assert not curve[4:].any()
    energy = sent_curve(inner_products(factors, None), 4)
    assert energy[0] == pytest.approx(np.linalg.norm(_dense(factors)) ** 2, rel=1e-5)


def test_cross_terms_never_let_a_curve_rise():
    # The second direction undoes the first, so sending one of them is worse than sending none.
    b = np.array([[1.0, -1.0]] + [[0.0, 0.0]] * (D_OUT - 1), np.float32)
    a = np.array([[2.0, 0, 0, 0, 0], [1.5, 0, 0, 0, 0]], np.float32)
    curve = sent_curve(inner_products(LowRankFactors(a=a, b=b), None), 2)
    np.testing.assert_allclose(curve, [0.25, 0.25, 0.0], atol=1e-6)


@pytest.mark.parametrize("n_held", [0, 2, 3])
def test_held_curve_is_the_cost_of_the_difference(curvature, n_held):
    rng = np.random.default_rng(3)
    now, held = _factors(rng, 4), _factors(rng, n_held)
    curve = held_curve(inner_products(joined([held, now]), curvature), n_held, 5)
    assert curve.shape == (6,)
    for r in range(6):
        difference = _dense(now) - held.b[:, :r].astype(np.float64) @ held.a[:r]
        assert curve[r] == pytest.approx(_cost(curvature, difference), rel=1e-5)


def test_residuals_know_what_is_held_and_what_is_not():
    rng = np.random.default_rng(4)
    current = {"one": _factors(rng, 3), "two": _factors(rng, 2)}
    held = {"two": _factors(rng, 1)}
    found = residuals(current, held, 3)
    assert {name: curve.shape for name, curve in found.missing_if_sent.items()} == {
        "one": (4,),
        "two": (4,),
    }
    difference = _dense(current["two"]) - _dense(held["two"])
    assert found.missing_if_kept == {
        "two": pytest.approx(np.linalg.norm(difference) ** 2, rel=1e-5)
    }


def test_a_wide_moment_is_a_sketch_that_finds_what_there_is(monkeypatch):
    rng = np.random.default_rng(5)
    rows = torch.from_numpy(rng.normal(size=(200, 6)) @ rng.normal(size=(6, 300))).float()
    sums = []
    for limit in (2048, 256):
        monkeypatch.setattr(importance, "DENSE_LIMIT", limit)
        moment = importance._Sum(300, torch.device("cpu"), torch.Generator().manual_seed(0))
        moment.add(rows[:50])
        moment.add(rows[50:])
        sums.append(moment.moment(2.0))
    dense, sketch = sums
    assert sketch.core.shape == (importance.SKETCH_RANK, importance.SKETCH_RANK)
    probe = rng.normal(size=(3, 300))
    expected = probe @ (2.0 * rows.double().numpy().T @ rows.double().numpy()) @ probe.T
    ridge = RIDGE * 2.0 * np.square(rows.double().numpy()).sum() / 300 * probe @ probe.T
    np.testing.assert_allclose(dense.gram(probe), expected + ridge, rtol=1e-4)
    np.testing.assert_allclose(sketch.gram(probe), expected + ridge, rtol=1e-3)


def test_curvature_predicts_how_far_a_softmax_moves(monkeypatch):
    """Of one linear layer and one input, the Fisher matrix is exactly a Kronecker product."""
    monkeypatch.setattr(importance, "RIDGE", 0.0)
    torch.manual_seed(0)
    layer = torch.nn.Linear(D_IN, D_OUT, bias=False)
    x = torch.randn(D_IN)
    recorder = CurvatureRecorder({"layer": layer}, seed=0)
    for _ in range(4):
        # A second position that nothing counts on must change nothing.
        batch = torch.stack([x.expand(5000, D_IN), 100 * torch.randn(5000, D_IN)], dim=1)
        recorder.add(lambda batch=batch: layer(batch)[:, 0], torch.ones(5000, 2, dtype=torch.bool))
    found = recorder.curvature()["layer"]
    rng = np.random.default_rng(6)
    for _ in range(3):
        a, b = (
            0.1 * rng.normal(size=shape).astype(np.float32) for shape in ((1, D_IN), (D_OUT, 1))
        )
        logits = layer(x).detach()
        log_p, log_q = (
            torch.log_softmax(logits, 0),
            torch.log_softmax(logits + torch.from_numpy(b @ a) @ x, 0),
        )
        divergence = float((log_p.exp() * (log_p - log_q)).sum())
        assert found.inner(LowRankFactors(a=a, b=b)).sum() == pytest.approx(divergence, rel=0.1)
