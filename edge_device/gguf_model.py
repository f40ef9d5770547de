"""A base model in GGUF form: llama.cpp's names and row order, and what the file says of itself.

The base model's identity stands in the metadata, so an edge that holds only the GGUF knows which
updates belong to it.

Tensor and key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from gguf.constants import MODEL_ARCH_NAMES
from gguf.tensor_mapping import TensorNameMap
from numpy.typing import NDArray

from edge_device.gguf_file import GgufHeader, read_header
from hil.contract import BaseSpec, ModelError
from hil.model_folder import FAMILIES

_ARCHES: Final = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
_BY_ARCH: Final = {family.arch: family for family in FAMILIES.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TypesReport:
    """The tensor types that a GGUF file really has; llama.cpp falls back to others without a word.

    Attributes:
        tensors: ggml type → number of tensors.
        n_bytes: ggml type → bytes of tensor data.
        file_bytes: length of the file.
    """

    tensors: Mapping[str, int]
    n_bytes: Mapping[str, int]
    file_bytes: int

    def __str__(self) -> str:
        kinds = sorted(self.n_bytes, key=lambda kind: -self.n_bytes[kind])
        return ", ".join(
            f"{kind} × {self.tensors[kind]} ({self.n_bytes[kind] / 1e6:.2f} MB)" for kind in kinds
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """Description of a base model, read from its GGUF.

    Attributes:
        spec: identity and adaptable projections, under their Hugging Face names.
        hf_architecture: class name of Hugging Face, for example "Qwen3ForCausalLM".
        architecture: llama.cpp's name of it, for example "qwen3".
        n_heads, n_kv_heads: query heads, and key-value heads.
        vocab_size: rows of the token embedding.
        context_length: longest text that the model was made for, tokens.
        normalizer: "NFC" if text has to be brought into that Unicode form before llama.cpp splits
            it, else "".
        types: tensor types in the file.
    """

    spec: BaseSpec
    hf_architecture: str
    architecture: str
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    context_length: int
    normalizer: str
    types: TypesReport


# ---------------------------------------------------------------------------------------------
# names, rows


def tensor_name(module: str, arch: str, kind: str = "weight") -> str:
    """GGUF's name of a module's tensor: "model.layers.0.self_attn.q_proj" → "blk.0.attn_q.weight".

    Args:
        module: Hugging Face's name.
        arch: llama.cpp's name of the architecture.
        kind: "weight" or "bias".
    Raises:
        ModelError: a module that models of this architecture do not have.
    """
    number = module.removeprefix("model.layers.").partition(".")[0]
    n_layers = int(number) + 1 if number.isdecimal() and len(number) < 6 else 0
    name = _names(arch, n_layers).get_name(module)
    if name is None:
        raise ModelError(
            f"the edge has no place for a module named '{module}' in a model of architecture "
            f"{arch}: choose a model without it"
        )
    return f"{name}.{kind}"


@cache
def _names(arch: str, n_layers: int) -> TensorNameMap:
    """llama.cpp's own table of names."""
    return TensorNameMap(_ARCHES[arch], n_layers)


def rows_for_rope(
    values: NDArray[np.floating], module: str, *, architecture: str, n_heads: int, n_kv_heads: int
) -> NDArray[np.floating]:
    """Rows in llama.cpp's order.

    In some families it rotates neighbouring rows of a head against each other, Hugging Face row i
    against i + head_dim / 2; so query and key rows change places, in the base weight, its bias and
    the B factor of an update. Other modules and families come back as they are.

    Args:
        values: [d_out, …] of the module.
        architecture: llama.cpp's name.
    """
    heads = {"self_attn.q_proj": n_heads, "self_attn.k_proj": n_kv_heads}.get(
        module.split(".", 3)[-1]
    )
    if not _BY_ARCH[architecture].rotates_neighbours or heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


# ---------------------------------------------------------------------------------------------
# inspection


def inspect(path: Path) -> GgufModel:
    """Description of a base model in GGUF form; its tensor data is not read.

    Raises:
        ModelError: no such file, not GGUF, damaged or cut short, or not a base model made by
            `convert`.
    """
    header = read_header(path)
    architecture = str(_setting(path, header, "general.architecture", str))
    identity = str(_setting(path, header, "hil.base_identity", str))
    hf_architecture = str(_setting(path, header, "hil.architecture", str))
    if (
        hf_architecture not in FAMILIES
        or FAMILIES[hf_architecture].arch != architecture
        or header.values.get("general.type") != "model"
    ):
        raise _foreign(
            path, f"it is a {header.values.get('general.type')} of architecture '{architecture}'"
        )
    numbers = {
        key: int(_setting(path, header, f"{architecture}.{key}", int))
        for key in (
            "block_count",
            "attention.head_count",
            "attention.head_count_kv",
            "context_length",
            "vocab_size",
        )
    }
    return GgufModel(
        spec=BaseSpec(
            identity=identity,
            module_shapes=_module_shapes(path, header, hf_architecture, numbers["block_count"]),
        ),
        hf_architecture=hf_architecture,
        architecture=architecture,
        n_heads=numbers["attention.head_count"],
        n_kv_heads=numbers["attention.head_count_kv"],
        vocab_size=numbers["vocab_size"],
        context_length=numbers["context_length"],
        normalizer=str(header.values.get("hil.normalizer", "")),
        types=_types(header),
    )


def _foreign(path: Path, what: str) -> ModelError:
    return ModelError(
        f"'{path}' is not a base model of this kit: {what}; make it from a model folder"
    )


def _setting(path: Path, header: GgufHeader, key: str, kind: type[str] | type[int]) -> str | int:
    value = header.values.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _foreign(path, f"its metadata has {key} = {value!r}")
    return value


def _module_shapes(
    path: Path, header: GgufHeader, architecture: str, n_layers: int
) -> dict[str, tuple[int, int]]:
    family = FAMILIES[architecture]
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(n_layers):
        for projection in family.projections:
            module = f"model.layers.{layer}.{projection}"
            name = tensor_name(module, family.arch)
            tensor = header.tensors.get(name)
            if tensor is None or len(tensor.shape) != 2:
                raise _foreign(path, f"it has no matrix '{name}'")
            shapes[module] = (tensor.shape[0], tensor.shape[1])
    return shapes


def _types(header: GgufHeader) -> TypesReport:
    counts: dict[str, int] = {}
    n_bytes: dict[str, int] = {}
    for tensor in header.tensors.values():
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
        n_bytes[tensor.type] = n_bytes.get(tensor.type, 0) + tensor.n_bytes
    return TypesReport(tensors=counts, n_bytes=n_bytes, file_bytes=header.file_bytes)
