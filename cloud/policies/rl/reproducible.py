"""What a learner needs to be repeated bit by bit: layers drawn from a seed, and its training state
as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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
        generator: of the weights.
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
    state = optimiser.state_dict()["state"]
    return {
        f"{i}.{name}": value.detach().clone()
        for i, entry in state.items()
        for name, value in entry.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what optimiser_tensors gave; the parameter groups stay as they are."""
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        number, quantity = name.split(".", 1)
        state.setdefault(int(number), {})[quantity] = value.clone()
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
