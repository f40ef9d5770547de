import pytest
import torch

from cloud.model.base_model import DEFAULT_MODEL, open_base_model
from cloud.model.deeper import deepen
from hil.contract import ConfigError


def logits(folder):
    base = open_base_model(str(folder))
    ids = base.tokenizer("The task is cancelled before it is done.", return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        return base.load(torch.device("cpu")).eval()(ids).logits[0].double()


@pytest.mark.slow
def test_a_deep_model_has_as_many_projections_and_computes_the_same(tmp_path):
    deepen(DEFAULT_MODEL, tmp_path / "deep", 8)
    assert len(open_base_model(str(tmp_path / "deep")).spec.module_shapes) == 8 * 28
    torch.testing.assert_close(logits(tmp_path / "deep"), logits(DEFAULT_MODEL))


def test_fewer_than_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="0 layers made of each"):
        deepen(DEFAULT_MODEL, tmp_path, 0)
