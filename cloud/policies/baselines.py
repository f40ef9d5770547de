"""What every rank policy shares, the policies that weigh nothing, and the way from a kind's name to
a policy.

A module that gets no direction is kept if the edge holds a stale update of it, else it is sent
without any (rank 0); a plan that can afford nothing keeps everything, so that nothing is
transmitted.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloud.policies.state import Situation
from hil.codec import KEPT_FROM_BITS
from hil.contract import KEEP, ConfigError, Ints, ModelError, RankPlan, RankPolicy, RoundObservation

KEPT: Final = -1
"""KEEP where ranks stand in an array."""


def plan_bits(obs: RoundObservation, plan: RankPlan) -> int:
    """Payload bits that a plan costs by the observation's own prices; 0 for a plan that sends
    nothing."""
    if plan.sends_nothing:
        return 0
    bits = obs.overhead_bits
    for module, rank in plan.ranks.items():
        if rank != KEEP and rank > 0:
            bits += obs.bits_per_module + rank * obs.bits_per_direction[module]
    return bits + (KEPT_FROM_BITS if KEEP in plan.ranks.values() else 0)


def keep_all(obs: RoundObservation) -> RankPlan:
    """The plan that sends nothing."""
    return RankPlan(ranks=dict.fromkeys(obs.module_shapes, KEEP))


def uniform(obs: RoundObservation, rank: int) -> RankPlan:
    """Every module at `rank`, or at its full rank min(d_out, d_in) where that is smaller."""
    return RankPlan(
        ranks={module: min(rank, *shape) for module, shape in obs.module_shapes.items()}
    )


def share_of(obs: RoundObservation, even_shares: float = 1.0) -> RoundObservation:
    """The observation with the budget that this round gets when all that is left is split evenly
    among the rounds.

    A policy that knows nothing of later rounds would spend an episode's budget in the first; what a
    round leaves over is the later ones'. Where every round has a budget of its own the observation
    stays as it is.

    Args:
        obs: a round; obs.budget.rounds is the number of rounds that the budget must last.
        even_shares: parts of such an even split that this round may take, > 0, and never more than
            is left.
    """
    if obs.budget.rounds == 1:
        return obs
    part = min(1.0, even_shares / obs.budget.rounds)
    budget = replace(
        obs.budget, airtime_s=obs.budget.airtime_s * part, bits=int(obs.budget.bits * part)
    )
    return replace(obs, budget=replace(budget, rounds=1))


# ----------------------------------------------------------------------------- down to the budget


def project(obs: RoundObservation, plan: RankPlan) -> RankPlan:
    """The plan with every rank scaled down by one common factor, the largest with which it fits
    obs.budget.bits.

    Ranks are rounded down, at most the module's full rank. A rank that falls to 0 keeps what the
    edge holds of the module; one that the plan has at 0 stays there. When no direction is left
    over, everything is kept.
    """
    modules = list(obs.module_shapes)
    ranks = np.array(
        [[KEPT if plan.ranks[m] == KEEP else plan.ranks[m] for m in modules]], np.int64
    )
    per_direction = np.array([obs.bits_per_direction[m] for m in modules], np.int64)
    brought_down = _scaled(
        np.minimum(ranks, [min(obs.r_max, *shape) for shape in obs.module_shapes.values()]),
        np.array([[obs.held.get(m, 0) > 0 for m in modules]]),
        lambda r: np.where(r > 0, obs.bits_per_module + per_direction * r, 0),
        obs.budget.bits - obs.overhead_bits,
        obs.r_max,
    )[0]
    return RankPlan(
        ranks={
            m: KEEP if r == KEPT else r for m, r in zip(modules, brought_down.tolist(), strict=True)
        }
    )


def project_ranks(s: Situation, ranks: Ints, *, budget_bits: Ints | None = None) -> Ints:
    """int[N, M], the same as `project` for N plans as arrays; KEPT (-1) stands for a module that is
    kept.

    Args:
        s: N rounds.
        ranks: int[N, M], 0..R or KEPT.
        budget_bits: [N], in place of s.budget_bits.
    """
    budget = s.budget_bits if budget_bits is None else budget_bits
    modules = np.arange(len(s.bits))
    return _scaled(
        np.minimum(ranks, np.minimum(s.shapes.min(axis=1), s.r_max)),
        s.holds,
        lambda r: s.bits[modules, np.maximum(r, 0)],
        budget - s.overhead_bits,
        s.r_max,
    )


def _scaled(
    ranks: Ints,
    holds: NDArray[np.bool_],
    bits: Callable[[Ints], Ints],
    room: Ints | int,
    r_max: int,
) -> Ints:
    """int[N, M], ranks times the largest factor j / q with which their bits fit the room; KEPT
    everywhere if none."""
    above, below = _factors(r_max)

    def at(step: Ints) -> Ints:
        scaled = np.where(
            ranks > 0, ranks * above[step, np.newaxis] // below[step, np.newaxis], ranks
        )
        return np.where((ranks > 0) & (scaled == 0) & holds, KEPT, scaled)

    def digest(scaled: Ints) -> Ints:
        kept: Ints = np.where((scaled == KEPT).any(axis=1), KEPT_FROM_BITS, 0)
        return kept

    def largest(room: Ints | int) -> Ints:
        low, high = np.zeros(len(ranks), np.int64), np.full(len(ranks), len(above) - 1)
        while (low < high).any():
            middle = (low + high + 1) // 2
            fits = bits(at(middle)).sum(axis=1) <= room
            low, high = (
                np.where(fits, middle, low),
                np.where(fits, high, np.maximum(middle - 1, low)),
            )
        return low

    # What a factor costs rises with it, but for the digest of kept modules; a smaller factor keeps
    # no fewer.
    step = largest(room)
    step = np.where(digest(at(step)) > 0, largest(room - digest(at(step))), step)
    scaled = at(step)
    affordable = bits(scaled).sum(axis=1) + digest(scaled) <= room
    empty = ~(scaled > 0).any(axis=1) & (step < len(above) - 1)
    return np.where((empty | ~affordable)[:, np.newaxis], KEPT, scaled)


@cache
def _factors(r_max: int) -> tuple[Ints, Ints]:
    """Every fraction within 0..1 with denominators up to r_max, rising: where some rounded-down
    rank changes."""
    fractions = {(j / q): (j, q) for q in range(r_max, 0, -1) for j in range(q + 1)}
    above, below = np.array([fractions[value] for value in sorted(fractions)], np.int64).T
    return above, below


# --------------------------------------------------------------------------------------- the
# policies


class FixedRank:
    """The same rank in every module and every round, whether or not the budget has room for it."""

    def __init__(self, rank: int) -> None:
        if rank < 1:
            raise ConfigError(f"fixed rank {rank} sends nothing; ask for at least 1")
        self.name = f"fixed rank {rank}"
        self._rank = rank

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ConfigError when the rank exceeds obs.r_max, the rank that was trained."""
        if self._rank > obs.r_max:
            raise ConfigError(
                f"fixed rank {self._rank} exceeds r_max = {obs.r_max}; lower the one or raise the "
                "other"
            )
        return uniform(obs, self._rank)


class LargestUniform:
    """The largest rank that fits this round's share of the budget when every module gets the
    same."""

    def __init__(self) -> None:
        self.name = "largest uniform"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Rank 1..r_max, or everything kept when not even rank 1 fits."""
        obs = share_of(obs)
        ranks = range(1, obs.r_max + 1)
        n_fitting = bisect_right(
            ranks, obs.budget.bits, key=lambda rank: plan_bits(obs, uniform(obs, rank))
        )
        return uniform(obs, ranks[n_fitting - 1]) if n_fitting else keep_all(obs)


class RandomFeasible:
    """Ranks drawn uniformly from 1..r_max, brought down to this round's share of the budget; the
    same for a seed."""

    def __init__(self, seed: int) -> None:
        self.name = "random feasible"
        self._seed = seed

    def plan(self, obs: RoundObservation) -> RankPlan:
        """A plan that depends on the seed, the round's number and the budget alone."""
        rng = np.random.default_rng([self._seed, obs.round_id])
        ranks = rng.integers(1, obs.r_max + 1, len(obs.module_shapes)).tolist()
        return project(
            share_of(obs), RankPlan(ranks=dict(zip(obs.module_shapes, ranks, strict=True)))
        )


class AsTrained:
    """All that the training left: it has chosen the ranks already, by adaptation (AdaLoRA) or at
    the start (EVA).

    A direction counts if its singular value stands above the rounding of the largest, s_0 ·
    max(d_out, d_in) · ε. What does not fit this round's share of the budget is not cut down, since
    that would be another method: everything is kept.
    """

    def __init__(self, method: str, rank: int) -> None:
        self.name = f"{method} rank {rank}"

    def plan(self, obs: RoundObservation) -> RankPlan:
        """Raises ModelError when a singular value is not finite."""
        ranks = {}
        for module, shape in obs.module_shapes.items():
            spectrum = checked_spectrum(obs, module)
            ranks[module] = int(
                np.count_nonzero(spectrum > spectrum[0] * max(shape) * np.finfo(np.float32).eps)
            )
        plan = RankPlan(ranks=ranks)
        fits = plan_bits(obs, plan) <= share_of(obs).budget.bits
        return plan if fits and any(ranks.values()) else keep_all(obs)


def checked_spectrum(obs: RoundObservation, module: str) -> NDArray[np.float32]:
    """float32[min(r_max, d_out, d_in)], the singular values of a module. Raises ModelError if one
    is not finite."""
    spectrum = obs.spectra[module][: min(obs.r_max, *obs.module_shapes[module])]
    if not np.isfinite(spectrum).all():
        raise ModelError(
            f"the spectrum of {module} is not finite; the training that made it has diverged"
        )
    return spectrum


# --------------------------------------------------------------------------------------- from a
# name


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

_KINDS: dict[str, Constructor | str] = {
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
"""What makes a policy of each kind; a name is imported when it is first wanted."""


def make_policy(
    kind: str, kinds: Mapping[str, Constructor | str] = _KINDS, /, **settings: Any
) -> RankPolicy:
    """The policy of that kind with the settings of its table in hil.toml.

    Args:
        kind: a key of `kinds`.
        kinds: kind → constructor, or "module:name" of one.
        settings: the constructor's arguments.

    Raises:
        ConfigError: an unknown kind, or settings that this kind does not take.
    """
    if kind not in kinds:
        raise ConfigError(f"policy kind {kind!r} is unknown; choose one of {', '.join(kinds)}")
    named = kinds[kind]
    constructor = _imported(named) if isinstance(named, str) else named
    parameters = inspect.signature(constructor).parameters
    needed = {
        name for name, parameter in parameters.items() if parameter.default is parameter.empty
    }
    if not needed <= set(settings) <= set(parameters):
        raise ConfigError(
            f"policy kind {kind!r} takes {', '.join(sorted(parameters)) or 'no settings'}, "
            f"got {', '.join(sorted(settings)) or 'none'}"
        )
    return constructor(**settings)


def _imported(named: str) -> Constructor:
    module, _, name = named.partition(":")
    constructor: Constructor = getattr(importlib.import_module(module), name)
    return constructor
