"""Hugging Face model folder → GGUF for llama.cpp → quantised GGUF.

Conversion covers the families of hil.model_folder.families; everything else is refused by name.
Tensors are f16, but one-dimensional ones (norms, biases) f32.

Tensor and key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_VERSION
from numpy.typing import NDArray

from edge_device.gguf_model import TypesReport, inspect, rows_for_rope, tensor_name
from edge_device.gguf_tokenizer import read_tokenizer, write_tokenizer
from edge_device.quantise import FTYPES
from hil import model_folder
from hil.contract import ModelError
from hil.model_folder import Computation
from hil.system.whole_file import written_whole

QUANTISATIONS: Final = ("F16", *FTYPES)
"""Forms in which a base model can be served."""

_TENSORS_OF_FACTORS: Final = {
    "llama3": ("rope_freqs.weight",),
    "longrope": ("rope_factors_short.weight", "rope_factors_long.weight"),
}
"""Key of Computation.others → the tensors that hold its factors, one for each rotary frequency."""
_LOG_TAIL_BYTES: Final = 300


def convert(folder: Path | str, out_path: Path) -> None:
    """Writes the folder's model as an f16 GGUF, whole or not at all.

    Raises:
        ModelError: an architecture, setting or tokenizer that the edge can't serve, or a damaged
            folder.
    """
    folder = Path(folder)
    model = model_folder.computation(folder)
    tokenizer = read_tokenizer(folder, model.vocab_size)
    spec = model_folder.base_spec(folder)
    placed = _placed(folder, model)
    with written_whole(out_path) as temporary:
        writer = GGUFWriter(temporary, model.family.arch)
        try:
            _write_settings(writer, folder, model)
            write_tokenizer(writer, tokenizer)
            writer.add_string("hil.base_identity", spec.identity)
            writer.add_string("hil.architecture", model.architecture)
            writer.add_string("hil.normalizer", tokenizer.normalizer)
            _write_tensors(writer, folder, model, placed)
        finally:
            writer.close()


def _placed(folder: Path, model: Computation) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Hugging Face tensor name → GGUF name and shape; every tensor has a place and every place a
    tensor."""
    shapes = model_folder.shapes(folder)
    needed = _needed(folder, model)
    placed: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias") or (kind == "bias" and name not in needed):
            raise ModelError(
                f"the edge has no place for tensor '{name}': choose a model without it"
            )
        placed[name] = (tensor_name(module, model.family.arch, kind), shape)
    missing = sorted(needed - placed.keys())
    if missing:
        raise ModelError(
            f"'{folder}' lacks tensor '{missing[0]}' ({len(missing)} in all); copy the model "
            "folder again"
        )
    if shapes["model.embed_tokens.weight"] != (model.vocab_size, model.hidden_size):
        raise ModelError(
            f"'{folder}': the embedding is {list(shapes['model.embed_tokens.weight'])}, "
            "config.json says "
            f"{[model.vocab_size, model.hidden_size]}; save the model again with save_pretrained"
        )
    return placed


def _needed(folder: Path, model: Computation) -> set[str]:
    """Tensors that the model must have, beside the projections."""
    family, raw = model.family, model_folder.config(folder)
    needed = {"model.embed_tokens.weight"} | (
        set() if model.tied_embeddings else {"lm_head.weight"}
    )
    in_layer = [f"{norm}.weight" for norm in family.norms]
    in_layer += [f"{module}.bias" for module, flag in family.biases.items() if raw.get(flag, True)]
    norms = ["model.norm"]
    for layer in range(model.n_layers):
        needed |= {f"model.layers.{layer}.{name}" for name in in_layer}
        norms += [f"model.layers.{layer}.{name}" for name in family.norms]
    kinds = ("weight", "bias") if family.layer_norms else ("weight",)
    for kind in kinds:
        needed |= {f"{norm}.{kind}" for norm in norms}
    return needed


def _write_settings(writer: GGUFWriter, folder: Path, model: Computation) -> None:
    writer.add_type("model")
    writer.add_name(folder.resolve().name)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(model_folder.longest_text(folder))
    writer.add_embedding_length(model.hidden_size)
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_block_count(model.n_layers)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    if model.family.layer_norms:
        writer.add_layer_norm_eps(model.rms_norm_eps)
        writer.add_parallel_residual(False)
    else:
        writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_rope_freq_base(model.rope_theta)
    if "rope.dimension_count" not in model.others:
        writer.add_rope_dimension_count(model.head_dim)
    writer.add_vocab_size(model.vocab_size)
    for key, value in model.others.items():
        if key != "window" and key not in _TENSORS_OF_FACTORS:
            _add(writer, f"{model.family.arch}.{key}", value)


def _add(writer: GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)


def _write_tensors(
    writer: GGUFWriter,
    folder: Path,
    model: Computation,
    placed: Mapping[str, tuple[str, tuple[int, ...]]],
) -> None:
    factors = _rope_factors(model)
    for name, values in factors.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for name, shape in placed.values():
        dtype = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in factors.values():
        writer.write_tensor_data(values)
    for name, values in model_folder.tensors(folder):
        module, _, kind = name.rpartition(".")
        ordered = rows_for_rope(
            model_folder.canonical_f16(name, values),
            module,
            architecture=model.family.arch,
            n_heads=model.n_heads,
            n_kv_heads=model.n_kv_heads,
        )
        if values.ndim == 1:
            offset = model.family.norm_offset if kind == "weight" else 0.0
            ordered = ordered.astype(np.float32) + np.float32(offset)
        writer.write_tensor_data(ordered)


def _rope_factors(model: Computation) -> dict[str, NDArray[np.float32]]:
    """Tensors of the factors that rotary frequencies are divided by."""
    found: dict[str, NDArray[np.float32]] = {}
    for key, names in _TENSORS_OF_FACTORS.items():
        numbers = model.others.get(key)
        if isinstance(numbers, tuple):
            values = _llama3_factors(model, *numbers) if key == "llama3" else np.array(numbers)
            found |= dict.fromkeys(names, values.astype(np.float32))
    return found


def _llama3_factors(
    model: Computation, factor: float, low: float, high: float, original: float
) -> NDArray[np.float64]:
    """Long wavelengths are stretched by `factor`, short ones stay, those between are blended.

    Source: Llama 3.1; transformers' modeling_rope_utils (rope_type "llama3").
    """
    exponents = np.arange(0, model.head_dim, 2) / model.head_dim
    wavelengths = 2 * np.pi * model.rope_theta**exponents
    kept = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / factor + kept)


# -------------------------------------------------------------------------------------------
# quantisation


def quantise(
    f16_path: Path, out_path: Path, quant: str, *, timeout_s: float = 600.0, n_threads: int = 1
) -> TypesReport:
    """Writes a quantised copy of an f16 GGUF with llama.cpp's own quantiser, whole or not at all.

    It runs in a process of its own; metadata is carried over. "F16" copies.

    Args:
        quant: one of QUANTISATIONS.
    Returns:
        The tensor types that the new file really has: rows that are no multiple of 256 can't take a
        K-quant.
    Raises:
        ModelError: an unknown quantisation, a source that is no f16 model of ours, failure, or the
            deadline passed.
    """
    if quant not in QUANTISATIONS:
        raise ModelError(
            f"quantisation '{quant}' is not known; choose one of {', '.join(QUANTISATIONS)}"
        )
    inspect(f16_path)
    with written_whole(out_path) as temporary:
        if quant == "F16":
            shutil.copyfile(f16_path, temporary)
        else:
            _run_quantiser(f16_path, temporary, quant, timeout_s, n_threads)
    return inspect(out_path).types


def _run_quantiser(
    source: Path, target: Path, quant: str, timeout_s: float, n_threads: int
) -> None:
    command = [
        sys.executable,
        "-m",
        "edge_device.quantise",
        str(source),
        str(target),
        quant,
        str(n_threads),
    ]
    # The package is found wherever the parent found it; an abort of ggml must not start a debugger.
    parent_paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"GGML_NO_BACKTRACE": "1", "PYTHONPATH": parent_paths}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"quantising '{source}' to {quant} took over {timeout_s:g} s; allow it more time"
        ) from error
    if done.returncode != 0:
        log = done.stderr.decode(errors="replace")[-_LOG_TAIL_BYTES:].strip().replace("\n", " | ")
        raise ModelError(
            f"llama.cpp could not quantise '{source}' to {quant} (exit status {done.returncode}): "
            f"{log}"
        )
