"""A run that starts from an adapter computes what that does, and all its directions learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.given_adapter import start_from
from cloud.model.base_model import BaseModel, open_base_model
from cloud.text.sources import Example
from edge_device.adapter import to_peft
from hil.contract import ConfigError
from hil.settings import FinetuneSettings, ModelSettings
from tests.edge_device.families import CASES
from tests.edge_device.random_updates import random_update


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> BaseModel:
    return open_base_model(str(CASES["qwen3"].make(tmp_path_factory.mktemp("m") / "hf")))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    to_peft(random_update(base.spec, ranks=(3, 0, 5)), folder, base_name="hf")
    return folder


def _tuner(base: BaseModel, **model: object) -> FineTuner:
    settings = FinetuneSettings(batch=2, threads=1)
    return FineTuner(base, ModelSettings(**({"r_max": 8} | model)), settings, 0)


def test_training_starts_at_the_adapter_and_every_direction_learns(base, adapter):
    tuner = _tuner(base)
    start_from(tuner, adapter)
    wanted = random_update(base.spec, ranks=(3, 0, 5)).factors
    for module, factors in tuner.model.factors().items():
        given = wanted[module].b @ wanted[module].a if module in wanted else 0.0
        np.testing.assert_allclose(factors.b @ factors.a, given, atol=1e-6)
    text = "the station reported a weak signal"
    texts = 8 * [Example(text=text, prompt=text)]
    tuner.train(texts)
    for factors in tuner.model.factors().values():
        assert np.abs(factors.b).max(axis=0).all()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"r_max": 4}, "has rank 5 at .* model.r_max is 4; raise it"),
        ({"target_modules": ["k_proj"]}, "is not trained; add 'q_proj' to model.target_modules"),
    ],
)
def test_an_adapter_that_does_not_fit_the_training_is_refused(base, adapter, model, message):
    with pytest.raises(ConfigError, match=message):
        start_from(_tuner(base, **model), adapter)


def test_methods_that_choose_ranks_have_no_such_start(base, adapter):
    settings = FinetuneSettings(threads=1)
    tuner = FineTuner(base, ModelSettings(), settings, 0, method="eva", target_rank=4)
    with pytest.raises(ConfigError, match="method eva chooses its own ranks"):
        start_from(tuner, adapter)


def test_a_training_has_one_start():
    with pytest.raises(ValueError, match="a training has one start"):
        FinetuneSettings(start_from="a", resume_from="b")
