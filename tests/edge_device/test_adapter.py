"""Adapters: what is written gives the logits that PEFT gives; what must not be installed is
refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from edge_device import adapter, gguf_model
from edge_device.adapter import UpdateRefused, frobenius_norm, to_peft, validate, write_adapter
from edge_device.gguf_model import GgufModel, TypesReport
from hil.contract import BaseSpec, LoraUpdate, LowRankFactors
from tests.edge_device.tiny_models import (
    ARCHITECTURES,
    hf_logits,
    llama_logits,
    make_model,
    token_rows,
)

ROWS = token_rows()
RANKS = (3, 0, 8, 1, 16, 4, 0, 64)
Q0, K0, DOWN1 = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj",
    "model.layers.1.mlp.down_proj",
)


def random_update(
    spec: BaseSpec, *, ranks: tuple[int, ...] = RANKS, size: float = 0.3, seed: int = 3
) -> LoraUpdate:
    """An update whose norm is `size` of a random base weight's, module by module; ranks in turn, 0
    = left out."""
    rng = np.random.default_rng(seed)
    factors = {}
    for index, (module, (d_out, d_in)) in enumerate(spec.module_shapes.items()):
        if rank := ranks[index % len(ranks)]:
            a = rng.standard_normal((rank, d_in), dtype=np.float32)
            b = rng.standard_normal((d_out, rank), dtype=np.float32) * np.float32(
                size / (d_in * rank) ** 0.5
            )
            factors[module] = LowRankFactors(a=a, b=b)
    return LoraUpdate(round_id=1, base_identity=spec.identity, factors=factors)


def _base(folder: Path, architecture: str) -> tuple[Path, Path, GgufModel]:
    make_model(folder / "hf", architecture)
    gguf_model.convert(folder / "hf", folder / "base.gguf")
    return folder / "hf", folder / "base.gguf", gguf_model.inspect(folder / "base.gguf")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_of_mixed_ranks_gives_the_logits_of_peft(architecture, tmp_path):
    folder, base, model = _base(tmp_path, architecture)
    update = random_update(model.spec)
    validate(update, model)
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


@pytest.fixture
def model() -> GgufModel:
    """A Qwen3 model as its GGUF describes it."""
    shapes = {Q0: (32, 16), K0: (16, 16), DOWN1: (16, 24)}
    return GgufModel(
        spec=BaseSpec(identity="ab" * 32, module_shapes=shapes),
        hf_architecture="Qwen3ForCausalLM",
        architecture="qwen3",
        n_heads=4,
        n_kv_heads=2,
        vocab_size=30,
        context_length=64,
        normalizer="",
        types=TypesReport(tensors={}, n_bytes={}, file_bytes=0),
    )


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
    validate(nothing, model)
    assert not write_adapter(nothing, model, tmp_path / "a.gguf")
    with pytest.raises(UpdateRefused, match="can't be exported"):
        to_peft(nothing, tmp_path / "peft", base_name="base")
    assert list(tmp_path.iterdir()) == []


def test_kept_modules_must_be_filled_in_before_writing(model, tmp_path):
    update = replace(
        random_update(model.spec, ranks=(2, 0, 5)), kept=frozenset({K0}), kept_from="cd" * 32
    )
    validate(update, model)
    with pytest.raises(UpdateRefused, match="1 kept modules have no factors yet"):
        write_adapter(update, model, tmp_path / "a.gguf")


# --------------------------------------------------------------------------------------------
# validation


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
            "has norm .*, the limit is 1000",
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
    validate(update, model, r_cap=8)
    with pytest.raises(UpdateRefused, match=message):
        validate(change(update), model, r_cap=8)
