"""A tiny random model for every family that the edge serves, and the ways to break its rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from edge_device import gguf_conversion
from hil import model_folder
from hil.model_folder import Computation, configuration
from tests.edge_device.tiny_models import make_model

PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 128,
}
_SHORT = [1.0 + 0.1 * i for i in range(8)]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 6.4,
    "short_factor": _SHORT,
    "long_factor": [4 * f for f in _SHORT],
    "original_max_position_embeddings": 640,
}


@dataclass(frozen=True)
class Case:
    """A model: architecture, settings beside those of all, and whether embeddings are tied."""

    architecture: str
    settings: dict[str, object] = field(default_factory=dict)
    tied: bool = False

    def make(self, folder: Path) -> Path:
        """The model's folder."""
        sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        ends = {"max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 1}
        settings = sizes | ends | {"pad_token_id": 0} | self.settings
        return make_model(
            folder, self.architecture, tied=self.tied, hidden=64, settings=settings, spread=0.3
        )


CASES = {
    "llama 2": Case("LlamaForCausalLM"),
    "llama 3.1": Case("LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    "llama 3.2": Case("LlamaForCausalLM", {"rope_parameters": LLAMA3}, tied=True),
    "llama, biased": Case("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": Case("LlamaForCausalLM", {"rope_parameters": LINEAR}),
    "smollm2": Case("LlamaForCausalLM", tied=True),
    "mistral": Case("MistralForCausalLM", {"sliding_window": None, "head_dim": 24}),
    "qwen2.5": Case("Qwen2ForCausalLM", {"rope_parameters": YARN}),
    "qwen3": Case("Qwen3ForCausalLM", {"head_dim": 32, "rope_parameters": YARN}, tied=True),
    "gemma 3": Case(
        "Gemma3ForCausalLM",
        {
            "num_hidden_layers": 6,
            "query_pre_attn_scalar": 16,
            "sliding_window": 64,
            "rope_parameters": {
                "full_attention": LINEAR | {"rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": PLAIN,
            },
        },
        tied=True,
    ),
    "phi-3": Case("Phi3ForCausalLM", {"sliding_window": None}),
    "phi-3, long": Case(
        "Phi3ForCausalLM",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 640,
            "rope_parameters": LONGROPE,
        },
    ),
    "phi-4-mini": Case(
        "Phi3ForCausalLM",
        {"sliding_window": None, "rope_parameters": PLAIN | {"partial_rotary_factor": 0.75}},
        tied=True,
    ),
    "smollm3": Case("SmolLM3ForCausalLM", {"num_hidden_layers": 5}, tied=True),
    "olmo 2": Case("Olmo2ForCausalLM"),
    "stablelm": Case("StableLmForCausalLM", {"use_qkv_bias": True}),
    "granite": Case(
        "GraniteForCausalLM",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.4,
            "logits_scaling": 0.8,
        },
    ),
}

Break = Callable[[pytest.MonkeyPatch], None]


def _row_order(change: Callable[[np.ndarray, str], np.ndarray]) -> Break:
    """Rows, biases and embeddings go through a function before they are written."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        right = gguf_conversion.rows_for_rope
        patch.setattr(
            gguf_conversion,
            "rows_for_rope",
            lambda values, module, **how: change(right(values, module, **how), module),
        )

    return break_it


def _unpermuted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gguf_conversion, "rows_for_rope", lambda values, module, **how: values)


def _other(key: str, value: object) -> Break:
    """A setting of GGUF has another value; None: is left out."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        right = model_folder.computation

        def wrong(folder: Path) -> Computation:
            model = right(folder)
            others = {k: v for k, v in model.others.items() if k != key}
            return replace(model, others=others if value is None else others | {key: value})

        patch.setattr(model_folder, "computation", wrong)

    return break_it


def _no_offset(patch: pytest.MonkeyPatch) -> None:
    table = dict(configuration.FAMILIES)
    table["Gemma3ForCausalLM"] = replace(table["Gemma3ForCausalLM"], norm_offset=0.0)
    patch.setattr(configuration, "FAMILIES", table)


def _no_bias(values: np.ndarray, module: str) -> np.ndarray:
    return np.zeros_like(values) if values.ndim == 1 and module.endswith("_proj") else values


def _halves_swapped(values: np.ndarray, module: str) -> np.ndarray:
    fused = module.endswith(("qkv_proj", "gate_up_proj"))
    return np.roll(values, len(values) // 2, axis=0) if fused else values


BREAKS: dict[str, tuple[str, Break]] = {
    "row order of llama": ("llama 2", _unpermuted),
    "row order of mistral": ("mistral", _unpermuted),
    "row order of smollm3": ("smollm3", _unpermuted),
    "row order of granite": ("granite", _unpermuted),
    "fused rows": ("phi-3", _row_order(_halves_swapped)),
    "biases of qwen2": ("qwen2.5", _row_order(_no_bias)),
    "biases of llama": ("llama, biased", _row_order(_no_bias)),
    "biases of stablelm": ("stablelm", _row_order(_no_bias)),
    "offset of norms": ("gemma 3", _no_offset),
    "window": ("gemma 3", _other("attention.sliding_window", 1024)),
    "layers with a window": ("gemma 3", _other("attention.sliding_window_pattern", 2)),
    "frequencies within a window": ("gemma 3", _other("rope.freq_base_swa", 1e6)),
    "llama3 scaling": ("llama 3.1", _other("llama3", None)),
    "linear scaling": ("llama, linear", _other("rope.scaling.factor", 1.0)),
    "yarn": ("qwen3", _other("rope.scaling.type", "linear")),
    "longrope": ("phi-3, long", _other("longrope", tuple(8 * [1.0]))),
    "attention factor": ("phi-3, long", _other("rope.scaling.attn_factor", 1.0)),
    "partial rotation": ("stablelm", _other("rope.dimension_count", 16)),
    "embedding scale": ("granite", _other("embedding_scale", 1.0)),
    "residual scale": ("granite", _other("residual_scale", 1.0)),
    "attention scale": ("granite", _other("attention.scale", 0.25)),
    "logit scale": ("granite", _other("logit_scale", 1.0)),
}
"""Rule → a model that it holds for, and how it is broken."""
