"""config.json of a Hugging Face model folder: what the model computes, and its projections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final

from hil.contract import ModelError

SUPPORTED_ARCHITECTURES: Final = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Architectures whose conversion for the edge is tested."""

CLOUD_ONLY_ARCHITECTURE: Final = "OPTForCausalLM"
"""Trained and evaluated in the cloud alone: the edge has no conversion for it."""

PROJECTIONS: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""Projections of one layer that may be adapted, in canonical order."""

OPT_PROJECTIONS: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "fc1",
    "fc2",
)
"""The same for OPT, whose layers are model.decoder.layers.N."""

_HEAD_DIM_OF_QWEN3: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """The configuration that decides what a model computes; defaults of Hugging Face filled in.

    Attributes:
        architecture: class name of Hugging Face, one of SUPPORTED_ARCHITECTURES.
        head_dim: width of one attention head; n_heads × head_dim may differ from hidden_size.
        tied_embeddings: the output layer is the token embedding.
    """

    architecture: str
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    tied_embeddings: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OptComputation:
    """The same for OPT, in the words of its config.json; defaults of Hugging Face filled in.

    Attributes:
        word_embed_proj_dim: width of the token embedding; None = hidden_size.
    """

    architecture: str = CLOUD_ONLY_ARCHITECTURE
    hidden_size: int
    ffn_dim: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 2048
    word_embed_proj_dim: int | None = None
    activation_function: str = "relu"
    do_layer_norm_before: bool = True
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    _remove_final_layer_norm: bool = False
    tie_word_embeddings: bool = True


def config(folder: Path | str) -> dict[str, Any]:
    """The folder's config.json as it stands.

    Raises:
        ModelError: no such folder, no config.json in it, or not a JSON object.
    """
    return read_json(Path(folder), "config.json")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object out of a model folder.

    Raises:
        ModelError: the folder or file is missing, or the file is not a JSON object.
    """
    if not folder.is_dir():
        raise ModelError(
            f"'{folder}' is not a folder; give the path of a Hugging Face model folder (with "
            "config.json)"
        )
    path = folder / name
    if not path.is_file():
        raise ModelError(
            f"'{folder}' holds no model that can be read: {name} is missing; save it with "
            "save_pretrained"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"'{path}' is damaged: {error}; copy the model folder again") from error
    if not isinstance(content, dict):
        raise ModelError(
            f"'{path}' is damaged: a JSON object is expected; copy the model folder again"
        )
    return content


def computation(folder: Path | str) -> Computation:
    """The computation of the folder's model.

    Raises:
        ModelError: an architecture or a setting that the edge cannot serve, or a configuration with
            a hole in it.
    """
    raw = config(folder)
    architecture = _architecture(raw)
    _refuse_unserved_settings(raw)
    try:
        n_heads = int(raw["num_attention_heads"])
        per_head = (
            _HEAD_DIM_OF_QWEN3
            if architecture == "Qwen3ForCausalLM"
            else int(raw["hidden_size"]) // n_heads
        )
        found = Computation(
            architecture=architecture,
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            n_layers=int(raw["num_hidden_layers"]),
            n_heads=n_heads,
            n_kv_heads=int(raw.get("num_key_value_heads") or n_heads),
            head_dim=int(raw.get("head_dim") or per_head),
            vocab_size=int(raw["vocab_size"]),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=float(_rope(raw).get("rope_theta", 10_000.0)),
            tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise ModelError(
            f"'{folder}/config.json' lacks {error}; save the model again with save_pretrained"
        ) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"'{folder}/config.json' holds a value of the wrong kind: {error}"
        ) from error
    if (
        found.architecture == "Qwen2ForCausalLM"
        and found.n_heads * found.head_dim != found.hidden_size
    ):
        raise ModelError(
            f"the edge can't serve this Qwen2 model: {found.n_heads} heads × {found.head_dim} is "
            "not its hidden size "
            f"{found.hidden_size}; llama.cpp needs them equal"
        )
    return found


def opt_computation(folder: Path | str) -> OptComputation:
    """The computation of the folder's OPT model.

    Raises:
        ModelError: a configuration with a hole in it, or a value of the wrong kind.
    """
    raw = config(folder)
    known = {
        f.name: raw[f.name]
        for f in fields(OptComputation)
        if f.name in raw and f.name != "architecture"
    }
    sizes = [f.name for f in fields(OptComputation) if f.default is MISSING]
    for name in sizes:
        if name not in known:
            raise ModelError(
                f"'{folder}/config.json' lacks '{name}'; save the model again with save_pretrained"
            )
        if not isinstance(known[name], int) or known[name] < 1:
            raise ModelError(
                f"'{folder}/config.json' holds a value of the wrong kind: {name} = {known[name]!r}"
            )
    return OptComputation(**known)


def is_cloud_only(folder: Path | str) -> bool:
    """The folder's model can be trained and evaluated in the cloud, but not served by the edge."""
    return config(folder).get("architectures") == [CLOUD_ONLY_ARCHITECTURE]


def any_computation(folder: Path | str) -> Computation | OptComputation:
    """The computation of the folder's model, also one that the edge cannot serve.

    Raises:
        ModelError: as computation or opt_computation.
    """
    return opt_computation(folder) if is_cloud_only(folder) else computation(folder)


def expected_module_shapes(model: Computation | OptComputation) -> dict[str, tuple[int, int]]:
    """Adaptable projections as (d_out, d_in) that follow from the configuration, in canonical
    order."""
    if isinstance(model, OptComputation):
        square, inner = (model.hidden_size, model.hidden_size), model.ffn_dim
        per_opt_layer = (*4 * (square,), (inner, model.hidden_size), (model.hidden_size, inner))
        one_layer = dict(zip(OPT_PROJECTIONS, per_opt_layer, strict=True))
        return _in_each_layer("model.decoder.layers", model.num_hidden_layers, one_layer)
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    hidden, inner = model.hidden_size, model.intermediate_size
    attention = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
    per_layer = (*attention, (inner, hidden), (inner, hidden), (hidden, inner))
    one_layer = dict(zip(PROJECTIONS, per_layer, strict=True))
    return _in_each_layer("model.layers", model.n_layers, one_layer)


def _in_each_layer(
    prefix: str, n_layers: int, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """The modules of one layer, named as they are in each of `n_layers`."""
    named: dict[str, tuple[int, int]] = {}
    for layer in range(n_layers):
        for projection, shape in shapes.items():
            named[f"{prefix}.{layer}.{projection}"] = shape
    return named


def _architecture(raw: Mapping[str, Any]) -> str:
    named = raw.get("architectures") or ["a model that names no architecture"]
    if len(named) == 1 and named[0] in SUPPORTED_ARCHITECTURES:
        return str(named[0])
    if named == [CLOUD_ONLY_ARCHITECTURE]:
        raise ModelError(
            f"the edge can't serve {CLOUD_ONLY_ARCHITECTURE} (llama.cpp doesn't): score it in the "
            "cloud with "
            f"`hil train` and `hil eval`, or choose one of {', '.join(SUPPORTED_ARCHITECTURES)}"
        )
    raise ModelError(
        f"the edge can't serve '{', '.join(map(str, named))}'; it serves "
        f"{', '.join(SUPPORTED_ARCHITECTURES)}: "
        "choose a model of one of these architectures"
    )


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, from either place where versions of transformers keep them."""
    if isinstance(raw.get("rope_parameters"), dict):
        return dict(raw["rope_parameters"])
    scaling = dict(raw.get("rope_scaling") or {})
    return scaling | (
        {"rope_theta": raw["rope_theta"]} if raw.get("rope_theta") is not None else {}
    )


def _refuse_unserved_settings(raw: Mapping[str, Any]) -> None:
    rope = _rope(raw)
    settings = {
        "hidden_act": (raw.get("hidden_act", "silu"), "silu"),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "use_sliding_window": (bool(raw.get("use_sliding_window", False)), False),
        "mlp_bias": (bool(raw.get("mlp_bias", False)), False),
        "partial_rotary_factor": (float(rope.get("partial_rotary_factor", 1.0)), 1.0),
    }
    for name, (value, served) in settings.items():
        if value != served:
            raise ModelError(
                f"the edge can't serve a model with {name} = {value!r}, only {served!r}: choose "
                "another base model"
            )
