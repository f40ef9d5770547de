"""Parts of a batch side by side: the same update by one thread and by two, and whole batches'."""

import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cloud.finetuning.finetuner import FineTuner, parts_of
from cloud.finetuning.lanes import LANES, Lanes
from cloud.model.base_model import open_base_model
from cloud.text.sources import Example
from hil.settings import FinetuneSettings, ModelSettings

CPU = torch.device("cpu")
EXAMPLES = [
    Example(text="", prompt=f"report: the valve was {word}.\nverdict:", label_word=" bad")
    for word in ("broken", "quite broken", "green", "as it was before", "new")
]


@pytest.fixture(autouse=True)
def _threads_are_put_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tuner_with(threads, batch=5):
    settings = FinetuneSettings(steps=1, batch=batch, threads=threads)
    return FineTuner(open_base_model("default"), ModelSettings(r_max=2), settings, 0)


@pytest.mark.slow
def test_one_thread_and_two_give_equal_bits():
    factors = []
    for threads in (1, 2):
        tuner = tuner_with(threads)
        for _ in range(3):
            tuner.train(EXAMPLES)
        factors.append(tuner.model.factors())
    for name, one in factors[0].items():
        np.testing.assert_array_equal(one.b, factors[1][name].b)
        assert one.b.any()


def test_the_parts_add_up_to_the_whole_batchs_gradient():
    tuner = tuner_with(2)
    loss_nats = tuner.train(EXAMPLES).loss_nats
    learnt = [p.grad.clone() for p in tuner.model.parameters.values()]
    whole = tuner_with(1)
    loss = F.cross_entropy(*whole.model.counted(whole.model.encode(EXAMPLES)))
    loss.backward()
    assert loss_nats == pytest.approx(loss.item(), rel=1e-6)
    norm = torch.nn.utils.clip_grad_norm_(whole.model.parameters.values(), 1.0)
    assert norm > 0
    for one, other in zip(learnt, whole.model.parameters.values(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-7)


def test_two_threads_are_two_lanes_and_a_gpu_has_one():
    lanes = Lanes(2, CPU)
    both = threading.Barrier(LANES)
    assert lanes.each(lambda part: both.wait(timeout=60) * 0 + part, [1, 2]) == [1, 2]
    assert (lanes.count, torch.get_num_threads()) == (2, 1)
    assert Lanes(1, CPU).count == 2
    gpu = Lanes(8, torch.device("cuda"))
    assert (gpu.count, torch.get_num_threads()) == (1, 8)


def test_gradients_are_recorded_as_for_the_caller():
    lanes = Lanes(2, CPU)
    asked = [None, None]
    assert lanes.each(lambda _: torch.is_grad_enabled(), asked) == [True, True]
    with torch.no_grad():
        assert lanes.each(lambda _: torch.is_grad_enabled(), asked) == [False, False]


def test_a_part_that_fails_fails_the_whole():
    with pytest.raises(ZeroDivisionError):
        Lanes(2, CPU).each(lambda part: 1 // part, [1, 0])


@pytest.mark.parametrize(
    ("batch", "count", "sizes"), [(5, 2, [2, 3]), (1, 2, [1]), (4, 1, [4]), (2, 2, [1, 1])]
)
def test_parts_hold_every_example_once(batch, count, sizes):
    rows = [([i], 1) for i in range(batch)]
    parts = parts_of(rows, count)
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == rows
