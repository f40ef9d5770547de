"""Adapters: what is written gives the logits that PEFT gives; what must not be installed is
refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from edge_device import adapter, gguf_model
from edge_device.acceptance import Limits, UpdateRefused, validate
from edge_device.adapter import to_peft, write_adapter
from edge_device.gguf_conversion import convert
from edge_device.gguf_model import GgufModel
from hil.contract import BaseSpec
from tests.edge_device.random_updates import DOWN1, K0, Q0, random_update
from tests.edge_device.tiny_models import (
    ARCHITECTURES,
    hf_logits,
    llama_logits,
    make_model,
    token_rows,
)

ROWS = token_rows()


def _base(folder: Path, architecture: str) -> tuple[Path, Path, GgufModel]:
    make_model(folder / "hf", architecture)
    convert(folder / "hf", folder / "base.gguf")
    return folder / "hf", folder / "base.gguf", gguf_model.inspect(folder / "base.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_of_mixed_ranks_gives_the_logits_of_peft(architecture, tmp_path):
    folder, base, model = _base(tmp_path, architecture)
    update = random_update(model.spec)
    validate(update, model, Limits())
    assert write_adapter(update, model, tmp_path / "a.gguf")
    to_peft(update, tmp_path / "peft", base_name=str(folder))
    wanted, got = (
        hf_logits(folder, ROWS, tmp_path / "peft"),
        llama_logits(base, ROWS, tmp_path / "a.gguf"),
    )
    error, effect = np.abs(got - wanted).max(), np.abs(wanted - hf_logits(folder, ROWS)).max()
    agreement = (got.argmax(-1) == wanted.argmax(-1)).mean()
    assert got[..., 0].size >= 2_000
    assert effect > 1.0
    assert error <= 0.02
    assert agreement >= 0.99


@pytest.mark.slow
def test_without_the_row_order_a_llama_adapter_is_silently_wrong(tmp_path, monkeypatch):
    folder, base, model = _base(tmp_path, "LlamaForCausalLM")
    update = random_update(model.spec)
    to_peft(update, tmp_path / "peft", base_name=str(folder))
    write_adapter(update, model, tmp_path / "right.gguf")
    monkeypatch.setattr(adapter, "rows_for_rope", lambda values, *_, **__: values)
    write_adapter(update, model, tmp_path / "wrong.gguf")
    wanted = hf_logits(folder, ROWS[:3], tmp_path / "peft")
    right, wrong = (
        np.abs(llama_logits(base, ROWS[:3], tmp_path / f"{name}.gguf") - wanted).max()
        for name in ("right", "wrong")
    )
    assert wrong > 25 * right


def test_peft_export_gives_the_logits_of_merged_weights(tmp_path):
    folder = make_model(tmp_path / "hf", hidden=64)
    shapes = {name: p.shape for name, p in _weights(folder).items()}
    spec = BaseSpec(
        identity="0" * 64, module_shapes={Q0: shapes[Q0], K0: shapes[K0], DOWN1: shapes[DOWN1]}
    )
    update = random_update(spec, ranks=(2, 0, 5))
    to_peft(update, tmp_path / "peft", base_name=str(folder))
    exported = hf_logits(folder, ROWS[:2], tmp_path / "peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, factors in update.factors.items():
        model.get_submodule(name).weight.data += torch.from_numpy(factors.b @ factors.a)
    with torch.no_grad():
        merged = model(torch.tensor(ROWS[:2])).logits.numpy()
    assert np.abs(merged - hf_logits(folder, ROWS[:2])).max() > 0.5
    np.testing.assert_allclose(exported, merged, atol=2e-4)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return {name.removesuffix(".weight"): parameter for name, parameter in model.named_parameters()}


# -------------------------------------------------------------------------------------------- the
# file


def test_file_holds_exact_factors_and_alpha_zero(model, tmp_path):
    update = random_update(model.spec, ranks=(2, 0, 5))
    assert write_adapter(update, model, tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    written = {tensor.name: tensor for tensor in reader.tensors}
    q, down = update.factors[Q0], update.factors[DOWN1]
    expected = {"blk.0.attn_q": q, "blk.1.ffn_down": down}
    assert set(written) == {f"{name}.weight.lora_{ab}" for name in expected for ab in "ab"}
    for name, factors in expected.items():
        np.testing.assert_array_equal(written[f"{name}.weight.lora_a"].data, factors.a)
        np.testing.assert_array_equal(written[f"{name}.weight.lora_b"].data, factors.b)
    alpha = reader.get_field("adapter.lora.alpha")
    assert alpha.types == [gguf.GGUFValueType.FLOAT32]
    assert alpha.contents() == 0.0
    texts = {
        key: reader.get_field(key).contents()
        for key in ("general.type", "general.architecture", "adapter.type")
    }
    assert texts == {
        "general.type": "adapter",
        "general.architecture": "qwen3",
        "adapter.type": "lora",
    }
    with pytest.raises(gguf_model.ModelError, match="not a base model"):
        gguf_model.inspect(tmp_path / "a.gguf")


def test_an_update_without_factors_has_no_file(model, tmp_path):
    nothing = random_update(model.spec, ranks=(0,))
    validate(nothing, model, Limits())
    assert not write_adapter(nothing, model, tmp_path / "a.gguf")
    with pytest.raises(UpdateRefused, match="can't be exported"):
        to_peft(nothing, tmp_path / "peft", base_name="base")
    assert list(tmp_path.iterdir()) == []


def test_kept_modules_must_be_filled_in_before_writing(model, tmp_path):
    update = replace(
        random_update(model.spec, ranks=(2, 0, 5)), kept=frozenset({K0}), kept_from="cd" * 32
    )
    validate(update, model, Limits())
    with pytest.raises(UpdateRefused, match="1 kept modules have no factors yet"):
        write_adapter(update, model, tmp_path / "a.gguf")
