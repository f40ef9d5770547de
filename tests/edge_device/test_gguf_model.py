"""GGUF base models: bit-equal weights, Hugging Face's logits and tokens, honest reports, refusals
by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_device import gguf_conversion
from edge_device.gguf_conversion import convert, quantise
from edge_device.gguf_model import inspect
from hil import model_folder
from hil.contract import ModelError
from hil.system.whole_file import written_whole
from tests.edge_device.tiny_models import (
    ARCHITECTURES,
    hf_logits,
    llama_logits,
    make_model,
    token_rows,
)

ROWS = token_rows()[:5]
Edit = Callable[[dict], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Qwen3 model folder whose rows suit K-quants, and its f16 GGUF; not to be changed."""
    folder = make_model(tmp_path_factory.mktemp("hf"))
    path = tmp_path_factory.mktemp("gguf") / "base.gguf"
    convert(folder, path)
    return folder, path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return make_model(tmp_path / "small", hidden=64, n_layers=1)


def _edit_json(path: Path, edit: Edit) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


# ---------------------------------------------------------------------------------------------
# conversion


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_is_in_the_file_bit_for_bit(architecture, tmp_path):
    folder = make_model(tmp_path / "hf", architecture, hidden=64, tied=False)
    convert(folder, tmp_path / "m.gguf")
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    stored = load_file(folder / "model.safetensors")
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.removesuffix("ForCausalLM").upper()], 2
    )
    assert len(written) == len(stored)
    for name, values in stored.items():
        tensor = written[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        assert tensor.tensor_type.name == ("F32" if values.ndim == 1 else "F16")
        heads = (
            {"q_proj": 8, "k_proj": 4}.get(name.split(".")[-2])
            if architecture == "LlamaForCausalLM"
            else None
        )
        if heads:  # row 2i + j of a head comes from row j · d/2 + i, j = 0, 1
            d = len(values) // heads
            order = [
                h * d + j * d // 2 + i for h in range(heads) for i in range(d // 2) for j in (0, 1)
            ]
            values = values[order]
        np.testing.assert_array_equal(tensor.data, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "head_dim": 48},
        ),
        ("Qwen2ForCausalLM", {"rms_norm_eps": 1e-2}),
        (
            "Qwen3ForCausalLM",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "head_dim": 64},
        ),
    ],
)
def test_converted_model_gives_the_logits_of_hugging_face(architecture, settings, tmp_path):
    folder = make_model(tmp_path / "hf", architecture, tied=False, settings=settings)
    convert(folder, tmp_path / "m.gguf")
    wanted, got = hf_logits(folder, ROWS), llama_logits(tmp_path / "m.gguf", ROWS)
    assert np.abs(got - wanted).max() <= 0.02
    assert (got.argmax(-1) == wanted.argmax(-1)).mean() >= 0.99


@pytest.mark.slow
def test_without_the_row_order_a_llama_model_is_silently_wrong(tmp_path, monkeypatch):
    folder = make_model(tmp_path / "hf", "LlamaForCausalLM")
    convert(folder, tmp_path / "right.gguf")
    monkeypatch.setattr(gguf_conversion, "rows_for_rope", lambda values, *_, **__: values)
    convert(folder, tmp_path / "wrong.gguf")
    wanted = hf_logits(folder, ROWS)
    right, wrong = (
        np.abs(llama_logits(tmp_path / f"{name}.gguf", ROWS) - wanted).max()
        for name in ("right", "wrong")
    )
    assert wrong > 25 * right


def test_an_interrupted_conversion_leaves_the_old_file(small, tmp_path):
    target = tmp_path / "out" / "m.gguf"
    target.parent.mkdir()
    target.write_bytes(b"old")
    weights = load_file(small / "model.safetensors")
    with pytest.raises(ZeroDivisionError), written_whole(target) as temporary:
        temporary.write_bytes(b"half" * (1 // 0))
    weights["model.norm.weight"][0] = np.inf
    save_file(weights, small / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.norm\.weight' holds NaN, infinity"):
        convert(small, target)
    assert [path.name for path in target.parent.iterdir()] == ["m.gguf"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("model.layers.0.self_attn.q_norm.weight"),
            r"lacks tensor .*q_norm\.weight' \(1 in all\)",
        ),
        (lambda w: w.pop("model.norm.weight"), r"lacks tensor 'model\.norm\.weight'"),
        (
            lambda w: w.update({"model.layers.0.mlp.experts": np.ones(3)}),
            r"no place for tensor '.*mlp\.experts'",
        ),
        (
            lambda w: w.update({"model.extra.weight": np.ones(3)}),
            r"no place for a module named 'model\.extra' in a model of architecture qwen3",
        ),
        (
            lambda w: w.update({"model.embed_tokens.weight": np.ones((9, 64))}),
            r"embedding is \[9, 64\]",
        ),
    ],
)
def test_missing_and_surplus_tensors_are_named(small, tmp_path, change, message):
    weights = load_file(small / "model.safetensors")
    change(weights)
    half = {name: values.astype(np.float16) for name, values in weights.items()}
    save_file(half, small / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        convert(small, tmp_path / "m.gguf")


def test_an_unsupported_architecture_is_refused_by_name(small, tmp_path):
    _edit_json(
        small / "config.json", lambda config: config.update(architectures=["OPTForCausalLM"])
    )
    with pytest.raises(
        ModelError, match=r"can't serve OPTForCausalLM .* choose one of LlamaForCausalLM"
    ):
        convert(small, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


# -------------------------------------------------------------------------------------------
# quantisation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quant", "kind"), [("F16", "F16"), ("Q8_0", "Q8_0"), ("Q4_0", "Q4_0"), ("Q4_K_M", "Q4_K")]
)
def test_quantised_file_reports_its_real_types_and_keeps_its_metadata(base, quant, kind, tmp_path):
    _, f16 = base
    report = quantise(f16, tmp_path / "q.gguf", quant, timeout_s=60)
    tensors = gguf.GGUFReader(tmp_path / "q.gguf").tensors
    assert report.tensors == Counter(tensor.tensor_type.name for tensor in tensors)
    assert sum(report.n_bytes.values()) == sum(int(tensor.n_bytes) for tensor in tensors)
    assert report.file_bytes == (tmp_path / "q.gguf").stat().st_size
    assert max(report.n_bytes, key=lambda name: report.n_bytes[name]) == kind
    before, after = inspect(f16), inspect(tmp_path / "q.gguf")
    assert (after.spec, after.n_heads, after.hf_architecture) == (
        before.spec,
        before.n_heads,
        before.hf_architecture,
    )


@pytest.mark.slow
def test_rows_that_cannot_take_a_k_quant_show_in_the_report(tmp_path):
    folder = make_model(tmp_path / "hf", hidden=192, n_layers=1)
    convert(folder, tmp_path / "m.gguf")
    report = quantise(tmp_path / "m.gguf", tmp_path / "q.gguf", "Q4_K_M", timeout_s=60)
    assert "Q4_K" not in report.tensors
    assert "Q5_0" in str(report)


@pytest.mark.slow
def test_quantiser_failures_leave_no_file(base, tmp_path):
    _, f16 = base
    target = tmp_path / "q.gguf"
    with pytest.raises(
        ModelError, match="'Q3_X' is not known; choose one of F16, Q8_0, Q4_0, Q4_K_M"
    ):
        quantise(f16, target, "Q3_X")
    with pytest.raises(ModelError, match=r"took over 0\.01 s"):
        quantise(f16, target, "Q4_0", timeout_s=0.01)
    quantise(f16, tmp_path / "q4.gguf", "Q4_0", timeout_s=60)
    with pytest.raises(ModelError, match=r"could not quantise .*requantiz"):
        quantise(tmp_path / "q4.gguf", target, "Q8_0", timeout_s=60)
    assert [path.name for path in tmp_path.iterdir()] == ["q4.gguf"]


# ---------------------------------------------------------------------------------------------
# inspection


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_inspection_tells_what_the_folder_tells(architecture, tmp_path):
    folder = make_model(tmp_path / "hf", architecture, hidden=64)
    convert(folder, tmp_path / "m.gguf")
    model, spec = inspect(tmp_path / "m.gguf"), model_folder.base_spec(folder)
    assert model.spec == spec
    assert list(model.spec.module_shapes) == list(spec.module_shapes)
    assert (model.hf_architecture, model.n_heads, model.n_kv_heads) == (architecture, 8, 4)
    assert (model.vocab_size, model.context_length, model.normalizer) == (400, 512, "")


@pytest.mark.slow
def test_a_file_cut_anywhere_is_refused_with_its_lengths(base, tmp_path):
    whole = base[1].read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [24, 100, *np.random.default_rng(4).integers(25, len(whole) - 32, 60)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=f"is damaged: .*{length}"):
            inspect(path)


@pytest.mark.slow
def test_a_header_with_flipped_bits_never_raises_anything_else(base, tmp_path):
    rng, whole = np.random.default_rng(5), bytearray(base[1].read_bytes()[:40_000])
    path = tmp_path / "flipped.gguf"
    for _ in range(300):
        spoilt = bytearray(whole)
        for at in rng.integers(0, 1_000 if rng.random() < 0.5 else 12_000, 3):
            spoilt[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        with pytest.raises(ModelError):
            inspect(path)


def test_foreign_files_are_refused(base, tmp_path):
    path = tmp_path / "x.gguf"
    with pytest.raises(ModelError, match="does not exist"):
        inspect(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="is not a GGUF file"):
        inspect(path)
    whole = base[1].read_bytes()
    path.write_bytes(whole.replace(b"hil.base_identity", b"hil.Base_identity"))
    with pytest.raises(
        ModelError, match=r"is not a base model of this kit: .*hil\.base_identity = None"
    ):
        inspect(path)
    path.write_bytes(whole.replace(b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight"))
    with pytest.raises(ModelError, match=r"has no matrix 'blk\.1\.attn_q\.weight'"):
        inspect(path)
    path.write_bytes(whole[:4] + (9).to_bytes(4, "little") + whole[8:])
    with pytest.raises(ModelError, match="GGUF version 9"):
        inspect(path)


@pytest.mark.slow
def test_edge_side_imports_neither_torch_nor_llama_cpp(base):
    script = (
        "import sys; from edge_device import adapter, gguf_model; from pathlib import Path;"
        "gguf_model.inspect(Path(sys.argv[1]));"
        "print({'torch', 'transformers', 'peft', 'tokenizers', 'safetensors', 'llama_cpp'} & "
        "set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(base[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
