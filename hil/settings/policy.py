"""[policy] of hil.toml: a table for every kind of rank policy."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from hil.settings.table import Table

NATS_PER_S: Final = 0.15
"""Loss that a second of air must save: of 0.4 s to a round 0.06 nats for all of it, where the
reward of arXiv 2507.11515 gives its cost a weight of 0.1."""


class FixedPolicy(Table):
    """[policy] kind = "fixed": the same rank everywhere, whatever it costs."""

    kind: Literal["fixed"]
    rank: int = Field(ge=1, le=64)


class LargestPolicy(Table):
    """[policy] kind = "largest": the largest uniform rank that fits the budget."""

    kind: Literal["largest"]


class RandomPolicy(Table):
    """[policy] kind = "random": ranks drawn uniformly, brought down to what the budget holds."""

    kind: Literal["random"]
    seed: int = Field(default=0, ge=0, lt=2**63)


class GreedyPolicy(Table):
    """[policy] kind = "greedy": direction by direction, the one that promises most first."""

    kind: Literal["greedy"]
    per: Literal["rank", "parameter", "kfac"] = "rank"
    """Share of the module's energy for each direction, for each parameter of it, or loss by K-FAC
    for each bit."""


class WaterfillPolicy(Table):
    """[policy] kind = "waterfill": every direction above one level of energy per parameter for the
    whole model."""

    kind: Literal["waterfill"]


class PricePolicy(Table):
    """[policy] kind = "price": the exact plan at one price of a bit, constant or steered by what is
    left to spend."""

    kind: Literal["price"]
    nats_per_mbit: float = Field(default=0.01, ge=0, le=1000)
    feedback: bool = False
    """Raise the price when an episode's airtime goes faster than its rounds, lower it when it goes
    slower."""


class AdaLoraPolicy(Table):
    """[policy] kind = "adalora": PEFT's AdaLoRA trains to this average rank, and all it keeps is
    sent."""

    kind: Literal["adalora"]
    rank: int = Field(default=4, ge=1, le=64)


class EvaPolicy(Table):
    """[policy] kind = "eva": PEFT's EVA spreads this average rank by the activations, and all of it
    is sent."""

    kind: Literal["eva"]
    rank: int = Field(default=4, ge=1, le=64)


class PpoPolicy(Table):
    """[policy] kind = "ppo": PPO alone picks every rank, projected onto the budget."""

    kind: Literal["ppo"]
    weights: str = ""
    """File of `hil train`; "" = the one that ships."""


class AirLlmPolicy(Table):
    """[policy] kind = "airllm": PPO and conditional DDIM as the paper has them."""

    kind: Literal["airllm"]
    weights: str = ""
    project: bool = True
    """Bring a plan that is too large down to the budget; false = it is not sent, as in the
    paper."""


class OursPolicy(Table):
    """[policy] kind = "ours": the exact allocator at a price of air, in measured loss."""

    kind: Literal["ours"] = "ours"
    nats_per_s: float = Field(default=NATS_PER_S, ge=0, le=1000)
    """Loss that a second of air must save; where rounds share a budget a third of it."""
    pace: Literal["even", "learnt"] = "even"
    """Of a budget that rounds share: even shares of what is left, or shares and prices that PPO has
    learnt."""
    weights: str = ""
    """File of `hil train ours` for pace = "learnt"; "" = the one that ships."""

    @model_validator(mode="after")
    def _weights_are_of_a_learnt_pace(self) -> Self:
        if self.weights and self.pace != "learnt":
            raise ValueError("weights belong to pace = 'learnt'; set that too, or leave them out")
        return self


class FilePolicy(Table):
    """[policy] kind = "file": a class of your own, "path/to/file.py:ClassName"."""

    kind: Literal["file"]
    path: str = Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")


AnyPolicy = (
    FixedPolicy
    | LargestPolicy
    | RandomPolicy
    | GreedyPolicy
    | WaterfillPolicy
    | PricePolicy
    | AdaLoraPolicy
    | EvaPolicy
    | PpoPolicy
    | AirLlmPolicy
    | OursPolicy
    | FilePolicy
)


Method = Literal["lora", "adalora", "eva"]


def training_of(policy: AnyPolicy) -> tuple[Method, int | None]:
    """How the update that a policy plans for is trained: the method, and its average rank where it
    has one."""
    match policy:
        case AdaLoraPolicy(rank=rank):
            return "adalora", rank
        case EvaPolicy(rank=rank):
            return "eva", rank
        case _:
            return "lora", None


def weighs_trials(policy: AnyPolicy) -> bool:
    """Whether a policy reads the measured losses of trial plans, which cost forward passes.

    A policy of the user's own may read everything.
    """
    return isinstance(policy, OursPolicy | FilePolicy)
