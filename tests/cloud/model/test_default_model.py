"""The shipped model and text hold what the loop needs: known language, unknown words, and equality
at the edge."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud.finetuning.directions import cut_update
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.peft_methods import adapted_layers
from cloud.finetuning.scoring import score
from cloud.model.base_model import DEFAULT_MODEL, open_base_model
from cloud.text.loading import load_domains
from cloud.text.sources import default_domain
from edge_device.adapter import write_adapter
from edge_device.gguf_conversion import convert
from edge_device.gguf_model import inspect
from edge_device.runtime import Runtime
from hil.contract import RankPlan
from hil.settings import DefaultText, FinetuneSettings, ModelSettings

N_POSITIONS = 2000
RANKS = (0, 1, 3, 8, 16, 0, 4, 12)


@pytest.fixture(scope="module")
def f16(tmp_path_factory, base):
    path = tmp_path_factory.mktemp("default") / "f16.gguf"
    convert(base.folder, path)
    return path


def test_it_is_small_and_says_how_it_was_made(base):
    assert (DEFAULT_MODEL / "model.safetensors").stat().st_size < 6e6
    log = json.loads((DEFAULT_MODEL / "training_log.json").read_text())
    assert log["history"][-1]["step"] == log["steps"]
    assert len(base.lexicon) == log["lexicon_words"] > 9000


@pytest.mark.slow
def test_it_knows_known_words_and_not_invented_ones(base):
    tuner = FineTuner(base, ModelSettings(r_max=1), FinetuneSettings(threads=1), seed=0)
    scores = {
        name: score(
            tuner.model,
            default_domain(name, DefaultText(train_examples=1, score_examples=300), 0).score_set,
        )[0]
        for name in ("known", "jargon40", "jargon150", "jargon400")
    }
    assert scores.pop("known") >= 0.98
    assert max(scores.values()) <= 0.6


@pytest.mark.slow
def test_tokenisation_is_equal_on_the_whole_default_text(base, f16):
    domains, _ = load_domains(DefaultText(), 0, base.token_limit(128))
    texts = [e.prompt + e.label_word for d in domains.values() for e in d.train]
    texts += [q.prompt for d in domains.values() for q in d.score_set.questions]
    texts += [c for d in domains.values() for c in d.score_set.chunks]
    # In long pieces: a request for every sentence would be all that is timed.
    pieces = ["\n".join(texts[i : i + 200]) for i in range(0, len(texts), 200)]
    expected = base.tokenizer(pieces)["input_ids"]
    with Runtime(f16) as runtime:
        for piece, ids in zip(pieces, expected, strict=True):
            assert runtime.tokenize(piece) == ids
    assert sum(map(len, expected)) > 250_000


@pytest.mark.slow
def test_edge_computes_what_peft_computes(base, f16, tmp_path):
    """F16 base and a trained adapter with mixed ranks, against the very same ranks in peft."""
    domain = default_domain("http", DefaultText(), seed=0)
    tuner = FineTuner(base, ModelSettings(r_max=16), FinetuneSettings(batch=8, threads=1), seed=0)
    tuner.train(domain.train[:80])
    found = tuner.model.directions()
    plan = RankPlan(ranks={name: RANKS[i % len(RANKS)] for i, name in enumerate(found)})
    update = cut_update(found, plan, round_id=0, identity=base.spec.identity, held_digest="")
    _put_back(tuner, update)
    write_adapter(update, inspect(f16), tmp_path / "adapter.gguf")

    rows = [base.tokenizer(c)["input_ids"] for c in domain.score_set.chunks]
    positions, worst, agree, effect = 0, 0.0, 0, 0.0
    with Runtime(f16) as runtime:
        for ids in rows:
            runtime.swap(None)
            plain = runtime.logits(ids)
            runtime.swap(tmp_path / "adapter.gguf")
            served = runtime.logits(ids)
            with torch.no_grad():
                tuned = tuner.model.peft(input_ids=torch.tensor([ids])).logits[0].numpy()
            worst = max(worst, float(np.abs(served - tuned).max()))
            effect = max(effect, float(np.abs(served - plain).max()))
            agree += int((served.argmax(1) == tuned.argmax(1)).sum())
            positions += len(ids)
            if positions >= N_POSITIONS:
                break
    assert positions >= N_POSITIONS
    assert worst <= 0.02
    assert agree / positions >= 0.99
    assert effect > 1.0


def _put_back(tuner, update):
    """Make the trained LoRA exactly the cut update."""
    with torch.no_grad():
        for name, module in adapted_layers(tuner.model.peft).items():
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            a.zero_()
            b.zero_()
            if name in update.factors:
                factors = update.factors[name]
                a[: factors.rank] = torch.from_numpy(factors.a)
                b[:, : factors.rank] = torch.from_numpy(factors.b) / module.scaling["default"]


def test_the_folder_is_found_by_its_path_too(base):
    assert open_base_model(str(Path(DEFAULT_MODEL))).spec == base.spec
