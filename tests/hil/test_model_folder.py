"""Model folders: read without torch, named by what the model computes, refused with a line that
helps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hil import model_folder
from hil.contract import ModelError

Tensors = dict[str, NDArray[np.generic]]

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 30,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
}
SHAPES = {
    "self_attn.q_proj": (32, 16),
    "self_attn.k_proj": (16, 16),
    "self_attn.v_proj": (16, 16),
    "self_attn.o_proj": (16, 32),
    "mlp.gate_proj": (24, 16),
    "mlp.up_proj": (24, 16),
    "mlp.down_proj": (16, 24),
}


YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA: dict[str, object] = {
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 8,
}


def _weights(dtype: type = np.float16) -> Tensors:
    rng = np.random.default_rng(1)
    shapes = {
        f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in SHAPES.items()
    }
    shapes |= {"model.embed_tokens.weight": (30, 16), "model.norm.weight": (16,)}
    return {
        name: rng.standard_normal(shape).astype(np.float16).astype(dtype)
        for name, shape in shapes.items()
    }


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str = "model", *, weights: Tensors | None = None, without: str = "", **config: object
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file(
            _weights() if weights is None else weights,
            folder / "model.safetensors",
            {"format": "pt"},
        )
        settings = {key: value for key, value in (CONFIG | config).items() if key != without}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        return folder

    return make


def _edit_header(path: Path, edit: Callable[[dict], None]) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def test_tensors_come_sorted_as_float32_with_their_values(make_folder):
    weights = _weights()
    read = list(model_folder.tensors(make_folder(weights=weights)))
    assert [name for name, _ in read] == sorted(weights)
    for name, values in read:
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, weights[name].astype(np.float32))


def test_bfloat16_matches_torch(make_folder):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    folder = make_folder()
    values = torch.randn(30, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    save_torch({"model.embed_tokens.weight": values}, folder / "model.safetensors")
    [(_, read)] = model_folder.tensors(folder)
    np.testing.assert_array_equal(read, values.float().numpy())


def test_shards_are_read_through_the_index(make_folder):
    weights, folder = _weights(), make_folder()
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-1-of-2.safetensors": names[:5], "model-2-of-2.safetensors": names[5:]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    read = dict(model_folder.tensors(folder))
    assert sorted(read) == names
    np.testing.assert_array_equal(read[names[-1]], weights[names[-1]].astype(np.float32))
    assert model_folder.identity(folder) == model_folder.identity(make_folder("whole"))
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-2-of-2\.safetensors"):
        list(model_folder.tensors(folder))


def test_identity_is_the_same_for_every_way_to_store_one_model(make_folder):
    expected = model_folder.identity(make_folder())
    tied = _weights() | {"lm_head.weight": _weights()["model.embed_tokens.weight"]}
    assert model_folder.identity(make_folder("tied head stored", weights=tied)) == expected
    assert model_folder.identity(make_folder("float32", weights=_weights(np.float32))) == expected
    old = {
        "rope_parameters": None,
        "rope_theta": 10000,
        "transformers_version": "4.40",
        "use_cache": False,
    }
    assert model_folder.identity(make_folder("older config", **old)) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_theta": 10001.0, "rope_type": "default"}},
        {"rms_norm_eps": 1e-5},
        {"architectures": ["LlamaForCausalLM"]},
        {"num_attention_heads": 8, "head_dim": 4},
    ],
)
def test_identity_changes_with_the_computation(make_folder, change):
    assert model_folder.identity(make_folder("other", **change)) != model_folder.identity(
        make_folder()
    )


def test_identity_changes_with_a_weight_and_with_the_tokenizer(make_folder):
    folder, weights = make_folder(), _weights()
    before = model_folder.identity(folder)
    weights["model.norm.weight"][3] = np.nextafter(weights["model.norm.weight"][3], np.float16(9))
    assert model_folder.identity(make_folder("other", weights=weights)) != before
    (folder / "tokenizer.json").write_text('{"version": "1.1"}')
    assert model_folder.identity(folder) != before


def test_identity_of_a_fixed_model_never_changes(make_folder):
    """Edges in the field were provisioned with it."""
    ramps = {
        name: (np.arange(w.size) % 251 / 64 - 2).reshape(w.shape) for name, w in _weights().items()
    }
    folder = make_folder(weights={name: ramp.astype(np.float16) for name, ramp in ramps.items()})
    assert (
        model_folder.identity(folder)
        == "c96842c4bddc0e2b8c11db529413767cd683db401022d81b7413ec6e0b149389"
    )


def test_base_spec_lists_projections_in_canonical_order(make_folder):
    spec = model_folder.base_spec(make_folder())
    expected = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(2)
        for name, shape in SHAPES.items()
    }
    assert list(spec.module_shapes.items()) == list(expected.items())
    assert len(spec.identity) == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "can't serve 'GPT2LMHeadModel'; it serves LlamaForCausalLM, Mistral",
        ),
        ({"architectures": None}, "names no architecture"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 5e5}}, "rope_type = 'dynamic'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "su"}}, "rope_type = 'su'"),
        ({"rope_parameters": YARN | {"beta_fast": 16}}, r"beta_fast \(of yarn\) = 16"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "lacks 'factor'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"attention_bias": True}, "attention_bias = True"),
        (GEMMA | {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar = 16 is not its head_dim 8"),
        (GEMMA | {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        (GEMMA | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = "),
        (
            {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]},
            r"no_rope_layers = \[1, 0\], only every fourth layer",
        ),
        (
            {"architectures": ["StableLmForCausalLM"], "qk_layernorm": True},
            "qk_layernorm = True, only False",
        ),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"architectures": ["MistralForCausalLM"], "mlp_bias": True}, "mlp_bias"),
        ({"without": "hidden_size"}, "lacks 'hidden_size'"),
        ({"num_hidden_layers": "many"}, "wrong kind"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "4 heads × 8 is not its hidden size 16"),
        (
            {"intermediate_size": 25},
            r"mlp.gate_proj.weight' should be \[25, 16\] and is \[24, 16\]",
        ),
        (
            {"num_hidden_layers": 3},
            r"layers\.2\.self_attn\.q_proj\.weight' should be \[32, 16\] and is missing",
        ),
    ],
)
def test_a_model_that_cannot_be_served_is_named(make_folder, change, message):
    with pytest.raises(ModelError, match=message):
        model_folder.base_spec(make_folder(**change))


def test_what_is_missing_is_named(make_folder, tmp_path):
    folder = make_folder()
    with pytest.raises(ModelError, match="is not a folder"):
        model_folder.identity(tmp_path / "nowhere")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json; save the tokenizer"):
        model_folder.identity(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        list(model_folder.tensors(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        model_folder.config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        model_folder.base_spec(folder)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, 64),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 48}, 48),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, 64),
        ({"architectures": ["Phi3ForCausalLM"], "sliding_window": 96}, 64),
        (
            {
                "architectures": ["Phi3ForCausalLM"],
                "original_max_position_embeddings": 32,
                "rope_parameters": {"rope_type": "longrope"},
            },
            32,
        ),
        (GEMMA | {"sliding_window": 16}, 64),
    ],
)
def test_texts_end_where_llama_cpp_would_compute_something_else(make_folder, config, length):
    assert model_folder.longest_text(make_folder(**config)) == length


def test_a_window_and_a_scaling_are_part_of_the_identity(make_folder):
    found = set()
    for i, window in enumerate((None, 48)):
        given = {"architectures": ["MistralForCausalLM"], "sliding_window": window}
        found |= {model_folder.identity(make_folder(f"window {i}", **given))}
    for i, factor in enumerate((2.0, 4.0)):
        rope = YARN | {"factor": factor}
        found |= {model_folder.identity(make_folder(f"rope {i}", rope_parameters=rope))}
    assert len(found) == 4


NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h: h[NORM].update(dtype="I8"), f"'{NORM}' in .* is I8"),
        (lambda h: h[NORM].update(shape=[17]), rf"'{NORM}' of shape \[17\] F16 is given 32 bytes"),
        (lambda h: h[NORM].update(data_offsets=[0]), "header can't be read"),
        (lambda h: h[NORM].pop("shape"), "header can't be read"),
        (lambda h: h[NORM].update(data_offsets=[10**6, 10**6 + 32]), "ends at byte 10"),
        (lambda h: h[EMBEDDING].update(shape=[-30, -16]), "is given 960 bytes"),
    ],
)
def test_a_damaged_header_is_refused(make_folder, edit, message):
    folder = make_folder()
    _edit_header(folder / "model.safetensors", edit)
    with pytest.raises(ModelError, match=message):
        list(model_folder.tensors(folder))


def test_a_file_cut_anywhere_is_refused(make_folder):
    path = make_folder() / "model.safetensors"
    whole = path.read_bytes()
    for length in [0, 7, 8, 100, *np.random.default_rng(4).integers(9, len(whole), 40)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="is damaged"):
            list(model_folder.tensors(path.parent))


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_a_value_that_f16_cannot_hold_is_named(make_folder, value):
    weights = _weights(np.float32)
    weights[NORM][0] = value
    with pytest.raises(ModelError, match=f"'{NORM}' holds NaN, infinity or a value beyond"):
        model_folder.identity(make_folder(weights=weights))


@pytest.mark.slow
def test_reading_a_folder_needs_neither_torch_nor_transformers(make_folder):
    import subprocess

    script = (
        "import sys; from hil import model_folder; model_folder.base_spec(sys.argv[1]);"
        "print({'torch', 'transformers', 'safetensors', 'gguf'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(make_folder())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


OPT_CONFIG = {
    "architectures": ["OPTForCausalLM"],
    "hidden_size": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 30,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 16,
}
OPT_SHAPES = {
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (16, 16),
    "self_attn.v_proj": (16, 16),
    "self_attn.out_proj": (16, 16),
    "fc1": (24, 16),
    "fc2": (16, 24),
}


@pytest.fixture
def make_opt(make_folder) -> Callable[..., Path]:
    rng = np.random.default_rng(5)
    layers = {
        f"model.decoder.layers.{i}.{name}": shape
        for i in range(2)
        for name, shape in OPT_SHAPES.items()
    }
    weights: Tensors = {
        f"{name}.weight": rng.standard_normal(shape, np.float32) for name, shape in layers.items()
    }
    weights["model.decoder.embed_tokens.weight"] = rng.standard_normal((30, 16), np.float32)

    def make(name: str = "opt", *, extra: Tensors | None = None, **config: object) -> Path:
        folder: Path = make_folder(name, weights=weights | (extra or {}))
        settings = {key: value for key, value in (OPT_CONFIG | config).items() if value != "absent"}
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return make


def test_opt_is_adapted_in_canonical_order_and_never_served(make_opt):
    folder = make_opt()
    spec = model_folder.base_spec(folder)
    expected = {
        f"model.decoder.layers.{i}.{name}": shape
        for i in range(2)
        for name, shape in OPT_SHAPES.items()
    }
    assert list(spec.module_shapes.items()) == list(expected.items())
    with pytest.raises(
        ModelError, match=r"edge can't serve OPTForCausalLM .*score it in the cloud .*`hil eval`"
    ):
        model_folder.computation(folder)


def test_identity_of_opt_takes_the_defaults_of_hugging_face(make_opt):
    expected = model_folder.identity(make_opt())
    # Embeddings of OPT are tied unless the configuration says otherwise.
    head = {"lm_head.weight": np.ones((30, 16), np.float32)}
    assert model_folder.identity(make_opt("tied head stored", extra=head)) == expected
    assert (
        model_folder.identity(make_opt("untied", extra=head, tie_word_embeddings=False)) != expected
    )
    assert (
        model_folder.identity(make_opt("relu by name", activation_function="relu", dropout=0.3))
        == expected
    )
    assert model_folder.identity(make_opt("gelu", activation_function="gelu")) != expected
    assert model_folder.identity(make_opt("heads", num_attention_heads=2)) != expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ffn_dim": "absent"}, "lacks 'ffn_dim'"),
        ({"num_hidden_layers": "two"}, "wrong kind: num_hidden_layers = 'two'"),
        (
            {"num_hidden_layers": 3},
            r"layers\.2\.self_attn\.q_proj\.weight' should be \[16, 16\] and is missing",
        ),
    ],
)
def test_a_damaged_opt_is_named(make_opt, change, message):
    with pytest.raises(ModelError, match=message):
        model_folder.base_spec(make_opt(**change))
