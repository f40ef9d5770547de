"""What a learnt policy is made of and kept as: layers drawn from a seed, training state as named
tensors, and a safetensors file that says in its metadata what it is and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hil.contract import ModelError

Tensors = dict[str, torch.Tensor]
"""Flat and named, as a safetensors file holds them."""


def seeded_linear(
    inputs: int, outputs: int, generator: torch.Generator, *, gain: float | None = None
) -> nn.Linear:
    """A linear layer whose weights come from `generator` alone, bias 0.

    Args:
        inputs, outputs: sizes, ≥ 1.
        generator: gives the weights.
        gain: orthogonal weights of this gain; None: uniform of variance 1 / (3 inputs), as layers
            of torch start.
    """
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    if gain is None:
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
    else:
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Copies of the tensors, their names behind `prefix` and a dot."""
    return {
        f"{prefix}.{name}": tensor.detach().clone().contiguous() for name, tensor in tensors.items()
    }


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors whose names start with `prefix` and a dot, without it."""
    return {
        name.removeprefix(f"{prefix}."): t
        for name, t in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def load_module(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Put tensors into a module.

    Raises:
        ModelError: names or shapes are not the module's.
    """
    own = module.state_dict()
    wrong = own.keys() ^ tensors.keys() | {
        n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape
    }
    if wrong:
        raise ModelError(
            f"{what}: tensor {min(wrong)} does not belong to a network of these sizes; train it "
            "anew"
        )
    module.load_state_dict(dict(tensors))


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """An optimiser's moments and step counts, named by parameter number and quantity."""
    tensors: Tensors = {}
    for i, entry in optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"{i}.{name}"] = value.detach().clone()
    return tensors


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what optimiser_tensors gave; the parameter groups stay as they are."""
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        number, quantity = name.split(".", 1)
        state.setdefault(int(number), {})[quantity] = value.clone()
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )


# ---------------------------------------------------------------------------------------- files


def write_weights(path: Path, kind: str, described: Mapping[str, Any], tensors: Tensors) -> None:
    """Write tensors with a description that JSON can hold.

    Args:
        path: a .safetensors file; its folder is made.
        kind: the policy's kind in hil.toml.
        described: sizes and settings.
        tensors: name → tensor.
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
    tensors: Tensors = {}
    for prefix, network in networks.items():
        for name, tensor in network.state_dict().items():
            tensors[f"{prefix}.{name}"] = tensor.detach().to(torch.float16).contiguous()
    return tensors
