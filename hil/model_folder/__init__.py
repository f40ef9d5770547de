"""A Hugging Face model folder, read with numpy alone: configuration, tensors, identity.

Both halves name the base model by the same hash, so the edge can turn down an update made for
another one. Neither torch nor transformers is imported.
"""

from hil.model_folder.configuration import (
    CLOUD_ONLY_ARCHITECTURE,
    OPT_PROJECTIONS,
    Computation,
    OptComputation,
    computation,
    config,
    expected_module_shapes,
    is_cloud_only,
    longest_text,
    opt_computation,
    read_json,
)
from hil.model_folder.families import FAMILIES, PROJECTIONS, SUPPORTED_ARCHITECTURES, Family
from hil.model_folder.identity import base_spec, identity, module_shapes, tokenizer_bytes
from hil.model_folder.weights import canonical_f16, shapes, tensors

__all__ = [
    "CLOUD_ONLY_ARCHITECTURE",
    "FAMILIES",
    "OPT_PROJECTIONS",
    "PROJECTIONS",
    "SUPPORTED_ARCHITECTURES",
    "Computation",
    "Family",
    "OptComputation",
    "base_spec",
    "canonical_f16",
    "computation",
    "config",
    "expected_module_shapes",
    "identity",
    "is_cloud_only",
    "longest_text",
    "module_shapes",
    "opt_computation",
    "read_json",
    "shapes",
    "tensors",
    "tokenizer_bytes",
]
