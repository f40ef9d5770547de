"""Weights of a learnt policy on disk: a safetensors file that says in its metadata what it is and
how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cloud.policies.rl.reproducible import Tensors
from hil.contract import ModelError


def write_weights(path: Path, kind: str, described: Mapping[str, Any], tensors: Tensors) -> None:
    """Write tensors with a description that JSON can hold.

    Args:
        path: a .safetensors file; its folder is made.
        kind: of the policy, as in hil.toml.
        described: sizes and settings.
        tensors: by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, path, metadata={"kind": kind, "settings": json.dumps(described, sort_keys=True)}
    )


def read_weights(path: Path, kind: str) -> tuple[dict[str, Any], Tensors]:
    """(description, tensors) of a file of write_weights.

    Raises:
        ModelError: no such file, a damaged one, or one of another kind.
    """
    cure = f"make one with `hil train {kind}`"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"policy weights {path}: {error}; {cure}") from error
    if metadata.get("kind") != kind or "settings" not in metadata:
        raise ModelError(
            f"policy weights {path}: of kind {metadata.get('kind')!r}, not {kind!r}; {cure}"
        )
    return json.loads(metadata["settings"]), tensors


def half_precision(networks: Mapping[str, nn.Module]) -> Tensors:
    """All tensors of the networks as float16, their names behind the network's and a dot."""
    return {
        f"{prefix}.{name}": tensor.detach().to(torch.float16).contiguous()
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
