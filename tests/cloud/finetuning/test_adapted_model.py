"""The logits that training sees are the model's own, whatever its family does after the last
layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cloud.finetuning.finetuner import FineTuner
from cloud.model.base_model import open_base_model
from hil.settings import FinetuneSettings, ModelSettings
from tests.edge_device.families import CASES


@pytest.mark.parametrize("case", ["granite", "gemma 3", "phi-3"])
def test_counted_logits_are_those_of_the_model(case, tmp_path):
    base = open_base_model(str(CASES[case].make(tmp_path)))
    fused = ["qkv_proj", "gate_up_proj"] if case == "phi-3" else ["q_proj"]
    tuner = FineTuner(base, ModelSettings(target_modules=fused), FinetuneSettings(threads=1), 0)
    ids = np.random.default_rng(1).integers(2, 390, 20).tolist()
    with torch.no_grad():
        counted, targets = tuner.model.counted([(ids, 1)])
        whole = tuner.model.peft(input_ids=torch.tensor([ids])).logits[0, :-1]
    assert targets.tolist() == ids[1:]
    torch.testing.assert_close(counted, whole)
