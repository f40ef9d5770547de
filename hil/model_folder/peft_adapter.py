"""A LoRA adapter as PEFT saves it, read with numpy alone: every module's update, or one line that
says why the edge cannot take it.

Sources: Hu et al., LoRA, ICLR 2022 (scale alpha / r); Kalajdzievski, rsLoRA, 2023 (alpha / √r);
PEFT's LoraConfig, whose settings are named here.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from hil.contract import BaseSpec, LowRankFactors, ModelError
from hil.model_folder.configuration import read_json
from hil.model_folder.weights import Stored, load, read_header

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

_PREFIX: Final = "base_model.model."
_PARTS: Final = ("lora_A", "lora_B")
_KEEPING_THE_BASE: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base model's weights as they are."""
_REFUSED: Final = {
    "use_dora": "is a DoRA, whose magnitudes are no low-rank update: train it with use_dora=False",
    "modules_to_save": "brings whole modules of its own (modules_to_save), which are no low-rank "
    "update: train it without them",
    "lora_bias": "has biases (lora_bias): train it with lora_bias=False",
    "trainable_token_indices": "changes token embeddings (trainable_token_indices): train it "
    "without them",
    "target_parameters": "adapts bare parameters (target_parameters): use target_modules",
    "layer_replication": "repeats layers (layer_replication): train it without that",
    "alora_invocation_tokens": "works from some tokens on only (aLoRA): train a plain LoRA",
    "fan_in_fan_out": "is for transposed weights (fan_in_fan_out): train it on a model that the "
    "edge serves",
    "use_qalora": "is a QALoRA: train a plain LoRA",
    "use_bdlora": "is a BDLoRA: train a plain LoRA",
    "monteclora_config": "is a MonteCLoRA: train a plain LoRA",
    "velora_config": "is a VeLoRA: train a plain LoRA",
    "arrow_config": "routes between adapters (Arrow): export one of them",
    "kasa_config": "is a KaSA: train a plain LoRA",
}
"""Setting of adapter_config.json → what an adapter with it is, and the way out."""
_MOST: Final = {"*": 1, "+": 2, "?": 3, "(": 3, "|": 20, "{": 0}
"""How often a sign may stand in a pattern, so that it matches in a moment whatever it says."""
_LONGEST: Final = 200


def read_adapter(
    folder: Path, base: BaseSpec, base_names: Sequence[str]
) -> dict[str, LowRankFactors]:
    """The update of each adapted module, every scale in b, in the base model's order.

    Args:
        folder: adapter_config.json and adapter_model.safetensors.
        base: the model that it is for.
        base_names: names that this model has; the first is shown.
    Raises:
        ModelError: a folder that holds no LoRA adapter, a damaged one, one for another model, or
            one that is no low-rank update of projections alone.
    """
    try:
        settings = _settings(folder, base_names)
        stored = _stored(folder)
        pairs = _pairs(folder, stored, base)
        return {
            module: _factors(folder, module, pairs[module], settings, base.module_shapes[module])
            for module in base.module_shapes
            if module in pairs
        }
    except OSError as error:
        raise ModelError(
            f"adapter '{folder}': {error.strerror or error}: name a folder that can be read"
        ) from error


def _settings(folder: Path, base_names: Sequence[str]) -> dict[str, Any]:
    settings = read_json(folder, CONFIG)
    if (kind := settings.get("peft_type")) != "LORA":
        raise _refusal(folder, f"is of PEFT's type {kind!r}, not a LoRA: train one with LoraConfig")
    for name, why in _REFUSED.items():
        if settings.get(name):
            raise _refusal(folder, why)
    if (bias := settings.get("bias", "none")) != "none":
        raise _refusal(folder, f"trains biases (bias = {bias!r}): train it with bias='none'")
    init = settings.get("init_lora_weights")
    if not isinstance(init, bool | str | None) or init not in _KEEPING_THE_BASE:
        raise _refusal(
            folder,
            f"began with init_lora_weights = {init!r}, which changes the base model's weights: "
            "save it with path_initial_model_for_weight_conversion",
        )
    given = settings.get("base_model_name_or_path")
    if isinstance(given, str) and given and _last(given) not in map(_last, base_names):
        raise _refusal(
            folder,
            f"is for the base model '{given}', not for '{base_names[0]}': set model.base to it "
            f"(or, if both are the same model, write the name into {CONFIG})",
        )
    for name in ("rank_pattern", "alpha_pattern"):
        _check_patterns(folder, name, settings.get(name) or {})
    return settings


def _last(name: str) -> str:
    """A model's name without the folders and owners before it."""
    return name.rstrip("/").rpartition("/")[2].lower()


def _check_patterns(folder: Path, name: str, patterns: object) -> None:
    if not isinstance(patterns, dict):
        raise _refusal(folder, f"has {name} = {patterns!r}, no table: save it again with PEFT")
    for pattern in patterns:
        many = any(pattern.count(sign) > most for sign, most in _MOST.items())
        try:
            _compiled(pattern)
        except (re.error, OverflowError, RecursionError):
            many = True
        if many or len(pattern) > _LONGEST or re.search(r"\)[*+?]", pattern):
            raise _refusal(
                folder,
                f"has the pattern {pattern[:80]!r} in {name}, which is too involved: name modules",
            )


def _compiled(pattern: str) -> re.Pattern[str]:
    """The expression that PEFT makes of a pattern: it fits a module's name or its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(rf"(.*\.)?({pattern})$")


def _stored(folder: Path) -> dict[str, Stored]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise _refusal(
            folder, f"lacks {WEIGHTS}: save it with save_pretrained (safe_serialization=True)"
        )
    return read_header(path)


def _pairs(
    folder: Path, stored: Mapping[str, Stored], base: BaseSpec
) -> dict[str, dict[str, tuple[str, Stored]]]:
    """Module → part ("lora_A", "lora_B") → name and place of its tensor."""
    found: dict[str, dict[str, tuple[str, Stored]]] = {}
    for name, place in stored.items():
        module, _, rest = name.removeprefix(_PREFIX).rpartition(".lora_")
        part = f"lora_{rest}".removesuffix(".weight")
        if "embedding" in part or {"lm_head", "embed_tokens"}.intersection(name.split(".")):
            raise _refusal(
                folder,
                f"adapts the embedding or the output layer ('{name}'), which llama.cpp does not "
                "take: train it on projections alone",
            )
        if not name.startswith(_PREFIX) or part not in _PARTS or not rest.endswith(".weight"):
            raise _refusal(folder, f"has a tensor '{name[:120]}' that is no factor of a LoRA")
        if module not in base.module_shapes:
            has = ", ".join(dict.fromkeys(m.rpartition(".")[2] for m in base.module_shapes))
            raise _refusal(
                folder,
                f"adapts '{module[:120]}', which is no projection of this base model: train it on "
                f"{has}, or set model.base to the model that it is for",
            )
        found.setdefault(module, {})[part] = (name, place)
    if not found:
        raise _refusal(folder, "holds no factors: save it again with save_pretrained")
    for module, parts in found.items():
        if missing := set(_PARTS) - set(parts):
            raise _refusal(folder, f"lacks {missing.pop()} of '{module}': copy the folder again")
    return found


def _factors(
    folder: Path,
    module: str,
    parts: Mapping[str, tuple[str, Stored]],
    settings: Mapping[str, Any],
    shape: tuple[int, int],
) -> LowRankFactors:
    shapes = [parts[part][1].shape for part in _PARTS]
    rank = shapes[0][0] if shapes[0] else 0
    if rank < 1 or shapes != [(rank, shape[1]), (shape[0], rank)]:
        raise _refusal(
            folder,
            f"has factors {list(shapes[0])} and {list(shapes[1])} for '{module}', this base "
            f"model's is {list(shape)}: set model.base to the model that it is for",
        )
    declared = _by_pattern(settings.get("rank_pattern") or {}, module, settings.get("r"))
    if declared != rank:
        raise _refusal(
            folder,
            f"has rank {rank} at '{module}', {CONFIG} says {declared!r}: copy the folder again",
        )
    alpha = _by_pattern(settings.get("alpha_pattern") or {}, module, settings.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= 1e6:
        raise _refusal(folder, f"has alpha = {alpha!r} at '{module}', no number up to 1e6")
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    a, b = (load(*parts[part]) for part in _PARTS)
    for part, values in zip(_PARTS, (a, b), strict=True):
        if not np.isfinite(values).all():
            raise _refusal(
                folder,
                f"holds NaN or infinity in {part} of '{module}': the training that made it has "
                "diverged",
            )
    with np.errstate(over="ignore"):
        b = b * np.float32(scale)
    if not np.isfinite(b).all():
        raise _refusal(folder, f"is beyond float32 at '{module}' with its scale of {scale:g}")
    return LowRankFactors(a=a, b=b)


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that fits a module's name or its end, as PEFT chooses it."""
    for pattern, value in patterns.items():
        if _compiled(pattern).match(module):
            return value
    return otherwise


def _refusal(folder: Path, what: str) -> ModelError:
    return ModelError(f"adapter '{folder}' {what}")
