"""config.json of a Hugging Face model folder: what the model computes, and its projections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from hil.contract import ModelError
from hil.model_folder.attention import (
    Setting,
    longest_served,
    rope_of,
    rope_settings,
    window_settings,
)
from hil.model_folder.families import FAMILIES, SUPPORTED_ARCHITECTURES, Family

CLOUD_ONLY_ARCHITECTURE: Final = "OPTForCausalLM"
"""Trained and evaluated in the cloud alone: the edge has no conversion for it."""

OPT_PROJECTIONS: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "fc1",
    "fc2",
)
"""The same for OPT, whose layers are model.decoder.layers.N."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """The configuration that decides what a model computes; defaults of Hugging Face filled in.

    Attributes:
        architecture: class name of Hugging Face, one of SUPPORTED_ARCHITECTURES.
        head_dim: width of one attention head; n_heads × head_dim may differ from hidden_size.
        rms_norm_eps: that of the model's normalisations, whatever their kind.
        tied_embeddings: the output layer is the token embedding.
        others: settings that models of the plainest kind do not have: key of GGUF without the
            architecture → value; see hil.model_folder.attention.
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
    others: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The architecture's entry in the table of families."""
        return FAMILIES[self.architecture]


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
    except (ValueError, RecursionError) as error:
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
    family = FAMILIES[architecture]
    _refuse_unserved_settings(raw, family)
    try:
        n_heads = int(raw["num_attention_heads"])
        head_dim = int(raw.get("head_dim") or family.head_dim or int(raw["hidden_size"]) // n_heads)
        found = Computation(
            architecture=architecture,
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            n_layers=int(raw["num_hidden_layers"]),
            n_heads=n_heads,
            n_kv_heads=int(raw.get("num_key_value_heads") or n_heads),
            head_dim=head_dim,
            vocab_size=int(raw["vocab_size"]),
            rms_norm_eps=float(raw.get("rms_norm_eps", raw.get("layer_norm_eps", 1e-6))),
            rope_theta=float(rope_of(raw).get("rope_theta", 10_000.0)),
            tied_embeddings=has_tied_embeddings(raw),
            others={
                **rope_settings(raw, family, head_dim),
                **window_settings(raw, family),
                **{key: float(raw[name]) for key, name in family.scales.items()},
            },
        )
    except KeyError as error:
        raise ModelError(
            f"'{folder}/config.json' lacks {error}; save the model again with save_pretrained"
        ) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"'{folder}/config.json' holds a value of the wrong kind: {error}"
        ) from error
    _refuse_unserved_shapes(found, raw)
    return found


def longest_text(folder: Path | str) -> int:
    """Tokens up to which llama.cpp computes what Hugging Face does, for the folder's model.

    Raises:
        ModelError: as computation.
    """
    raw = config(folder)
    return longest_served(raw, FAMILIES[_architecture(raw)])


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
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.qkv_proj": (queries + 2 * keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    one_layer = {name: shapes[name] for name in model.family.projections}
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


def has_tied_embeddings(raw: Mapping[str, Any]) -> bool:
    """Whether the output layer of a config.json's model is its token embedding."""
    named = raw.get("architectures") or [""]
    by_default = named == [CLOUD_ONLY_ARCHITECTURE]
    if named[0] in FAMILIES:
        by_default = FAMILIES[named[0]].tied
    return bool(raw.get("tie_word_embeddings", by_default))


def _refuse_unserved_settings(raw: Mapping[str, Any], family: Family) -> None:
    for name, served in family.fixed.items():
        value = raw.get(name, served)
        if value != served and (value or served):
            raise ModelError(
                f"the edge can't serve a model with {name} = {value!r}, only {served!r}: choose "
                "another base model"
            )


def _refuse_unserved_shapes(found: Computation, raw: Mapping[str, Any]) -> None:
    """llama.cpp derives these widths from others."""
    scale = raw.get("query_pre_attn_scalar", found.head_dim)
    if found.family.arch == "gemma3" and scale != found.head_dim:
        raise ModelError(
            f"the edge can't serve this Gemma 3 model: query_pre_attn_scalar = {scale} is not its "
            f"head_dim {found.head_dim}; llama.cpp needs them equal"
        )
    if found.family.arch == "qwen2" and found.n_heads * found.head_dim != found.hidden_size:
        raise ModelError(
            f"the edge can't serve this Qwen2 model: {found.n_heads} heads × {found.head_dim} is "
            f"not its hidden size {found.hidden_size}; llama.cpp needs them equal"
        )
