"""LoRA at r_max, its exact cut, and going on where it stopped."""

import shutil

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from cloud.finetuning.directions import cut_update, spectra
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.importance import curvature_of
from cloud.finetuning.scoring import _word_losses, score
from cloud.finetuning.training_state import load_state, save_state
from cloud.model.base_model import DEFAULT_MODEL, open_base_model
from cloud.text.sources import Example
from hil.contract import KEEP, ConfigError, ModelError, RankPlan
from hil.settings import FinetuneSettings, ModelSettings
from tests.cloud.adam import adam_moves

MODEL = ModelSettings(r_max=4)
SETTINGS = FinetuneSettings(steps=4, batch=8, threads=1)


@pytest.fixture(scope="module")
def trained(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS, seed=0)
    tuner.train(domain.train[:80])
    return tuner


def _dense(tuner):
    """ΔW of every module by peft's own merge."""
    merged = {}
    for name, module in tuner.model.peft.named_modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {}):
            merged[name.removeprefix("base_model.model.")] = (
                module.get_delta_weight("default").detach().numpy()
            )
    return merged


@pytest.mark.slow
def test_training_lowers_the_loss_of_what_it_trains_on(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS, seed=0)
    before = score(tuner.model, domain.score_set)
    tuner.train(domain.train)
    after = score(tuner.model, domain.score_set)
    assert after[1] < before[1] - 0.1
    assert after[0] > before[0] + 0.1


@pytest.mark.slow
def test_steps_are_those_of_adam_with_a_short_memory_and_a_rate_that_rises_and_falls(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS.model_copy(update={"learning_rate": 1e-3}), seed=0)
    parameter = next(p for n, p in tuner.model.parameters.items() if "lora_B" in n)
    before = parameter.detach().numpy().astype(float).copy()
    gradients = []
    # A gradient is still there when its step is over.
    tuner.train(domain.train[:40], lambda: gradients.append(parameter.grad.double().numpy()))
    assert len(gradients) == 5
    # Over 10 steps up to the whole rate, while over the round's 5 it falls to a tenth.
    rates = [1e-3 * (i + 1) / 10 * (1 - 0.9 * i / 4) for i in range(5)]
    moves = adam_moves(gradients, rates, (0.9, 0.95), 1e-8)
    np.testing.assert_allclose(
        parameter.detach().numpy() - before, moves, atol=1e-3 * np.abs(moves).max()
    )


@pytest.mark.slow
def test_full_cut_is_pefts_own_update_and_shorter_ones_are_its_best_approximation(trained):
    found, dense = trained.model.directions(), _dense(trained)
    assert list(found) == list(trained.module_shapes)
    assert set(dense) == set(found)
    for rank in (4, 2):
        plan = RankPlan(ranks=dict.fromkeys(found, rank))
        update = cut_update(found, plan, round_id=3, identity="ab", held_digest="")
        for name, factors in update.factors.items():
            assert factors.rank == rank
            singular = np.linalg.svd(dense[name].astype(np.float64), compute_uv=False)
            error = np.linalg.norm(dense[name] - factors.b @ factors.a)
            assert error == pytest.approx(
                np.linalg.norm(singular[rank:]), abs=2e-6 * max(1.0, singular[0])
            )


@pytest.mark.slow
def test_spectra_are_padded_to_r_max(trained):
    found = trained.model.directions()
    padded = spectra(found, 6)
    for name, d in found.items():
        np.testing.assert_allclose(padded[name][:4], d.s, rtol=1e-6)
        assert padded[name].shape == (6,)
        assert not padded[name][4:].any()


@pytest.mark.slow
def test_ranks_zero_and_keep_leave_the_factors_out(trained):
    found = trained.model.directions()
    first, second, *others = found
    plan = RankPlan(ranks={first: 0, second: KEEP} | dict.fromkeys(others, 1))
    update = cut_update(found, plan, round_id=0, identity="ab", held_digest="cd" * 32)
    assert set(update.factors) == set(others)
    assert (update.kept, update.kept_from) == ({second}, "cd" * 32)


@pytest.mark.slow
def test_keeping_from_an_edge_that_holds_nothing_is_refused(trained):
    found = trained.model.directions()
    plan = RankPlan(ranks=dict.fromkeys(found, KEEP))
    with pytest.raises(ModelError, match="keeps 28 modules, but the edge holds no update"):
        cut_update(found, plan, round_id=0, identity="ab", held_digest="")
    with pytest.raises(ModelError, match="must name every adapted module"):
        cut_update(found, RankPlan(ranks={"other": 1}), round_id=0, identity="ab", held_digest="")


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_from_a_saved_state(base, domain, tmp_path):
    whole = FineTuner(base, MODEL, SETTINGS, seed=0)
    whole.train(domain.train[:32])
    save_state(whole, tmp_path / "state.safetensors", {"note": "kept"})
    loss = whole.train(domain.train[32:64])
    resumed = FineTuner(base, MODEL, SETTINGS, seed=99)
    assert load_state(resumed, tmp_path / "state.safetensors")["note"] == "kept"
    assert resumed.train(domain.train[32:64]) == loss
    for name, delta in _dense(whole).items():
        np.testing.assert_array_equal(_dense(resumed)[name], delta)


@pytest.mark.slow
def test_a_state_of_other_shape_or_no_state_is_refused(base, trained, tmp_path):
    save_state(trained, tmp_path / "state.safetensors", {})
    other = FineTuner(base, ModelSettings(r_max=2), SETTINGS, seed=0)
    with pytest.raises(ModelError, match="made for another base model, method, r_max or target"):
        load_state(other, tmp_path / "state.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678")
    for name in ("broken.safetensors", "gone.safetensors"):
        with pytest.raises(ModelError, match=f"fine-tuning state .*{name}"):
            load_state(other, tmp_path / name)


@pytest.mark.slow
def test_loss_counts_the_label_word_alone_whatever_the_padding(trained, base):
    examples = [
        Example(text="", prompt="report: the valve was good.\nverdict:", label_word=" good"),
        Example(
            text="",
            prompt="report: the very long pump was truly not bad and so on.\nverdict:",
            label_word=" bad",
        ),
    ]
    together = _word_losses(trained.model, examples).detach()
    for example, loss in zip(examples, together, strict=True):
        ids = base.tokenizer(example.prompt + example.label_word, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = trained.model.peft(input_ids=ids).logits[0, -2]
        expected = -torch.log_softmax(logits, 0)[ids[0, -1]]
        assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def test_long_prompts_lose_their_front(base):
    tuner = FineTuner(
        base, MODEL, FinetuneSettings(steps=1, batch=1, threads=1, max_tokens=8), seed=0
    )
    prompt = "report: " + "the valve was good and " * 10 + "\nverdict:"
    [(ids, start)] = tuner.model.encode([Example(text="", prompt=prompt, label_word=" bad")])
    assert len(ids) == 8
    assert start == 7
    assert base.tokenizer.decode(ids).endswith("verdict: bad")


# -------------------------------------------------------------------------------------- other
# methods


def _tuner(base, method, target_rank, **settings):
    settings = SETTINGS.model_copy(update=settings)
    return FineTuner(base, MODEL, settings, seed=0, method=method, target_rank=target_rank)


@pytest.mark.slow
def test_adalora_comes_down_to_its_target_in_every_round(base, domain):
    tuner = _tuner(base, "adalora", 2)
    assert sum(len(d.s) for d in tuner.model.directions().values()) == 0
    for round_id in range(2):
        tuner.train(domain.train[40 * round_id : 40 * round_id + 40])
        ranks = {name: len(d.s) for name, d in tuner.model.directions().items()}
        assert list(ranks) == list(tuner.module_shapes)
        assert 1.5 * len(ranks) < sum(ranks.values()) <= 2 * len(ranks)
        assert len(set(ranks.values())) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("method", "target_rank"), [("adalora", 2), ("eva", 2)])
def test_directions_are_all_that_the_adapters_do(base, domain, method, target_rank):
    tuner = _tuner(base, method, target_rank)
    tuner.train(domain.train[:32])
    merged = base.load(torch.device("cpu"))
    ids = torch.tensor([[5, 17, 300, 42, 7]])
    with torch.no_grad():
        for name, d in tuner.model.directions().items():
            assert d.u.shape[1] == len(d.s) == len(d.vt) <= MODEL.r_max
            merged.get_submodule(name).weight += torch.from_numpy(
                (d.u * d.s @ d.vt).astype(np.float32)
            )
        bare, expected = (
            base.load(torch.device("cpu"))(ids).logits,
            tuner.model.peft(input_ids=ids).logits,
        )
        torch.testing.assert_close(merged(ids).logits, expected, atol=2e-4, rtol=0)
    assert (bare - expected).abs().max() > 1e-2


@pytest.mark.slow
def test_adaloras_penalty_is_the_one_that_peft_adds(base, domain):
    tuner = _tuner(base, "adalora", 2)
    tuner.train(domain.train[:16])
    ids = torch.tensor([[5, 17, 300, 42, 7]])
    with torch.no_grad():
        plain = tuner.model.peft.get_base_model()(input_ids=ids, labels=ids).loss
        with_penalty = tuner.model.peft(input_ids=ids, labels=ids).loss
        assert tuner.chooser.penalty().item() == pytest.approx(
            (with_penalty - plain).item(), rel=1e-4
        )


@pytest.mark.slow
def test_eva_spreads_the_ranks_once_and_keeps_them(base, domain):
    tuner = _tuner(base, "eva", 2)
    spread = []
    for round_id in range(2):
        tuner.train(domain.train[40 * round_id : 40 * round_id + 40])
        spread.append([len(d.s) for d in tuner.model.directions().values()])
    assert spread[0] == spread[1]
    assert sum(spread[0]) == 2 * len(tuner.module_shapes)
    assert len(set(spread[0])) > 1
    assert max(spread[0]) <= MODEL.r_max


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adalora", "eva"])
def test_other_methods_go_on_bit_for_bit_too(base, domain, tmp_path, method):
    whole = _tuner(base, method, 2)
    whole.train(domain.train[:32])
    save_state(whole, tmp_path / "state.safetensors", {})
    loss = whole.train(domain.train[32:48])
    resumed = FineTuner(base, MODEL, SETTINGS, seed=99, method=method, target_rank=2)
    load_state(resumed, tmp_path / "state.safetensors")
    assert resumed.train(domain.train[32:48]) == loss
    for name, d in whole.model.directions().items():
        np.testing.assert_array_equal(resumed.model.directions()[name].s, d.s)
    with pytest.raises(ModelError, match="another base model, method"):
        load_state(FineTuner(base, MODEL, SETTINGS, seed=0), tmp_path / "state.safetensors")


def test_target_ranks_that_cannot_be_are_refused(base, domain):
    for method, rank in (("lora", 2), ("adalora", None), ("eva", 5), ("adalora", 0)):
        with pytest.raises(ConfigError, match=f"target_rank = {rank} with method '{method}'"):
            _tuner(base, method, rank)
    with pytest.raises(ConfigError, match="AdaLoRA needs at least 2 steps a round"):
        _tuner(base, "adalora", 2).train(domain.train[:8])


@pytest.mark.slow
def test_adalora_at_r_max_masks_nothing(base, domain):
    tuner = _tuner(base, "adalora", MODEL.r_max)
    tuner.train(domain.train[:32])
    assert {len(d.s) for d in tuner.model.directions().values()} == {MODEL.r_max}


@pytest.fixture(scope="module")
def opt(tmp_path_factory):
    """A tiny OPT whose own dropout is on, with the tokenizer of the default model."""
    folder = tmp_path_factory.mktemp("opt")
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=2048,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        dropout=0.5,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    OPTForCausalLM(config).half().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEFAULT_MODEL / name, folder)
    return open_base_model(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "target_rank"), [("lora", None), ("adalora", 2), ("eva", 2)])
def test_opt_is_trained_and_measured_like_any_other(opt, domain, method, target_rank):
    model = ModelSettings(
        r_max=4, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    )
    tuners = [
        FineTuner(opt, model, SETTINGS, seed=0, method=method, target_rank=target_rank)
        for _ in range(2)
    ]
    losses = [tuner.train(domain.train[:32]) for tuner in tuners]
    assert losses[0] == losses[1]
    model = tuners[0].model
    found, curvature = model.directions(), curvature_of(model, domain.train[:16], seed=4)
    assert list(found) == list(opt.spec.module_shapes)
    assert len(found) == 12
    for name, (d_out, d_in) in opt.spec.module_shapes.items():
        if len(found[name].s):
            assert (len(curvature[name].g.diagonal), len(curvature[name].x.diagonal)) == (
                d_out,
                d_in,
            )
    assert np.isfinite(score(model, domain.score_set)[1])
