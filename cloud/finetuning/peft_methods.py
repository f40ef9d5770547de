"""LoRA, AdaLoRA and EVA by PEFT: how each puts its adapters on a model, trains them, and what
update they stand for.

AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512) is made for one training run; here something is
sent after every round, so its schedule of ranks runs once a round: from r_max everywhere down to
the target on average, by PEFT's cubic rule. What was masked in one round may come back in the next.
EVA (Paischer et al., 2024, arXiv 2410.07170) starts from principal components of the activations of
the first round's text and spreads the ranks by the variance that they explain; its ranks stay as
they are from then on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import torch
from peft import (
    AdaLoraConfig,
    EvaConfig,
    LoraConfig,
    PeftModel,
    get_peft_model,
    initialize_lora_eva_weights,
)
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora import Linear as LoraLinear
from transformers import PreTrainedModel

from cloud.model.encoding import EncodedExample, model_inputs
from hil.contract import ConfigError, LowRankFactors
from hil.settings import ModelSettings
from hil.settings.policy import Method

ADAPTER: Final = "default"
"""PEFT's name of the only adapter."""
PREFIX: Final = "base_model.model."
"""What PEFT puts before the base model's names."""
WARM_UP_SHARE: Final = 0.2
FINAL_SHARE: Final = 0.3
"""Shares of a round's steps before AdaLoRA's ranks begin to fall, and after they have reached the
target."""
ALPHA_FACTORS: Final[dict[Method, float]] = {"lora": 1.0, "adalora": 10.0, "eva": 1.0}
RATE_FACTORS: Final[dict[Method, float]] = {"lora": 1.0, "adalora": 10 / 3, "eva": 1.0}
"""What finetune.alpha and finetune.learning_rate are multiplied by. AdaLoRA starts from vectors 30
times shorter than LoRA's and singular values of zero, and learns next to nothing in a round at
LoRA's settings; with these it learns as fast. EVA starts from vectors about as long as LoRA's."""
EVA_RHO: Final = 2.0
"""PEFT's default: EVA gives a module at most this many times the average rank."""


def adapted_model(
    causal: PreTrainedModel,
    model: ModelSettings,
    alpha: float,
    method: Method,
    target_rank: int | None,
) -> PeftModel:
    """The model with adapters on every target module.

    Args:
        causal: the base model; it is changed.
        model: r_max and target modules.
        alpha: LoRA's alpha at rank r_max; every method gets the scale alpha / r_max times its
            ALPHA_FACTORS.
        method: whose adapters.
        target_rank: average rank of "adalora" and "eva", 1..r_max; None for "lora".
    Raises:
        ConfigError: a target rank where there is none, none where there must be one, or one out of
            range.
    """
    rank = model.r_max if target_rank is None else target_rank
    if (target_rank is None) != (method == "lora") or not 1 <= rank <= model.r_max:
        raise ConfigError(
            f"target_rank = {target_rank} with method {method!r}: adalora and eva need one of "
            "1..r_max "
            f"({model.r_max}), lora none"
        )
    alpha *= ALPHA_FACTORS[method]
    common: dict[str, Any] = {
        "target_modules": list(model.target_modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    config: LoraConfig
    match method:
        case "lora":
            config = LoraConfig(r=model.r_max, lora_alpha=_alpha(alpha), **common)
        case "adalora":
            # The steps of a round are known when it starts; until then any number that PEFT takes.
            config = AdaLoraConfig(
                init_r=model.r_max, target_r=rank, total_step=2, lora_alpha=_alpha(alpha), **common
            )
        case "eva":
            config = LoraConfig(
                r=rank,
                lora_alpha=_alpha(alpha * rank / model.r_max),
                init_lora_weights="eva",
                eva_config=EvaConfig(rho=min(EVA_RHO, model.r_max / rank)),
                **common,
            )
    with warnings.catch_warnings():
        # peft still asks transformers by the attribute's old name.
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing`", category=FutureWarning
        )
        warnings.filterwarnings(
            "ignore", message="lora with eva initialization used with low_cpu_mem_usage=False"
        )
        return cast(PeftModel, get_peft_model(causal, config))


def _alpha(value: float) -> int:
    return cast(int, value)  # PEFT declares an integer, and only ever divides it by the rank


def adapted_layers(model: PeftModel) -> dict[str, Any]:
    """The base model's module name → PEFT layer on it; in no particular order."""
    return {
        name.removeprefix(PREFIX): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear | SVDLinear)
    }


def low_rank(layer: Any) -> LowRankFactors:
    """A layer's update, every scale in b, masked directions left out.

    The arrays may share the memory of the layer's parameters: copy what must outlive a step.
    """
    masked = isinstance(layer, SVDLinear)
    if masked:
        e = layer.lora_E[ADAPTER].detach()[:, 0]
        alive = e != 0
        # What PEFT's forward pass divides by, its guard against zero included.
        scale = layer.scaling[ADAPTER] / (float(layer.ranknum[ADAPTER]) + 1e-5)
        a, b = (
            layer.lora_A[ADAPTER].detach()[alive],
            layer.lora_B[ADAPTER].detach()[:, alive] * e[alive] * scale,
        )
    else:
        a = layer.lora_A[ADAPTER].weight.detach()
        b = layer.lora_B[ADAPTER].weight.detach() * layer.scaling[ADAPTER]
    return LowRankFactors(a=a.float().cpu().numpy(), b=b.float().cpu().numpy())


def set_low_rank(layer: Any, factors: LowRankFactors) -> None:
    """Let a LoRA layer be this update, of at most its rank; what it was trained to is gone."""
    layer.lora_A[ADAPTER].weight.data.zero_()
    begin_low_rank(layer, factors)


def begin_low_rank(layer: Any, factors: LowRankFactors) -> None:
    """The same, but the other rows of A stay as they are, so that their directions can learn."""
    a, b = layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data
    b.zero_()
    a[: factors.rank] = torch.from_numpy(np.ascontiguousarray(factors.a))
    b[:, : factors.rank] = (
        torch.from_numpy(np.ascontiguousarray(factors.b)) / layer.scaling[ADAPTER]
    )


# ------------------------------------------------------------------- beside the training steps


class PlainLora:
    """LoRA at r_max, which adds nothing to the training steps; the hooks that other methods have.

    Args:
        model: as `adapted_model` makes it.
    """

    def __init__(self, model: PeftModel) -> None:
        self._model = model

    def begin_round(self, batches: Sequence[Sequence[EncodedExample]], *, first: bool) -> bool:
        """Get ready for a round.

        Args:
            batches: one a step.
            first: nothing has been trained yet.
        Returns:
            True where the model has got other parameters.
        Raises:
            ConfigError: the round is too short for the method.
        """
        return False

    def penalty(self) -> torch.Tensor | None:
        """What is added to a step's loss, or None."""
        return None

    def after_step(self, step: int) -> None:
        """Hear of the optimiser's step 1..steps of the round; gradients are still there."""

    def restore(self, a_by_module: Mapping[str, torch.Tensor]) -> bool:
        """Give the model the ranks of a saved training, from every module's A [r, d_in]; True where
        it has got other parameters."""
        return False


class AdaLora(PlainLora):
    """AdaLoRA's penalty and its schedule of ranks, restarted every round with all ranks at
    r_max."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__(model)
        self._tuner: Any = model.base_model
        self._config: Any = model.peft_config[ADAPTER]

    def begin_round(self, batches: Sequence[Sequence[EncodedExample]], *, first: bool) -> bool:
        """Start the schedule; a single step is too few: no rank can be judged before it is cut."""
        steps = len(batches)
        if steps < 2:
            raise ConfigError(f"finetune.steps = {steps}: AdaLoRA needs at least 2 steps a round")
        self._config.total_step = steps
        self._config.tinit = int(WARM_UP_SHARE * steps)
        self._config.tfinal = int(FINAL_SHARE * steps)
        self._config.rank_pattern = None
        self._tuner.rankallocator.reset_ipt()
        return False

    def penalty(self) -> torch.Tensor:
        """The distance of the directions from orthonormal ones, as PEFT's own forward pass adds
        it."""
        distances = []
        for layer in adapted_layers(self._model).values():
            a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
            identity = torch.eye(len(a), device=a.device)
            distances += [
                torch.linalg.norm(a @ a.T - identity),
                torch.linalg.norm(b.T @ b - identity),
            ]
        return cast(torch.Tensor, self._config.orth_reg_weight * torch.stack(distances).mean())

    def after_step(self, step: int) -> None:
        """Judge the directions, and mask those that the schedule has no room for."""
        allocator = self._tuner.rankallocator
        if allocator.budget_schedule(step)[0] >= allocator.init_bgt:
            allocator.update_ipt(self._tuner.model)  # PEFT cannot be asked to mask nothing
        else:
            self._tuner.update_and_allocate(step)


class Eva(PlainLora):
    """EVA's start: in the first round principal components of the activations become A, and each
    module gets its rank."""

    def begin_round(self, batches: Sequence[Sequence[EncodedExample]], *, first: bool) -> bool:
        """Go through the first round's batches until the components stand still."""
        if first:
            initialize_lora_eva_weights(
                self._model,
                [model_inputs(batch) for batch in batches],
                forward_fn=_run,
                prepare_model_inputs_fn=lambda inputs, _: inputs["attention_mask"].flatten().bool(),
                prepare_layer_inputs_fn=_attended,
                show_progress_bar=False,
            )
        return first

    def restore(self, a_by_module: Mapping[str, torch.Tensor]) -> bool:
        """Take ranks and A as they once were; a module that is not named gets rank 0."""
        state = {}
        for name, layer in adapted_layers(self._model).items():
            none = torch.zeros(0, layer.in_features)
            state[PREFIX + name] = a_by_module.get(name, none)
        initialize_lora_eva_weights(self._model, eva_state_dict=state)
        return True


METHODS: Final[Mapping[Method, type[PlainLora]]] = {
    "lora": PlainLora,
    "adalora": AdaLora,
    "eva": Eva,
}


def _run(model: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    # The output layer tells nothing about activations, and costs most where the vocabulary is
    # large.
    model.get_base_model().model(**inputs, use_cache=False)


def _attended(layer_input: Any, attended: torch.Tensor, _name: str) -> torch.Tensor:
    """The rows that are no padding, of an input [n, length, d] or [n · length, d]."""
    x = layer_input if isinstance(layer_input, torch.Tensor) else layer_input[0]
    return x.reshape(-1, x.shape[-1])[attended]
