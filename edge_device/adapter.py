"""LoraUpdate → the adapter file that llama.cpp takes, after every check that llama.cpp does not
make itself.

llama.cpp loads an adapter with NaN without a word and ends the process for some that are malformed;
so no file comes off the air: the edge decodes its own payload, validates it here and writes the
file itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from edge_device.gguf_model import GgufModel, rows_for_rope, tensor_name
from hil.contract import HilError, LoraUpdate, LowRankFactors
from hil.system.whole_file import written_whole

R_CAP: Final = 64
"""Largest rank that an edge takes unless told otherwise."""

MAX_FROBENIUS: Final = 1e3
"""Largest Frobenius norm of one module's ΔW that an edge takes unless told otherwise; a weight
matrix itself has one of about √d (32 at d = 1,024)."""

MAX_FACTOR: Final = 1e4
"""Largest magnitude of a factor's element: far from overflow in float32 products, and in f16."""


class UpdateRefused(HilError):  # noqa: N818 - the project's word for it, beside the receipt's status "refused"
    """An update that must not be installed, and why, in one line."""


def validate(
    update: LoraUpdate,
    model: GgufModel,
    *,
    r_cap: int = R_CAP,
    max_frobenius: float = MAX_FROBENIUS,
) -> None:
    """Returns if the update may be written for this model.

    Checked: it was made for this base model; each module is one of the model's projections; ranks
    are 1..r_cap; shapes fit; every value is finite, |value| ≤ MAX_FACTOR, and ‖ΔW‖ (Frobenius) ≤
    max_frobenius.

    Args:
        model: what the base GGUF says of itself; its projections are the list of what may be
            adapted.
    Raises:
        UpdateRefused: with the module, the value and the limit.
    """
    spec = model.spec
    if update.base_identity != spec.identity:
        raise UpdateRefused(
            f"the update is for base model {update.base_identity[:12]}…, this edge holds "
            f"{spec.identity[:12]}…: "
            "provision the edge again or choose the same base"
        )
    if bool(update.kept) != (update.kept_from is not None):
        raise UpdateRefused(
            "the update keeps modules and does not say of which update, or the other way round"
        )
    both = sorted(update.kept & update.factors.keys())
    if both:
        raise UpdateRefused(f"module '{both[0]}' is both sent and kept")
    for module in sorted(update.kept | update.factors.keys()):
        if module not in spec.module_shapes:
            raise UpdateRefused(f"module '{module[:80]}' is not a projection of this base model")
    for module, factors in update.factors.items():
        _validate_factors(module, factors, spec.module_shapes[module], r_cap, max_frobenius)


def _validate_factors(
    module: str, factors: LowRankFactors, shape: tuple[int, int], r_cap: int, max_frobenius: float
) -> None:
    a, b = factors.a, factors.b
    if a.dtype != np.float32 or b.dtype != np.float32 or a.ndim != 2 or b.ndim != 2:
        raise UpdateRefused(
            f"module '{module}': factors are {a.dtype}{a.shape} and {b.dtype}{b.shape}, not "
            "float32 2-d"
        )
    rank, (d_out, d_in) = a.shape[0], shape
    if not 1 <= rank <= r_cap:
        raise UpdateRefused(f"module '{module}': rank {rank} is outside 1..{r_cap}")
    if a.shape != (rank, d_in) or b.shape != (d_out, rank):
        raise UpdateRefused(
            f"module '{module}': factors are {list(b.shape)} and {list(a.shape)}, should be "
            f"{[d_out, rank]} and "
            f"{[rank, d_in]}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UpdateRefused(f"module '{module}': NaN or infinity among its values")
    largest = float(max(np.abs(a).max(), np.abs(b).max()))
    if largest > MAX_FACTOR:
        raise UpdateRefused(
            f"module '{module}': a value of {largest:.3g} is beyond ±{MAX_FACTOR:g}"
        )
    norm = frobenius_norm(factors)
    if norm > max_frobenius:
        raise UpdateRefused(
            f"module '{module}': its update has norm {norm:.3g}, the limit is {max_frobenius:g}"
        )


def frobenius_norm(factors: LowRankFactors) -> float:
    """‖b @ a‖ (Frobenius) from the r × r Gram matrices: tr(bᵀb · aaᵀ) is its square."""
    a, b = factors.a.astype(np.float64), factors.b.astype(np.float64)
    return float(np.sqrt(max(0.0, np.sum((b.T @ b) * (a @ a.T)))))


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
    for suffix, values in (("lora_a", factors.a), ("lora_b", b)):
        writer.add_tensor(
            f"{tensor_name(module)}.{suffix}", np.ascontiguousarray(values, dtype=np.float32)
        )


# ------------------------------------------------------------------------------------------- PEFT
# export


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
