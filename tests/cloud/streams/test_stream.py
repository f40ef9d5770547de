"""Streams: equal bits again, files that survive, scores and residuals against the plain model and
dense matrices."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cloud.finetuning.directions import leading
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.scoring import score
from cloud.model.base_model import DEFAULT_MODEL
from cloud.streams.scorer import MergedModel, StreamScorer
from cloud.streams.stream import cached_stream, stream_domains, stream_key, train_stream
from hil.codec import CodecTarget, decode, encode
from hil.contract import LabelQuestion, LoraUpdate, ModelError, ScoreSet, TextError
from hil.settings import FinetuneSettings, ModelSettings, parse_settings

DOMAINS = ["jargon40", "http", "jargon40"]
MODULES = 28


def _settings(tmp_path, **streams):
    return parse_settings(
        {
            "text": {"train_examples": 120, "score_examples": 40},
            "model": {"r_max": 4},
            "streams": {
                "rounds": 3,
                "steps": 4,
                "batch": 8,
                "items": 12,
                "cache": str(tmp_path),
                **streams,
            },
        },
        source="test",
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return _settings(tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="module")
def stream(settings, base):
    return train_stream(settings, text_seed=1, train_seed=2, domains=DOMAINS, base=base)


@pytest.fixture(scope="module")
def merged(base):
    return MergedModel(base)


def _same(one, other):
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
        else:
            assert value == getattr(other, name), name


@pytest.mark.slow
def test_the_cache_trains_once_and_again_where_a_file_is_damaged(
    settings, base, stream, monkeypatch
):
    steps = []
    what = {"text_seed": 1, "train_seed": 2, "domains": DOMAINS, "base": base}
    # Trained a second time from the same seeds: every bit must be the same.
    _same(cached_stream(settings, **what, on_step=lambda: steps.append(1)), stream)
    assert len(steps) == 12
    trained = []
    monkeypatch.setattr(
        "cloud.streams.stream.train_stream", lambda *_, **what: trained.append(what) or stream
    )
    _same(cached_stream(settings, **what), stream)
    assert not trained
    [path] = Path(settings.streams.cache).iterdir()
    path.write_bytes(path.read_bytes()[:-1000])
    for _ in range(2):
        _same(cached_stream(settings, **what), stream)
        assert [call["train_seed"] for call in trained] == [2]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_all_that_decides_a_stream_is_in_its_key(settings, base, tmp_path):
    what = {
        "text_seed": 1,
        "train_seed": 2,
        "domains": DOMAINS,
        "method": "lora",
        "target_rank": None,
    }
    key = stream_key(settings, base, **what)
    assert key == stream_key(_settings(tmp_path), base, **what)  # where it is kept does not matter
    others = [
        {"text_seed": 2},
        {"train_seed": 1},
        {"domains": ["http"]},
        {"method": "eva", "target_rank": 2},
    ]
    keys = {stream_key(settings, base, **(what | other)) for other in others}
    keys |= {
        stream_key(_settings(tmp_path, **{name: 5}), base, **what)
        for name in ("steps", "batch", "items")
    }
    assert len(keys | {key}) == 8


@pytest.mark.slow
def test_scores_are_those_of_the_plain_model(stream, base, merged):
    scorer = StreamScorer(merged, stream)
    held_round, held_rank = np.array([0, 1, -1, 2] * 7), np.array([4, 2, 3, 0] * 7)
    for t in (0, 1):
        model = AutoModelForCausalLM.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
        assert _plain(model, base, stream.score_sets[t]) == pytest.approx(
            (stream.base_scores[t], stream.base_losses[t]), abs=1e-5, nan_ok=True
        )
        for name, s, r in zip(stream.modules, held_round, held_rank, strict=True):
            if s >= 0 and r:
                f = stream.factors(s)[name]
                with torch.no_grad():
                    model.get_submodule(name).weight += torch.from_numpy(f.b[:, :r] @ f.a[:r])
        expected = _plain(model, base, stream.score_sets[t])
        assert scorer.score(t, held_round, held_rank) == pytest.approx(
            expected, abs=1e-5, nan_ok=True
        )
        assert expected[1] != pytest.approx(stream.base_losses[t], abs=1e-3)


@torch.no_grad()
def _plain(model, base, score_set):
    """Score and loss one text at a time, by the model's own forward pass."""
    losses, right = [], []
    for q in score_set.questions:
        ids = base.tokenizer(q.prompt + q.labels[0], return_tensors="pt")["input_ids"]
        log_p = torch.log_softmax(model(ids[:, :-1]).logits[0, -1], 0)
        of_label = [
            -log_p[base.tokenizer(q.prompt + label)["input_ids"][-1]].item() for label in q.labels
        ]
        losses.append(of_label[q.answer])
        right.append(of_label[q.answer] == min(of_label))
    for chunk in score_set.chunks:
        ids = base.tokenizer(chunk, return_tensors="pt")["input_ids"][:, :128]
        log_p = torch.log_softmax(model(ids).logits[0, :-1], 1)
        losses += (-log_p.gather(1, ids[0, 1:, None])[:, 0]).tolist()
    return (float(np.mean(right)) if right else float("nan")), float(np.mean(losses))


@pytest.mark.slow
def test_scorers_share_a_model_and_leave_nothing_behind(stream, merged):
    one, two = StreamScorer(merged, stream), StreamScorer(merged, stream)
    nothing, everything = np.zeros(MODULES, int), np.full(MODULES, 4)
    for t in range(3):
        assert one.score(t, np.full(MODULES, t), everything)[1] == stream.full_losses[t]
        assert two.score(t, np.full(MODULES, -1), everything)[1] == stream.base_losses[t]
        assert two.score(t, np.full(MODULES, t), nothing)[1] == stream.base_losses[t]
    assert stream.full_losses[2] < stream.base_losses[2]


@pytest.mark.slow
def test_a_label_of_several_pieces_is_summed_over_them(base, merged):
    asked = [
        ("report: the valve was good.\nverdict:", 0),
        ("report: the pump was bad and loud.\nverdict:", 1),
    ]
    questions = [
        LabelQuestion(prompt=prompt, labels=(" wonderful indeed", " bad"), answer=answer)
        for prompt, answer in asked
    ]
    score_set = ScoreSet(name="long", questions=tuple(questions))
    tuner = FineTuner(base, ModelSettings(r_max=1), FinetuneSettings(threads=1), seed=0)
    for name in base.spec.module_shapes:
        merged.hold(name, None, None)
    assert merged.measure(score_set) == pytest.approx(score(tuner.model, score_set), abs=1e-5)


@pytest.mark.slow
def test_requests_that_the_stream_cannot_answer_are_refused(stream, merged):
    scorer = StreamScorer(merged, stream)
    ranks = np.full(MODULES, 1)
    for round_id, held_round, rank in (
        (3, ranks, ranks),
        (0, 3 * ranks, ranks),
        (0, ranks, 5 * ranks),
    ):
        with pytest.raises(ModelError, match=r"rounds 0\.\.2 and ranks 0\.\.4"):
            scorer.score(round_id, held_round, rank)


@pytest.mark.slow
def test_factors_and_their_cuts_are_what_the_edge_decodes(stream, base, settings):
    name = stream.modules[5]
    factors = stream.factors(1)[name]
    update = LoraUpdate(
        round_id=0, base_identity=base.spec.identity, factors={name: leading(factors, 2)}
    )
    target = CodecTarget(coefficient_bits=settings.codec.coefficient_bits)
    again = decode(encode(update, target, base=base.spec), base.spec).factors[name]
    np.testing.assert_allclose(again.b @ again.a, factors.b[:, :2] @ factors.a[:2], atol=1e-7)


@pytest.mark.slow
def test_residuals_are_those_of_the_dense_difference(stream):
    assert stream.sent_energy.shape == (3, MODULES, 5)
    assert stream.kept_energy.shape == (3, MODULES, 5, 3)
    for t, s, m, r in ((0, 0, 3, 2), (2, 1, 10, 4), (2, 0, 27, 1), (1, 0, 4, 0)):
        now, held = (stream.factors(i)[stream.modules[m]] for i in (t, s))
        missing = np.linalg.norm(now.b @ now.a - held.b[:, :r] @ held.a[:r]) ** 2
        assert stream.kept_energy[s, m, r, t] == pytest.approx(missing, rel=1e-3, abs=1e-9)
    for sent, kept in (
        (stream.sent_energy, stream.kept_energy),
        (stream.sent_kfac, stream.kept_kfac),
    ):
        assert (np.diff(sent, axis=2) <= 0).all()
        assert (sent[:, :, 0] > 0).all()
        assert not sent[:, :, -1].any()
        for t in range(3):
            np.testing.assert_array_equal(kept[t, :, :, t], sent[t])
            assert np.isnan(kept[t, :, :, :t]).all()
            assert np.isfinite(kept[: t + 1, :, :, t]).all()
            np.testing.assert_allclose(
                kept[: t + 1, :, 0, t], np.tile(sent[t, :, 0], (t + 1, 1)), rtol=1e-4
            )


@pytest.mark.slow
def test_a_stream_says_what_it_is(stream, base):
    assert stream.domains == tuple(DOMAINS)
    assert [text.domain for text in stream.texts] == DOMAINS
    assert stream.base_identity == base.spec.identity
    assert [len(s.questions) for s in stream.score_sets] == [12, 0, 12]
    assert [len(s.chunks) for s in stream.score_sets] == [0, 6, 0]
    assert (np.diff(stream.spectra, axis=2) <= 0).all()


def test_domains_come_in_an_order_of_their_own_and_not_twice_in_a_row(tmp_path):
    names = ["jargon40", "mixed100", "http"]
    settings = _settings(tmp_path, rounds=13, dwell=2, domains=names)
    orders = {tuple(stream_domains(settings, seed)) for seed in range(12)}
    assert len(orders) > 3
    for order in orders:
        assert len(order) == 13
        visits = order[::2]
        assert all(order[i] == order[i + 1] for i in range(0, 12, 2))
        assert set(visits[:3]) == set(visits[3:6]) == set(names)
        assert all(one != other for one, other in itertools.pairwise(visits))
    assert stream_domains(settings, 5) == stream_domains(settings, 5)


def test_a_text_of_one_domain_is_repeated_and_knows_no_other(tmp_path, base):
    path = tmp_path / "notes.tsv"
    path.write_text(
        "text\n" + "\n".join(f"line {i} of the notes" for i in range(30)), encoding="utf-8"
    )
    settings = parse_settings(
        {"text": {"kind": "file", "path": str(path)}, "streams": {"rounds": 3}}, source="test"
    )
    assert stream_domains(settings, 0) == ["notes"] * 3
    with pytest.raises(TextError, match="this text has one domain, notes"):
        train_stream(settings, text_seed=0, train_seed=0, domains=["jargon40"], base=base)
