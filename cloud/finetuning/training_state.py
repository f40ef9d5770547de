"""A run's fine-tuning on disk: LoRA, optimiser and step count, to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.peft_methods import ADAPTER, PREFIX
from hil.contract import ModelError


def save_state(tuner: FineTuner, path: Path, extra: Mapping[str, str]) -> None:
    """Write LoRA, optimiser and step count; training goes on from it bit for bit (on a CPU).

    Args:
        tuner: between two rounds.
        path: a .safetensors file.
        extra: further text to keep beside it.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in tuner.model.parameters.items():
        tensors[f"value/{name}"] = parameter.detach().clone()
        for key, value in tuner.optimiser.state[parameter].items():
            tensors[f"{key}/{name}"] = value.clone()
    own = {
        "identity": tuner.model.base.spec.identity,
        "method": tuner.method,
        "steps_done": str(tuner.steps_done),
    }
    save_file(tensors, path, metadata={**own, **extra})


def load_state(tuner: FineTuner, path: Path) -> dict[str, str]:
    """Continue from a saved state and return its extra text.

    Args:
        tuner: new, of the same base model, method and modules.
        path: a file of save_state.
    Raises:
        ModelError: no such file, or one of another base model, method, rank or set of modules.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"fine-tuning state {path}: {error}; start without finetune.resume_from"
        ) from error
    same = (
        metadata.get("identity") == tuner.model.base.spec.identity
        and metadata.get("method") == tuner.method
    )
    if same and tuner.chooser.restore(_first_factors(tensors, tuner.module_shapes)):
        tuner.set_up_optimiser()
    parameters = tuner.model.parameters
    shapes = {f"value/{name}": p.shape for name, p in parameters.items()}
    saved = {key: value.shape for key, value in tensors.items() if key.startswith("value/")}
    if not same or shapes != saved:
        raise ModelError(
            f"fine-tuning state {path}: made for another base model, method, r_max or "
            "target_modules"
        )
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors.pop(f"value/{name}"))
    for key, tensor in tensors.items():
        field, _, name = key.partition("/")
        state = tuner.optimiser.state[parameters[name]]
        state[field] = tensor if field == "step" else tensor.to(parameters[name].device)
    tuner.steps_done = int(metadata["steps_done"])
    return metadata


def _first_factors(
    tensors: Mapping[str, torch.Tensor], modules: Mapping[str, object]
) -> dict[str, torch.Tensor]:
    """Module → LoRA's A [r, d_in], of those that have one in the file."""
    opening, end = f"value/{PREFIX}", f".lora_A.{ADAPTER}.weight"
    a = {
        key[len(opening) : -len(end)]: value for key, value in tensors.items() if key.endswith(end)
    }
    return {name: value for name, value in a.items() if name in modules}
