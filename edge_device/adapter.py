"""LoraUpdate → the adapter file that llama.cpp takes, or a folder that PEFT loads.

No file comes off the air: the edge decodes its own payload, checks it (edge_device.acceptance) and
writes the file itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from edge_device.acceptance import UpdateRefused
from edge_device.gguf_model import GgufModel, rows_for_rope, tensor_name
from hil.contract import LoraUpdate, LowRankFactors
from hil.system.whole_file import written_whole


def write_adapter(update: LoraUpdate, model: GgufModel, path: Path) -> bool:
    """Writes an update that `validate` has passed as a GGUF adapter, whole or not at all, flushed
    to disk.

    Factors are f32, exact as decoded. Against f16 (hidden 768, rank 64 everywhere, Q4_K_M base, one
    thread) that makes a text of 210 tokens faster (173 : 234 ms: no conversion of activations), a
    single token slower (2.5 : 2.1 ms) and the file twice as large; scoring is long texts.
    `adapter.lora.alpha` is 0, which means a scale of 1 whatever the rank of each module, so ranks
    may differ; modules without factors are left out.

    Returns:
        True; or False when the update has no factors at all: nothing is written, the bare base
        model is the one to serve (llama.cpp can't do with an adapter of no tensors).
    Raises:
        UpdateRefused: the update still keeps modules of another one; put their factors in first.
    """
    if update.kept:
        raise UpdateRefused(
            f"{len(update.kept)} kept modules have no factors yet; take them from the update held"
        )
    if not update.factors:
        return False
    with written_whole(path) as temporary:
        writer = GGUFWriter(temporary, model.architecture)
        try:
            writer.add_type("adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", 0.0)
            writer.add_string("hil.base_identity", update.base_identity)
            for module in (name for name in model.spec.module_shapes if name in update.factors):
                _add_factors(writer, module, update.factors[module], model)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return True


def _add_factors(
    writer: GGUFWriter, module: str, factors: LowRankFactors, model: GgufModel
) -> None:
    b = rows_for_rope(
        factors.b,
        module,
        architecture=model.architecture,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
    )
    name = tensor_name(module, model.architecture)
    for suffix, values in (("lora_a", factors.a), ("lora_b", b)):
        writer.add_tensor(f"{name}.{suffix}", np.ascontiguousarray(values, dtype=np.float32))


# ----------------------------------------------------------------------------------- PEFT export


def to_peft(update: LoraUpdate, folder: Path, *, base_name: str) -> None:
    """Writes an update as a folder that peft's `PeftModel.from_pretrained` loads.

    Every module has its own rank and an alpha equal to it, so that PEFT's scaling alpha / r is 1.

    Args:
        folder: made if it does not exist.
        base_name: name or path of the base model, as PEFT notes it.
    Raises:
        UpdateRefused: nothing to export, or kept modules whose factors are elsewhere.
    """
    if update.kept or not update.factors:
        raise UpdateRefused(
            "an update without factors of its own can't be exported; export the one that has them"
        )
    ranks = {module: factors.rank for module, factors in update.factors.items()}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ranks),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }
    weights: dict[str, NDArray[np.float32]] = {}
    for module, factors in update.factors.items():
        weights[f"base_model.model.{module}.lora_A.weight"] = factors.a
        weights[f"base_model.model.{module}.lora_B.weight"] = factors.b
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "adapter_model.safetensors") as temporary:
        temporary.write_bytes(_safetensors(weights))
    with written_whole(folder / "adapter_config.json") as temporary:
        temporary.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _safetensors(weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Float32 tensors as the bytes of a safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in weights.items():
        raw = values.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # data begins aligned, as the format asks
    return len(text).to_bytes(8, "little") + text + bytes(data)
