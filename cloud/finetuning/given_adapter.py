"""An adapter that was trained elsewhere, as singular directions, and a run that starts from it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from cloud.finetuning.directions import Directions
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.peft_methods import ADAPTER, begin_low_rank
from cloud.model.base_model import BaseModel
from hil.contract import ConfigError
from hil.model_folder.peft_adapter import read_adapter

_NEGLIGIBLE: Final = 1e-6
"""Directions below this share of a module's largest are rounding errors."""


def adapter_directions(folder: Path, base: BaseModel) -> dict[str, Directions]:
    """Singular directions of each module that an adapter of PEFT changes.

    Raises:
        ModelError: no adapter that can be used, see hil.model_folder.read_adapter.
        ConfigError: one that changes nothing.
    """
    found: dict[str, Directions] = {}
    for module, factors in read_adapter(folder, base.spec, base.names).items():
        d = Directions.of(factors)
        kept = int(np.sum(d.s > _NEGLIGIBLE * d.s[0]))
        if kept:
            found[module] = Directions(d.u[:, :kept], d.s[:kept], d.vt[:kept])
    if not found:
        raise ConfigError(f"adapter '{folder}' changes nothing: it was saved before it was trained")
    return found


def start_from(tuner: FineTuner, folder: Path) -> None:
    """Let a training that has not begun start from an adapter; it changes nothing else.

    Directions of r_max that the adapter leaves free start as LoRA's always do.

    Raises:
        ModelError: no adapter that can be used.
        ConfigError: a method other than LoRA, a module that is not trained, or a rank above r_max.
    """
    if tuner.method != "lora":
        raise ConfigError(
            f"finetune.start_from: method {tuner.method} chooses its own ranks; start without it, "
            "or choose a policy that trains with LoRA"
        )
    layers = tuner.model.layers
    for module, d in adapter_directions(folder, tuner.model.base).items():
        if module not in layers:
            projection = module.rpartition(".")[2]
            raise ConfigError(
                f"finetune.start_from: adapter '{folder}' changes '{module}', which is not "
                f"trained; add '{projection}' to model.target_modules"
            )
        if d.rank > (r_max := len(layers[module].lora_A[ADAPTER].weight)):
            raise ConfigError(
                f"finetune.start_from: adapter '{folder}' has rank {d.rank} at '{module}', "
                f"model.r_max is {r_max}; raise it"
            )
        begin_low_rank(layers[module], d.cut(d.rank))
