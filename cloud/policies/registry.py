"""The table of policy kinds, and how the policy of a kind is made."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from cloud.policies.baselines import AsTrained, FixedRank, LargestUniform, RandomFeasible
from hil.contract import ConfigError, RankPolicy
from hil.settings.policy import AnyPolicy


def load_policy_file(path: str) -> RankPolicy:
    """An object of the class "path/to/file.py:ClassName", made without arguments.

    Raises:
        ConfigError: no such file or class, the file or the constructor fails, or the object is no
            policy.
    """
    file, _, class_name = path.rpartition(":")
    if not Path(file).is_file():
        raise ConfigError(
            f"policy file {file or path!r} is missing; write path/to/file.py:ClassName"
        )
    name = f"policy_file_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"policy file {file} is not Python; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass in the file looks its own module up
    try:
        spec.loader.exec_module(module)
        policy: Any = getattr(module, class_name)()
    except Exception as error:
        raise ConfigError(
            f"policy {path} does not load: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(getattr(policy, "name", None), str) or not callable(
        getattr(policy, "plan", None)
    ):
        raise ConfigError(
            f"policy {path} needs an attribute name (a string) and a method plan(obs)"
        )
    return policy  # type: ignore[no-any-return]


Constructor = Callable[..., RankPolicy]

KINDS: Final[Mapping[str, Constructor | str]] = {
    "fixed": FixedRank,
    "largest": LargestUniform,
    "random": RandomFeasible,
    "greedy": "cloud.policies.rules:SpectralGreedy",
    "waterfill": "cloud.policies.rules:Waterfill",
    "price": "cloud.policies.rules:ConstantPrice",
    "adalora": partial(AsTrained, "AdaLoRA"),
    "eva": partial(AsTrained, "EVA"),
    "ppo": "cloud.policies.airllm:PpoRankPolicy",
    "airllm": "cloud.policies.airllm:AirLlmPolicy",
    "ours": "cloud.policies.paced:PacedAllocator",
    "file": load_policy_file,
}
"""What makes a policy of each kind; "module:name" is imported when it is first wanted, so that a
policy without a network runs without torch."""


def make_policy(table: AnyPolicy) -> RankPolicy:
    """The policy that a [policy] table of hil.toml asks for.

    Raises:
        ConfigError, ModelError: its settings do not fit, or its file or weights cannot be used.
    """
    return constructor_of(table.kind)(**table.model_dump(exclude={"kind"}))


def constructor_of(kind: str) -> Constructor:
    """What makes a policy of a kind in KINDS, from the other keys of its table."""
    constructor = KINDS[kind]
    if isinstance(constructor, str):
        module, _, name = constructor.partition(":")
        found: Constructor = getattr(importlib.import_module(module), name)
        return found
    return constructor
