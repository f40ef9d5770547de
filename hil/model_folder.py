"""A Hugging Face model folder, read with numpy alone: tensors, configuration, and the identity of a
base model.

Both halves name the base model by the same hash, so the edge can turn down an update made for
another one. Neither torch nor transformers is imported; one tensor is in memory at a time.

File format: https://huggingface.co/docs/safetensors (8 bytes of little-endian length, a JSON
header, raw data).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import BaseSpec, ModelError

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

_DTYPES: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER_BYTES: Final = 100_000_000
_HEAD_DIM_OF_QWEN3: Final = 128


# ------------------------------------------------------------------------------------------
# configuration


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
    """What the folder's model computes.

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
    """What the folder's OPT model computes.

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


# ------------------------------------------------------------------------------------------------
# tensors


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one tensor lies: file, dtype of safetensors, shape, first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def shapes(folder: Path | str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that `tensors` gives, from the files' headers alone, in the same
    order."""
    return {name: stored.shape for name, stored in _stored(Path(folder)).items()}


def tensors(folder: Path | str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor of the model, sorted by name, one at a time.

    Left out is what the others and the configuration already fix: a tied lm_head and stored rotary
    frequencies.

    Yields:
        Name as Hugging Face has it, and float32 values.
    Raises:
        ModelError: no weights, a damaged file, or a dtype other than F32, F16 and BF16.
    """
    for name, stored in _stored(Path(folder)).items():
        yield name, _load(name, stored)


def canonical_f16(name: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
    """The tensor as little-endian f16, rounded to nearest even: the form that is hashed and that
    the edge holds.

    Raises:
        ModelError: NaN, infinity, or a value beyond f16 (65,504).
    """
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise ModelError(
            f"tensor '{name}' holds NaN, infinity or a value beyond ±65504, which f16 can't hold"
        )
    return half


def _stored(folder: Path) -> dict[str, _Stored]:
    tied = bool(
        config(folder).get("tie_word_embeddings", is_cloud_only(folder))
    )  # OPT's default is True
    found: dict[str, _Stored] = {}
    for path in _weight_files(folder):
        for name, stored in _read_header(path).items():
            if name in found:
                raise ModelError(
                    f"tensor '{name}' is in both '{found[name].path}' and '{path}'; remove the "
                    "stray file"
                )
            found[name] = stored
    derived = [
        n for n in found if n.endswith("rotary_emb.inv_freq") or (tied and n == "lm_head.weight")
    ]
    return {name: found[name] for name in sorted(found.keys() - set(derived))}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors.index.json").is_file():
        weight_map = read_json(folder, "model.safetensors.index.json").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(
                f"'{folder}/model.safetensors.index.json' has no weight_map; copy the model "
                "folder again"
            )
        paths = [folder / Path(str(name)).name for name in sorted(set(weight_map.values()))]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"'{folder}' lacks {path.name}; copy the whole model folder (weights must be "
                "*.safetensors: "
                "save_pretrained writes them)"
            )
    return paths


def _read_header(path: Path) -> dict[str, _Stored]:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or length > min(size_bytes - 8, _MAX_HEADER_BYTES):
            raise _damaged(
                path, f"it declares a header of {length} bytes and has {size_bytes} in all"
            )
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {
                name: _entry(path, name, entry, 8 + length, size_bytes)
                for name, entry in entries.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"its header can't be read ({error})") from error


def _entry(
    path: Path, name: str, entry: Mapping[str, Any], data_start: int, size_bytes: int
) -> _Stored:
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    begin, end = (int(n) for n in entry["data_offsets"])
    if dtype not in _DTYPES:
        raise ModelError(
            f"tensor '{name}' in '{path}' is {dtype}; save the model as float32, float16 or "
            "bfloat16"
        )
    if (
        min((begin, *shape)) < 0
        or end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    ):
        raise _damaged(
            path, f"tensor '{name}' of shape {list(shape)} {dtype} is given {end - begin} bytes"
        )
    if data_start + end > size_bytes:
        raise _damaged(
            path, f"tensor '{name}' ends at byte {data_start + end}, the file at {size_bytes}"
        )
    return _Stored(path, dtype, shape, data_start + begin)


def _load(name: str, stored: _Stored) -> NDArray[np.float32]:
    count = math.prod(stored.shape)
    raw = np.fromfile(stored.path, dtype=_DTYPES[stored.dtype], count=count, offset=stored.offset)
    if raw.size != count:
        raise _damaged(
            stored.path, f"tensor '{name}' ends early, after {raw.size} of {count} values"
        )
    if stored.dtype == "BF16":  # bfloat16 is the upper half of a float32
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.reshape(stored.shape).astype(np.float32, copy=False)


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"'{path}' is damaged: {what}; copy or download the model folder again")


# -----------------------------------------------------------------------------------------------
# identity


def identity(folder: Path | str) -> str:
    """SHA-256 (64 hex digits) that names a base model on both sides of the link.

    Hashed are the canonical f16 tensors (name, shape, bytes; sorted by name), the configuration
    that decides the computation, and tokenizer.json byte by byte. The stored dtype, the sharding,
    the version of the configuration file and a stored copy of a tied lm_head make no difference.

    Raises:
        ModelError: whatever keeps the folder from being read or its model from being adapted; no
            tokenizer.json.
    """
    folder = Path(folder)
    settings = asdict(_any_computation(folder))
    digest = hashlib.sha256(b"base model identity 1\n")
    digest.update(_canonical_json(settings))
    digest.update(hashlib.sha256(tokenizer_bytes(folder)).digest())
    for name, values in tensors(folder):
        digest.update(_canonical_json([name, list(values.shape)]))
        digest.update(canonical_f16(name, values).tobytes())
    return digest.hexdigest()


def tokenizer_bytes(folder: Path | str) -> bytes:
    """The folder's tokenizer.json.

    Raises:
        ModelError: the folder has none.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"'{folder}' lacks tokenizer.json; save the tokenizer into it with "
            "AutoTokenizer(...).save_pretrained"
        )
    return path.read_bytes()


def base_spec(folder: Path | str) -> BaseSpec:
    """Identity and adaptable projections of the folder's model.

    Raises:
        ModelError: as `identity`; or a projection is missing or of another shape than the
            configuration says.
    """
    return BaseSpec(identity=identity(folder), module_shapes=module_shapes(folder))


def module_shapes(folder: Path | str) -> dict[str, tuple[int, int]]:
    """Adaptable projections as (d_out, d_in), layer by layer, in the order of PROJECTIONS or
    OPT_PROJECTIONS.

    Raises:
        ModelError: a projection is missing or of another shape than the configuration says.
    """
    model, found = _any_computation(folder), shapes(folder)
    wanted = expected_module_shapes(model)
    for module, shape in wanted.items():
        if found.get(f"{module}.weight") != shape:
            has = list(found.get(f"{module}.weight", ()))
            raise ModelError(
                f"'{folder}' does not fit its config.json: '{module}.weight' should be "
                f"{list(shape)} and is "
                f"{has or 'missing'}; copy the model folder again"
            )
    return wanted


def _any_computation(folder: Path | str) -> Computation | OptComputation:
    return opt_computation(folder) if is_cloud_only(folder) else computation(folder)


def expected_module_shapes(model: Computation | OptComputation) -> dict[str, tuple[int, int]]:
    """Adaptable projections as (d_out, d_in) that follow from the configuration, in canonical
    order."""
    if isinstance(model, OptComputation):
        square, inner = (model.hidden_size, model.hidden_size), model.ffn_dim
        per_opt_layer = (*4 * (square,), (inner, model.hidden_size), (model.hidden_size, inner))
        return {
            f"model.decoder.layers.{layer}.{projection}": shape
            for layer in range(model.num_hidden_layers)
            for projection, shape in zip(OPT_PROJECTIONS, per_opt_layer, strict=True)
        }
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    hidden, inner = model.hidden_size, model.intermediate_size
    attention = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
    per_layer = (*attention, (inner, hidden), (inner, hidden), (hidden, inner))
    return {
        f"model.layers.{layer}.{projection}": shape
        for layer in range(model.n_layers)
        for projection, shape in zip(PROJECTIONS, per_layer, strict=True)
    }


def _canonical_json(value: object) -> bytes:
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
    )
