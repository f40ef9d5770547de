"""Rotary frequencies and attention windows of a model, read from config.json.

Sources: Peng et al., YaRN, ICLR 2024 (yarn); Ding et al., LongRoPE, ICML 2024 (longrope); the
settings' names are those of transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hil.contract import ModelError
from hil.model_folder.families import Family

Setting = bool | int | float | str | tuple[float, ...]

_YARN_DEFAULTS: Final = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": None,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
}


def rope_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings of the layers that attend to everything, from either place where versions of
    transformers keep them."""
    parameters = raw.get("rope_parameters")
    if isinstance(parameters, dict):
        return dict(parameters.get("full_attention", parameters))
    scaling = dict(raw.get("rope_scaling") or {})
    top = ("rope_theta", "partial_rotary_factor")
    return scaling | {name: raw[name] for name in top if raw.get(name) is not None}


def rope_type(rope: Mapping[str, Any]) -> str:
    """Kind of scaling; "default" for none."""
    return str(rope.get("rope_type", rope.get("type", "default")))


def rope_settings(raw: Mapping[str, Any], family: Family, head_dim: int) -> dict[str, Setting]:
    """What decides rotary frequencies beside their base: key of GGUF without the architecture →
    value.

    Under "llama3" and "longrope" stand the numbers from which the conversion makes a tensor of
    factors.

    Args:
        raw: config.json.
        family: the architecture's entry.
        head_dim: width of a head.
    Raises:
        ModelError: a scaling that llama.cpp does not compute as Hugging Face does.
    """
    rope = rope_of(raw)
    kind, found = rope_type(rope), dict[str, Setting]()
    if kind not in family.rope_types:
        raise _refusal("rope_type", kind, " or ".join(family.rope_types))
    share = float(rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)))
    if share != 1.0:
        if family.arch not in ("stablelm", "phi3"):
            raise _refusal("partial_rotary_factor", share, "1.0")
        found["rope.dimension_count"] = int(head_dim * share)
    match kind:
        case "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        case "yarn":
            found |= _yarn(raw, rope)
        case "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor")
            original = float(rope["original_max_position_embeddings"])
            found["llama3"] = (*(float(rope[name]) for name in names), original)
        case "longrope":
            found |= _longrope(raw, rope)
    return found


def _yarn(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Setting]:
    for name, served in _YARN_DEFAULTS.items():
        if rope.get(name, served) != served and rope.get(name) is not None:
            raise _refusal(f"{name} (of yarn)", rope[name], repr(served))
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(rope["factor"]),
        "rope.scaling.original_context_length": _original_length(raw, rope),
    }


def _longrope(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Setting]:
    """The short factors, which hold up to the original length; texts on the edge end there."""
    original = _original_length(raw, rope)
    ratio = float(rope.get("factor") or int(raw["max_position_embeddings"]) / original)
    given = rope.get("attention_factor")
    scale = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return {
        "rope.scaling.attn_factor": float(given) if given is not None else scale,
        "rope.scaling.original_context_length": original,
        "longrope": tuple(float(factor) for factor in rope["short_factor"]),
    }


def _original_length(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    return int(raw.get(name) or rope.get(name) or raw["max_position_embeddings"])


def window_settings(raw: Mapping[str, Any], family: Family) -> dict[str, Setting]:
    """What decides how far a layer attends, as keys of GGUF without the architecture.

    Under "window" stands one that llama.cpp does not have: texts on the edge end there.

    Raises:
        ModelError: windows that llama.cpp does not compute as Hugging Face does.
    """
    if family.arch == "smollm3":
        _check_every_fourth(raw)
    if family.window == "flag" and raw.get("use_sliding_window"):
        raise _refusal("use_sliding_window", True, "False")
    if family.window == "cap" and raw.get("sliding_window"):
        return {"window": int(raw["sliding_window"])}
    if family.window != "layers":
        return {}
    period = _period(raw)
    parameters = raw.get("rope_parameters") or {}
    local = parameters.get("sliding_attention") or {
        "rope_theta": raw.get("rope_local_base_freq", 10_000.0)
    }
    if rope_type(local) != "default":
        raise _refusal("rope_type (of sliding layers)", rope_type(local), "default")
    return {
        "attention.sliding_window": int(raw["sliding_window"]),
        "attention.sliding_window_pattern": period,
        "rope.freq_base_swa": float(local.get("rope_theta", 10_000.0)),
    }


def longest_served(raw: Mapping[str, Any], family: Family) -> int:
    """Length in tokens up to which llama.cpp computes what Hugging Face does.

    Raises:
        ModelError: config.json names no such length.
    """
    length = raw.get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        raise ModelError(
            f"config.json has max_position_embeddings = {length!r}; it must be at least 1"
        )
    rope = rope_of(raw)
    if rope_type(rope) == "longrope":
        length = min(length, _original_length(raw, rope))
    if family.window == "cap" and raw.get("sliding_window"):
        length = min(length, int(raw["sliding_window"]))
    return length


def _period(raw: Mapping[str, Any]) -> int:
    """N where every N-th layer attends to everything and the others in a window."""
    kinds: Sequence[str] = raw.get("layer_types") or []
    if not kinds:
        return int(raw.get("sliding_window_pattern") or 6)
    period = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    wanted = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(10**3)]
    if list(kinds) != wanted[: len(kinds)]:
        raise _refusal("layer_types", list(kinds), "a full layer after every N sliding ones")
    return period


def _check_every_fourth(raw: Mapping[str, Any]) -> None:
    """llama.cpp leaves every fourth layer of SmolLM3 without rotation, whatever config.json
    says."""
    n_layers = int(raw["num_hidden_layers"])
    every_fourth = [int((i + 1) % 4 != 0) for i in range(n_layers)]
    given = raw.get("no_rope_layers") or every_fourth
    if list(given) != every_fourth:
        raise _refusal("no_rope_layers", list(given), "every fourth layer")


def _refusal(name: str, value: object, served: str) -> ModelError:
    return ModelError(
        f"the edge can't serve a model with {name} = {value!r}, only {served}: choose another base "
        "model"
    )
