"""Adapters of PEFT: read as PEFT computes them; anything else is refused in one line."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from hil.contract import BaseSpec, HilError, ModelError
from hil.model_folder import base_spec
from hil.model_folder.peft_adapter import read_adapter
from tests.edge_device.families import CASES

NAMES = ("hf", "other")
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return CASES["qwen3"].make(tmp_path_factory.mktemp("model") / "hf")


@pytest.fixture(scope="module")
def base(model_folder) -> BaseSpec:
    return base_spec(model_folder)


def _adapted(model_folder: Path, **settings: object) -> peft.PeftModel:
    """A LoRA whose factors are random."""
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return adapted


@pytest.fixture(scope="module")
def whole(model_folder, tmp_path_factory) -> tuple[Path, peft.PeftModel]:
    adapted = _adapted(
        model_folder,
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "o_proj", "down_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2, r"layers\.\d+\.mlp\.down_proj": 7},
        alpha_pattern={"o_proj": 3},
        use_rslora=True,
    )
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return folder, adapted


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "adapter"))


def test_every_scale_and_pattern_is_peft_s(whole, base):
    folder, adapted = whole
    update = read_adapter(folder, base, NAMES)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.Linear)
    }
    assert set(update) == set(layers)
    assert [name for name in base.module_shapes if name in update] == list(update)
    assert {factors.rank for factors in update.values()} == {2, 4, 7}
    for name, factors in update.items():
        wanted = layers[name].get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(factors.b @ factors.a, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(whole, base, copy, dtype):
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    path = copy / "adapter_model.safetensors"
    save({name: values.to(dtype) for name, values in load(path).items()}, path)
    exact = read_adapter(whole[0], base, NAMES)
    for name, factors in read_adapter(copy, base, NAMES).items():
        np.testing.assert_allclose(factors.a, exact[name].a, rtol=1e-2)


def _config(**changes: object) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _weights(change: Callable[[dict], object]) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return edit


def _renamed(old: str, new: str) -> Edit:
    return _weights(lambda w: [w.update({name.replace(old, new): w.pop(name)}) for name in list(w)])


def _first(change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return _weights(lambda w: w.update({(name := sorted(w)[0]): change(w[name])}))


HEAD = "base_model.model.lm_head"
MANY = {
    f"base_model.model.model.layers.0.self_attn.q_proj.lora_{p}.weight": s
    for p, s in (("A", (300, 64)), ("B", (128, 300)))
}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_config(use_dora=True), "is a DoRA.*use_dora=False"),
        (_config(modules_to_save=["lm_head"]), "modules of its own .*train it without"),
        (_config(bias="all"), "trains biases .*bias='none'"),
        (_config(lora_bias=True), "lora_bias=False"),
        (_config(peft_type="ADALORA"), "type 'ADALORA', not a LoRA"),
        (_config(init_lora_weights="pissa"), "'pissa', which changes the base"),
        (_config(init_lora_weights=["pissa"]), "changes the base"),
        (_config(base_model_name_or_path="a/Foreign"), "for the base model 'a/Foreign', not for"),
        (_config(target_parameters=["x"]), "bare parameters"),
        (_config(trainable_token_indices=[1]), "token embeddings"),
        (_config(r=5), "has rank 4 .* says 5"),
        (_config(lora_alpha="6"), "alpha = '6'"),
        (_config(lora_alpha=float("nan")), "alpha = nan"),
        (_config(alpha_pattern={"(a|a)*x": 1}), "too involved"),
        (_config(alpha_pattern={"(": 1}), "too involved"),
        (_config(rank_pattern=[1]), "no table"),
        (_weights(lambda w: w.update({f"{HEAD}.lora_A.weight": w[sorted(w)[0]]})), "output layer"),
        (_weights(lambda w: w.update({f"{HEAD}.weight": w[sorted(w)[0]]})), "output layer"),
        (_renamed("lora_A.weight", "lora_embedding_A"), "embedding"),
        (_renamed("lora_A.weight", "lora_magnitude_vector"), "no factor of a LoRA"),
        (_renamed("down_proj", "experts"), "no projection of this base model: train it on q_proj"),
        (_renamed("layers.1", "layers.7"), "layers.7.*no projection of this base model"),
        (_renamed("base_model.model.", ""), "no factor of a LoRA"),
        (_first(lambda v: v[:, :-1].copy()), "set model.base to the model that it is for"),
        (_first(lambda v: v * np.float32(np.nan)), "holds NaN or infinity"),
        (_first(lambda v: v.astype(np.int8)), "is I8"),
        (_weights(lambda w: w.pop(sorted(w)[0])), "lacks lora_A"),
        (_weights(lambda w: w.clear()), "holds no factors"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "safe_serialization"),
        (lambda f: (f / "adapter_config.json").unlink(), r"adapter_config\.json is missing"),
        (lambda f: (f / "adapter_config.json").write_text(200_000 * "["), "is damaged"),
        (lambda f: shutil.rmtree(f), "is not a folder"),
    ],
)
def test_what_the_edge_cannot_take_is_refused_by_name(copy, base, edit, message):
    edit(copy)
    with pytest.raises(ModelError, match=message) as refused:
        read_adapter(copy, base, NAMES)
    assert "\n" not in str(refused.value)


def mutated(folder: Path, rng: np.random.Generator) -> None:
    """Damages an adapter's folder in one of the ways in which folders are damaged."""
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    header_end = 8 + int.from_bytes(raw[:8], "little")
    match int(rng.integers(8)):
        case 0:  # cut short
            weights.write_bytes(raw[: rng.integers(len(raw))])
        case 1:  # bytes of the header
            for at in rng.integers(0, header_end, 3):
                raw[at] = rng.integers(256)
            weights.write_bytes(raw)
        case 2:  # a shape, or a rank that is huge
            _weights_header(weights, rng)
        case 3:  # a value that is none
            at = int(rng.integers((len(raw) - header_end) // 4))
            raw[header_end + 4 * at : header_end + 4 * at + 4] = np.float32(
                rng.choice([np.nan, np.inf])
            ).tobytes()
            weights.write_bytes(raw)
        case 4:  # a tensor is missing
            _weights(lambda w: w.pop(sorted(w)[rng.integers(len(w))]))(folder)
        case 5:  # a setting is missing or of another kind
            settings = json.loads(config.read_text())
            key = ("r", "lora_alpha", "peft_type", "rank_pattern", "alpha_pattern", "use_rslora")[
                rng.integers(6)
            ]
            settings[key] = [None, "x", -1, 2**70, [], {"q": []}, 1e308][rng.integers(7)]
            config.write_text(json.dumps(settings))
        case 6:  # not JSON any more
            text = bytearray(config.read_bytes())
            text[rng.integers(len(text))] = rng.integers(256)
            config.write_bytes(text[: rng.integers(1, len(text) + 1)])
        case 7:  # a file that is something else
            path = (config, weights)[rng.integers(2)]
            path.write_bytes(rng.bytes(int(rng.integers(200))))


def _weights_header(path: Path, rng: np.random.Generator) -> None:
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    entry = header[sorted(set(header) - {"__metadata__"})[rng.integers(len(header) - 1)]]
    entry["shape"][rng.integers(2)] = [0, -1, 3, 2**31, 2**70, "x", None, 1e400][rng.integers(8)]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])


@pytest.mark.slow
def test_no_damage_ends_in_anything_but_one_line(whole, base, tmp_path):
    """A damaged folder is refused, or still holds the same factors (a comment has changed)."""
    good = read_adapter(whole[0], base, NAMES)
    refused = 0
    for seed in range(200):
        folder = Path(shutil.copytree(whole[0], tmp_path / str(seed)))
        mutated(folder, np.random.default_rng(seed))
        try:
            update = read_adapter(folder, base, NAMES)
        except HilError as error:
            refused += "\n" not in str(error)
        else:
            assert list(update) == list(good)
            for module, factors in update.items():
                np.testing.assert_array_equal(factors.a, good[module].a)
    assert refused >= 150
