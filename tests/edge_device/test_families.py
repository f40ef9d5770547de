"""Every family that the edge serves: the logits of transformers and PEFT, at any length; and what a
broken rule would do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_device.adapter import to_peft, write_adapter
from edge_device.gguf_conversion import convert
from edge_device.gguf_model import inspect
from hil.model_folder import FAMILIES, base_spec
from tests.edge_device.families import BREAKS, CASES
from tests.edge_device.random_updates import random_update
from tests.edge_device.tiny_models import Logits, hf_logits, llama_logits

LENGTHS = (1, 7, 65, 600)
"""Beyond a window of 64, and beyond 128, the original length of a scaled rope."""
ROWS = [np.random.default_rng(3).integers(2, 393, length).tolist() for length in LENGTHS]


def _hf(folder: Path, peft: Path | None = None) -> Logits:
    return np.concatenate([hf_logits(folder, [row], peft)[0] for row in ROWS])


def _llama(gguf: Path, adapter: Path | None = None) -> Logits:
    return np.concatenate([llama_logits(gguf, [row], adapter, n_ctx=768)[0] for row in ROWS])


def _assert_same(got: Logits, wanted: Logits) -> None:
    error = np.abs(got - wanted)
    assert wanted.std() >= 2
    assert error.mean() <= 0.01
    assert np.quantile(error, 0.999) <= 0.05
    assert (got.argmax(-1) == wanted.argmax(-1)).mean() >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_model_and_adapter_give_the_logits_of_transformers_and_peft(case, tmp_path):
    folder = CASES[case].make(tmp_path / "hf")
    convert(folder, tmp_path / "base.gguf")
    model = inspect(tmp_path / "base.gguf")
    assert list(model.spec.module_shapes.items()) == list(base_spec(folder).module_shapes.items())
    _assert_same(_llama(tmp_path / "base.gguf"), bare := _hf(folder))
    update = random_update(model.spec)
    write_adapter(update, model, tmp_path / "a.gguf")
    to_peft(update, tmp_path / "peft", base_name=str(folder))
    wanted = _hf(folder, tmp_path / "peft")
    assert np.abs(wanted - bare).max() > 1
    _assert_same(_llama(tmp_path / "base.gguf", tmp_path / "a.gguf"), wanted)


def test_every_family_of_the_table_is_held_against_transformers():
    assert {case.architecture for case in CASES.values()} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_shows(rule, tmp_path, monkeypatch):
    case, break_it = BREAKS[rule]
    folder = CASES[case].make(tmp_path / "hf")
    convert(folder, tmp_path / "right.gguf")
    with monkeypatch.context() as patch:
        break_it(patch)
        convert(folder, tmp_path / "wrong.gguf")
    right, wrong = (
        llama_logits(tmp_path / f"{n}.gguf", [ROWS[-1]], n_ctx=768) for n in ("right", "wrong")
    )
    assert np.abs(right - wrong).max() > 0.5
