"""LoRA at r_max, its exact cut, and going on where it stopped."""

import numpy as np
import pytest
import torch

from cloud.base_model import open_base_model
from cloud.finetune import FineTuner, cut_update, spectra
from cloud.text import Example, default_domain
from hil.config import DefaultText, FinetuneSettings, ModelSettings
from hil.contract import KEEP, ModelError, RankPlan

MODEL = ModelSettings(r_max=4)
SETTINGS = FinetuneSettings(steps=4, batch=8, threads=1)


@pytest.fixture(scope="module")
def base():
    return open_base_model("default")


@pytest.fixture(scope="module")
def domain():
    return default_domain("jargon40", DefaultText(train_examples=200, score_examples=40), seed=0)


@pytest.fixture(scope="module")
def trained(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS, seed=0)
    tuner.train(domain.train[:80])
    return tuner


def _dense(tuner):
    """ΔW of every module by peft's own merge."""
    merged = {}
    for name, module in tuner._model.named_modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {}):
            merged[name.removeprefix("base_model.model.")] = module.get_delta_weight("default").detach().numpy()
    return merged


def test_training_lowers_the_loss_of_what_it_trains_on(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS, seed=0)
    before = tuner.score(domain.score_set)
    tuner.train(domain.train * 2)
    after = tuner.score(domain.score_set)
    assert after[1] < before[1] - 0.1
    assert after[0] > before[0] + 0.1


def test_full_cut_is_pefts_own_update_and_shorter_ones_are_its_best_approximation(trained):
    found, dense = trained.directions(), _dense(trained)
    assert list(found) == list(trained.module_shapes)
    assert set(dense) == set(found)
    for rank in (4, 2):
        plan = RankPlan(ranks=dict.fromkeys(found, rank))
        update = cut_update(found, plan, round_id=3, identity="ab", held_digest="")
        for name, factors in update.factors.items():
            assert factors.rank == rank
            singular = np.linalg.svd(dense[name].astype(np.float64), compute_uv=False)
            error = np.linalg.norm(dense[name] - factors.b @ factors.a)
            assert error == pytest.approx(np.linalg.norm(singular[rank:]), abs=2e-6 * max(1.0, singular[0]))


def test_spectra_are_padded_to_r_max(trained):
    found = trained.directions()
    padded = spectra(found, 6)
    for name, d in found.items():
        np.testing.assert_allclose(padded[name][:4], d.s, rtol=1e-6)
        assert padded[name].shape == (6,)
        assert not padded[name][4:].any()


def test_ranks_zero_and_keep_leave_the_factors_out(trained):
    found = trained.directions()
    first, second, *others = found
    plan = RankPlan(ranks={first: 0, second: KEEP} | dict.fromkeys(others, 1))
    update = cut_update(found, plan, round_id=0, identity="ab", held_digest="cd" * 32)
    assert set(update.factors) == set(others)
    assert (update.kept, update.kept_from) == ({second}, "cd" * 32)


def test_keeping_from_an_edge_that_holds_nothing_is_refused(trained):
    found = trained.directions()
    plan = RankPlan(ranks=dict.fromkeys(found, KEEP))
    with pytest.raises(ModelError, match="keeps 28 modules, but the edge holds no update"):
        cut_update(found, plan, round_id=0, identity="ab", held_digest="")
    with pytest.raises(ModelError, match="must name every adapted module"):
        cut_update(found, RankPlan(ranks={"other": 1}), round_id=0, identity="ab", held_digest="")


def test_it_goes_on_bit_for_bit_from_a_saved_state(base, domain, tmp_path):
    whole = FineTuner(base, MODEL, SETTINGS, seed=0)
    whole.train(domain.train[:32])
    whole.save(tmp_path / "state.safetensors", {"note": "kept"})
    loss = whole.train(domain.train[32:64])
    resumed = FineTuner(base, MODEL, SETTINGS, seed=99)
    assert resumed.load(tmp_path / "state.safetensors")["note"] == "kept"
    assert resumed.train(domain.train[32:64]) == loss
    for name, delta in _dense(whole).items():
        np.testing.assert_array_equal(_dense(resumed)[name], delta)


def test_a_state_of_other_shape_or_no_state_is_refused(base, trained, tmp_path):
    trained.save(tmp_path / "state.safetensors")
    other = FineTuner(base, ModelSettings(r_max=2), SETTINGS, seed=0)
    with pytest.raises(ModelError, match="made for another base model, r_max or target_modules"):
        other.load(tmp_path / "state.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678")
    for name in ("broken.safetensors", "gone.safetensors"):
        with pytest.raises(ModelError, match=f"fine-tuning state .*{name}"):
            other.load(tmp_path / name)


def test_loss_counts_the_label_word_alone_whatever_the_padding(trained, base):
    examples = [
        Example(text="", prompt="report: the valve was good.\nverdict:", label_word=" good"),
        Example(text="", prompt="report: the very long pump was truly not bad and so on.\nverdict:", label_word=" bad"),
    ]
    together = trained._word_losses(examples).detach()
    for example, loss in zip(examples, together, strict=True):
        ids = base.tokenizer(example.prompt + example.label_word, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = trained._model(input_ids=ids).logits[0, -2]
        expected = -torch.log_softmax(logits, 0)[ids[0, -1]]
        assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def test_long_prompts_lose_their_front(base):
    tuner = FineTuner(base, MODEL, FinetuneSettings(steps=1, batch=1, threads=1, max_tokens=8), seed=0)
    prompt = "report: " + "the valve was good and " * 10 + "\nverdict:"
    [(ids, start)] = tuner._encode([Example(text="", prompt=prompt, label_word=" bad")])
    assert len(ids) == 8
    assert start == 7
    assert base.tokenizer.decode(ids).endswith("verdict: bad")
