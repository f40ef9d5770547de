"""The families of models that the edge serves, and each rule in which they differ, in one table.

Whatever knows one family from another looks here: the reader of config.json, the conversion to
GGUF, and the adapter that is written for llama.cpp. Names are those of Hugging Face's
implementations; llama.cpp's side is its loader's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

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

_FUSED: Final = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
_QKV: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_MLP: Final = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_PRE_NORMS: Final = ("input_layernorm", "post_attention_layernorm")
_POST_NORMS: Final = ("post_attention_layernorm", "post_feedforward_layernorm")
_HEAD_NORMS: Final = ("self_attn.q_norm", "self_attn.k_norm")
_FLAGGED_BIASES: Final = {
    **dict.fromkeys((*_QKV, "self_attn.o_proj"), "attention_bias"),
    **dict.fromkeys(_MLP, "mlp_bias"),
}
_NO_BIASES: Final = {"attention_bias": False, "mlp_bias": False}

ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn")
"""Scalings of rotary frequencies that llama.cpp computes as Hugging Face does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of one architecture differ from those of another.

    Attributes:
        arch: llama.cpp's name of the architecture.
        projections: modules of a layer that may be adapted, in canonical order. Fused ones
            (qkv_proj, gate_up_proj) hold the rows of several in that order.
        norms: normalisations of a layer.
        biases: module → the flag of config.json that gives it a bias; "" = it always has one.
        rotates_neighbours: llama.cpp rotates neighbouring rows of a head against each other, so
            rows of queries and keys change places.
        norm_offset: what the model adds to the weight of a normalisation.
        layer_norms: normalisations subtract the mean and have a bias; else they are RMS norms.
        fixed: setting of config.json → its only value that llama.cpp computes, which is also what
            a missing setting means.
        scales: key of GGUF, without the architecture → setting of config.json that it copies.
        rope_types: scalings of rotary frequencies that are served.
        tied: the output layer is the token embedding where config.json does not say.
        head_dim: width of a head where config.json does not say; 0 = hidden size / heads.
        window: what becomes of attention in a sliding window. "flag": only where
            use_sliding_window is set, and then refused; "cap": llama.cpp attends to everything, so
            texts end where the window does; "layers": llama.cpp has it, in all layers but every
            N-th.
    """

    arch: str
    projections: tuple[str, ...] = PROJECTIONS
    norms: tuple[str, ...] = _PRE_NORMS
    biases: Mapping[str, str] = field(default_factory=dict)
    rotates_neighbours: bool = False
    norm_offset: float = 0.0
    layer_norms: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict)
    scales: Mapping[str, str] = field(default_factory=dict)
    rope_types: tuple[str, ...] = ROPE_TYPES
    tied: bool = False
    head_dim: int = 0
    window: str = "flag"


_LLAMA: Final = Family(
    arch="llama",
    biases=_FLAGGED_BIASES,
    rotates_neighbours=True,
    fixed={"hidden_act": "silu"},
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "LlamaForCausalLM": _LLAMA,
        "MistralForCausalLM": Family(
            arch="llama",
            rotates_neighbours=True,
            fixed={"hidden_act": "silu", **_NO_BIASES},
            window="cap",
        ),
        "Qwen2ForCausalLM": Family(
            arch="qwen2",
            biases=dict.fromkeys(_QKV, ""),
            fixed={"hidden_act": "silu", "mlp_bias": False},
        ),
        "Qwen3ForCausalLM": Family(
            arch="qwen3",
            norms=(*_PRE_NORMS, *_HEAD_NORMS),
            fixed={"hidden_act": "silu", **_NO_BIASES},
            head_dim=128,
        ),
        "Gemma3ForCausalLM": Family(
            arch="gemma3",
            norms=(
                *(*_PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
                *_HEAD_NORMS,
            ),
            norm_offset=1.0,
            fixed={
                "hidden_activation": "gelu_pytorch_tanh",
                "final_logit_softcapping": None,
                "attn_logit_softcapping": None,
                "use_bidirectional_attention": False,
                **_NO_BIASES,
            },
            rope_types=("default", "linear"),
            tied=True,
            head_dim=256,
            window="layers",
        ),
        "Phi3ForCausalLM": Family(
            arch="phi3",
            projections=_FUSED,
            fixed={"hidden_act": "silu", **_NO_BIASES},
            rope_types=("default", "longrope"),
            window="cap",
        ),
        "SmolLM3ForCausalLM": Family(
            arch="smollm3",
            rotates_neighbours=True,
            fixed={"hidden_act": "silu", **_NO_BIASES},
            tied=True,
        ),
        "Olmo2ForCausalLM": Family(
            arch="olmo2",
            norms=(*_POST_NORMS, *_HEAD_NORMS),
            fixed={"hidden_act": "silu", **_NO_BIASES},
        ),
        "StableLmForCausalLM": Family(
            arch="stablelm",
            biases=dict.fromkeys(_QKV, "use_qkv_bias"),
            layer_norms=True,
            fixed={"hidden_act": "silu", "qk_layernorm": False, "use_parallel_residual": False},
        ),
        "GraniteForCausalLM": Family(
            arch="granite",
            biases=_FLAGGED_BIASES,
            rotates_neighbours=True,
            fixed={"hidden_act": "silu"},
            scales={
                "embedding_scale": "embedding_multiplier",
                "residual_scale": "residual_multiplier",
                "attention.scale": "attention_multiplier",
                "logit_scale": "logits_scaling",
            },
        ),
    }
)
"""Architecture of config.json → its family. Every entry is held against transformers in tests."""

SUPPORTED_ARCHITECTURES: Final = tuple(FAMILIES)
"""Architectures whose conversion for the edge is tested."""
