"""The edge agent: what may be installed is, what may not is refused, and receipts say what an
update is worth."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import zlib
from dataclasses import replace

import numpy as np
import pytest

from edge_device.acceptance import Limits
from edge_device.agent import EdgeAgent, paired_gain
from edge_device.bundle import write_bundle
from edge_device.runtime import ItemScores
from hil import codec
from hil.codec.layout import module_spans, parse_header
from hil.contract import DeviceError, LoraUpdate, LowRankFactors, ModelError, ScoreSet

TARGET = codec.CodecTarget(coefficient_bits=8)
TEXT = "the station reported a weak signal"


@pytest.fixture(scope="module")
def bundle(tiny_gguf, tiny_model, label_set, text_set, tmp_path_factory):
    probe = ScoreSet(name="probe", questions=label_set.questions[:8])
    return write_bundle(
        tmp_path_factory.mktemp("bundle"),
        tiny_gguf,
        quant="Q8_0",
        types=tiny_model.types,
        score_sets=[label_set, text_set],
        probe=probe,
    )


@pytest.fixture
def agent(bundle, tmp_path):
    with EdgeAgent(bundle, tmp_path / "state") as agent:
        yield agent


@pytest.fixture
def payload(tiny_model, make_update):
    def make(update: LoraUpdate | None = None, **options) -> bytes:
        update = update or make_update(tiny_model.spec, **options)
        return codec.encode(update, TARGET, base=tiny_model.spec)

    return make


def logits(agent: EdgeAgent) -> np.ndarray:
    return agent.runtime.logits(agent.runtime.tokenize(TEXT))


# ---------------------------------------------------------------------------------------------
# installing


@pytest.mark.slow
def test_bare_base_gains_exactly_nothing(agent):
    receipt = agent.apply(0, None, "labels")
    assert (receipt.status, receipt.reason, receipt.held_digest) == ("kept", "", "")
    assert (receipt.gain, receipt.gain_std_error, receipt.swap_ms) == (0.0, 0.0, 0.0)
    assert receipt.score == receipt.base_score
    assert receipt.n_scored == 40


@pytest.mark.slow
def test_installed_update_is_scored_against_the_base(agent, payload, label_set, text_set):
    base = agent.runtime.score(label_set)
    base_text = agent.runtime.score(text_set)
    data = payload(seed=3)
    receipt = agent.apply(7, data, "labels")
    assert (receipt.round_id, receipt.status, receipt.reason) == (7, "installed", "")
    assert receipt.held_digest == hashlib.sha256(data).hexdigest()
    assert receipt.swap_ms > 0
    scores = agent.runtime.score(label_set)
    assert receipt.score == scores.correct.mean()
    assert receipt.base_score == base.correct.mean()
    assert receipt.loss_nats_per_token == pytest.approx(scores.nats.mean())
    assert receipt.base_loss_nats_per_token == pytest.approx(base.nats.mean())
    assert receipt.gain == pytest.approx(receipt.score - receipt.base_score)
    text = agent.apply(8, None, "text")
    now = agent.runtime.score(text_set)
    assert math.isnan(text.score)
    assert text.status == "kept"
    assert text.n_scored == 20
    assert text.loss_nats_per_token == pytest.approx(now.nats.sum() / now.tokens.sum())
    assert text.gain == pytest.approx((base_text.nats.sum() - now.nats.sum()) / now.tokens.sum())
    assert text.gain_std_error > 0


@pytest.mark.slow
def test_the_same_payload_again_changes_nothing(agent, payload):
    data = payload()
    first, again = agent.apply(0, data, "labels"), agent.apply(0, data, "labels")
    assert again == replace(first, swap_ms=0.0)


@pytest.mark.slow
def test_update_without_factors_is_the_bare_base(agent, payload, tiny_model):
    before = logits(agent)
    agent.apply(0, payload(), "labels")
    assert not np.array_equal(logits(agent), before)
    empty = LoraUpdate(round_id=1, base_identity=tiny_model.spec.identity, factors={})
    receipt = agent.apply(1, payload(empty), "labels")
    assert (receipt.status, receipt.held_digest, receipt.gain) == ("installed", "", 0.0)
    np.testing.assert_array_equal(logits(agent), before)
    assert agent.held_update().ranks == {}


@pytest.mark.slow
def test_kept_modules_are_those_of_the_update_held(agent, payload, tiny_model, make_update):
    spec = tiny_model.spec
    modules = list(spec.module_shapes)
    old, new = make_update(spec, seed=1), make_update(spec, seed=2, rank=2)
    first = payload(old)
    agent.apply(0, first, "labels")
    sent = {module: new.factors[module] for module in modules[::2]}
    partial = replace(
        new, factors=sent, kept=frozenset(modules[1::2]), kept_from=codec.digest(first)
    )
    receipt = agent.apply(1, payload(partial), "labels")
    assert receipt.status == "installed"
    assert agent.held_update().ranks == {module: 2 if module in sent else 4 for module in modules}
    composed = logits(agent)
    agent.apply(2, payload(replace(new, factors=old.factors | sent)), "labels")
    np.testing.assert_array_equal(logits(agent), composed)


@pytest.mark.slow
def test_update_survives_a_restart(bundle, tmp_path, payload):
    with EdgeAgent(bundle, tmp_path / "s") as agent:
        receipt = agent.apply(0, payload(), "labels")
        held, before = agent.held_update(), logits(agent)
    with EdgeAgent(bundle, tmp_path / "s") as agent:
        assert agent.held_update() == held
        np.testing.assert_array_equal(logits(agent), before)
        again = agent.apply(1, None, "labels")
        assert (again.gain, again.score) == (receipt.gain, receipt.score)


# ----------------------------------------------------------------------------------------------
# refusing


def with_nan_scale(data: bytes, spec) -> bytes:
    """The payload with the first direction's scale not a number, and every check made good
    again."""
    body = bytearray(data)
    start, end = next(iter(module_spans(parse_header(memoryview(data), spec), spec).values()))
    body[start : start + 4] = np.float32(np.nan).tobytes()
    body[end - 4 : end] = zlib.crc32(body[start : end - 4]).to_bytes(4, "little")
    body[-32:] = hashlib.sha256(body[:-32]).digest()
    return bytes(body)


@pytest.fixture
def bad_payloads(payload, tiny_model, make_update):
    """Kind of badness → payload bytes."""
    spec = tiny_model.spec
    good = payload(seed=4)
    modules = list(spec.module_shapes)
    other = replace(spec, identity="cd" * 32)
    stale = make_update(spec, seed=4)
    stale = replace(
        stale,
        factors={modules[0]: stale.factors[modules[0]]},
        kept=frozenset(modules[1:]),
        kept_from="ee" * 32,
    )
    broad = {
        m: LowRankFactors(a=f.a, b=1e5 * f.b) for m, f in make_update(spec, seed=4).factors.items()
    }
    return {
        "empty": b"",
        "noise": np.random.default_rng(1).bytes(500),
        "truncated": good[:-100],
        "altered": good[:300] + bytes([good[300] ^ 1]) + good[301:],
        "not a number": with_nan_scale(good, spec),
        "of another base": codec.encode(
            replace(make_update(spec), base_identity=other.identity), TARGET, base=other
        ),
        "keeps another update": payload(stale),
        "beyond all bounds": payload(
            replace(stale, factors=broad, kept=frozenset(), kept_from=None)
        ),
    }


@pytest.mark.slow
def test_bad_payloads_are_refused_and_change_nothing(agent, payload, bad_payloads):
    good = agent.apply(0, payload(), "labels")
    before = logits(agent)
    for round_id, (kind, data) in enumerate(bad_payloads.items(), start=1):
        receipt = agent.apply(round_id, data, "labels")
        assert receipt.status == "refused", kind
        assert receipt.reason, kind
        assert "\n" not in receipt.reason, kind
        expected = replace(
            good, round_id=round_id, status="refused", reason=receipt.reason, swap_ms=0.0
        )
        assert receipt == expected, kind
        np.testing.assert_array_equal(logits(agent), before)
    assert agent.runtime.restarts == 0


@pytest.mark.slow
def test_reasons_say_what_is_wrong(agent, bad_payloads):
    reasons = {kind: agent.apply(1, data, "labels").reason for kind, data in bad_payloads.items()}
    assert "holds another update (the bare base model)" in reasons["keeps another update"]
    assert "edge.max_frobenius is 1000" in reasons["beyond all bounds"]


@pytest.mark.slow
def test_update_that_costs_more_than_the_bound_is_refused(bundle, tmp_path, payload):
    data = payload(seed=1)
    with EdgeAgent(bundle, tmp_path / "free", limits=Limits(max_rise_nats=100)) as agent:
        agent.apply(0, data, "labels")
        receipt = agent.apply(1, None, "labels")
    rise = receipt.loss_nats_per_token - receipt.base_loss_nats_per_token
    assert rise > 0.1
    for share, status in ((0.9, "refused"), (1.1, "installed")):
        bound = share * rise
        with EdgeAgent(bundle, tmp_path / status, limits=Limits(max_rise_nats=bound)) as agent:
            receipt = agent.apply(0, data, "labels")
        assert receipt.status == status
        assert ("the loss on labels rises" in receipt.reason) == (status == "refused")


@pytest.mark.slow
def test_update_that_changes_nothing_is_refused(agent, payload, tiny_model, make_update):
    update = make_update(tiny_model.spec, size=1e-12)
    receipt = agent.apply(0, payload(update), "labels")
    assert (receipt.status, receipt.held_digest) == ("refused", "")
    assert "changes nothing" in receipt.reason


@pytest.mark.slow
def test_what_never_arrived_is_refused_with_its_reason(agent):
    receipt = agent.apply(3, None, "labels", failure="deadline missed")
    assert (receipt.status, receipt.reason, receipt.accepted) == (
        "refused",
        "deadline missed",
        False,
    )


@pytest.mark.slow
def test_unknown_score_set_is_an_error(agent, payload):
    with pytest.raises(ModelError, match="no score set 'news'"):
        agent.apply(0, payload(), "news")
    assert agent.held_update().digest == ""


@pytest.mark.slow
def test_child_that_dies_on_trial_takes_nothing_along(agent, payload, monkeypatch):
    first = agent.apply(0, payload(seed=1), "labels")
    load = agent.runtime.load

    def load_and_die(path):
        loaded = load(path)
        os.kill(agent.runtime.pid, signal.SIGKILL)
        return loaded

    monkeypatch.setattr(agent.runtime, "load", load_and_die)
    receipt = agent.apply(1, payload(seed=2), "labels")
    assert receipt.status == "refused"
    assert "SIGKILL" in receipt.reason
    assert receipt.held_digest == first.held_digest
    monkeypatch.undo()
    assert agent.apply(2, payload(seed=2), "labels").status == "installed"


@pytest.mark.slow
def test_swap_that_fails_goes_back_to_the_slot_before(
    agent, payload, monkeypatch, tmp_path, bundle
):
    first = agent.apply(0, payload(seed=1), "labels")
    before = logits(agent)

    def failing(adapter):
        raise DeviceError("the swap failed")

    monkeypatch.setattr(agent.runtime, "activate", failing)
    receipt = agent.apply(1, payload(seed=2), "labels")
    assert (receipt.status, receipt.reason, receipt.held_digest) == (
        "refused",
        "the swap failed",
        first.held_digest,
    )
    np.testing.assert_array_equal(logits(agent), before)
    agent.close()
    with EdgeAgent(bundle, tmp_path / "state") as again:
        assert again.held_update().digest == first.held_digest


@pytest.mark.slow
def test_update_the_runtime_gave_up_is_not_claimed(agent, payload, tmp_path):
    agent.apply(0, payload(), "labels")
    for path in (tmp_path / "state").glob("*.gguf"):
        path.unlink()
    os.kill(agent.runtime.pid, signal.SIGKILL)
    agent.runtime.ping()
    receipt = agent.apply(1, None, "labels")
    assert (receipt.held_digest, receipt.gain) == ("", 0.0)


# -----------------------------------------------------------------------------------------------
# estimator


def text_scores(nats, tokens) -> ItemScores:
    return ItemScores(
        correct=np.zeros(0, np.bool_), nats=np.asarray(nats, float), tokens=np.asarray(tokens)
    )


def label_scores(correct) -> ItemScores:
    correct = np.asarray(correct, bool)
    return ItemScores(
        correct=correct, nats=np.ones(len(correct)), tokens=np.ones(len(correct), int)
    )


def test_gain_of_labels_has_the_standard_error_of_a_mean():
    rng = np.random.default_rng(2)
    scores, base = label_scores(rng.random(50) < 0.7), label_scores(rng.random(50) < 0.5)
    difference = scores.correct.astype(float) - base.correct
    gain, error = paired_gain(scores, base)
    assert gain == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(50))


def test_gain_of_text_has_the_spread_of_its_resamples():
    rng = np.random.default_rng(3)
    tokens = rng.integers(10, 200, 400)
    base, nats = 4.0 * tokens + rng.normal(0, 9, 400), 3.7 * tokens + rng.normal(0, 9, 400)
    gain, error = paired_gain(text_scores(nats, tokens), text_scores(base, tokens))
    picks = rng.integers(0, 400, (4000, 400))
    resampled = (base - nats)[picks].sum(axis=1) / tokens[picks].sum(axis=1)
    assert gain == pytest.approx(0.3, abs=0.02)
    assert error == pytest.approx(resampled.std(), rel=0.06)


def test_gain_without_a_spread():
    assert paired_gain(label_scores([1, 0]), label_scores([1, 0])) == (0.0, 0.0)
    gain, error = paired_gain(text_scores([10.0], [5]), text_scores([20.0], [5]))
    assert gain == 2.0
    assert math.isnan(error)
