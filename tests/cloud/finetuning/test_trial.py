"""Plans that are tried on a round's own text: against merged weights, and what the line through
them promises."""

import numpy as np
import pytest

from cloud.finetuning.directions import leading
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.importance import curvature_of, residuals
from cloud.finetuning.scoring import losses_of
from cloud.finetuning.trial import (
    TRIAL_EXAMPLES,
    TRIALS,
    loss_line,
    measure_plans,
    trial_examples,
    trial_plans,
)
from cloud.model.base_model import BaseModel
from cloud.streams.scorer import MergedModel
from cloud.text.sources import DomainSampler, default_domain
from hil.codec import bits_by_rank
from hil.contract import LabelQuestion, LowRankFactors, ScoreSet
from hil.settings import DefaultText, FinetuneSettings, ModelSettings

R_MAX = 4


@pytest.fixture(scope="module")
def tuner(base: BaseModel) -> FineTuner:
    settings = FinetuneSettings(steps=6, batch=8, threads=1, device="cpu")
    tuner = FineTuner(base, ModelSettings(r_max=R_MAX), settings, 0)
    tuner.train(sampler().draw(48))
    return tuner


def sampler() -> DomainSampler:
    domain = default_domain(
        "jargon40", DefaultText(kind="default", train_examples=400, score_examples=40), 0
    )
    return DomainSampler(domain, 0)


def update_of(tuner: FineTuner) -> dict[str, LowRankFactors]:
    return {
        name: LowRankFactors(
            a=(d.s[:R_MAX, np.newaxis] * d.vt[:R_MAX]).astype(np.float32),
            b=d.u[:, :R_MAX].astype(np.float32),
        )
        for name, d in tuner.model.directions().items()
    }


@pytest.mark.slow
def test_losses_are_those_of_merged_weights_and_the_training_is_left_as_it_was(
    base: BaseModel, tuner: FineTuner
) -> None:
    examples = sampler().draw(20)
    whole = update_of(tuner)
    cut = {
        name: leading(factors, i % (R_MAX + 1)) for i, (name, factors) in enumerate(whole.items())
    }
    before = {name: d.s.copy() for name, d in tuner.model.directions().items()}
    found = losses_of(tuner.model, [whole, cut], examples)
    for name, d in tuner.model.directions().items():
        np.testing.assert_array_equal(d.s, before[name])
    merged = MergedModel(base)
    asked = ScoreSet(
        name="asked",
        questions=tuple(
            LabelQuestion(prompt=e.prompt, labels=(e.label_word, " neither"), answer=0)
            for e in examples
        ),
        chunks=(),
    )
    for i, update in enumerate((whole, cut)):
        for name, factors in update.items():
            merged.hold(name, (i, name), factors)
        assert found[i] == pytest.approx(merged.measure(asked)[1], abs=2e-4)
    assert abs(found[0] - found[1]) > 1e-3


@pytest.mark.slow
def test_a_round_is_measured_from_everything_to_nothing(base: BaseModel, tuner: FineTuner) -> None:
    examples = sampler().draw(48)
    shapes = tuner.module_shapes
    bits = bits_by_rank([8 * sum(shape) for shape in shapes.values()], R_MAX)
    update = update_of(tuner)
    expected = residuals(
        update, {}, R_MAX, curvature_of(tuner.model, examples, seed=6)
    ).missing_if_sent
    sent = np.array(list(expected.values()), np.float64)
    measured = measure_plans(tuner, list(update.values()), sent, bits, examples)
    assert measured.missing.shape == measured.excess.shape == (TRIALS,)
    assert measured.missing[0] == measured.excess[0] == 0
    nothing = {name: leading(factors, 0) for name, factors in update_of(tuner).items()}
    losses = losses_of(tuner.model, [update_of(tuner), nothing], examples)
    assert losses[1] > losses[0]
    assert measured.excess[-1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_plans_shrink_from_the_whole_update_to_nothing() -> None:
    sent = np.array([[3.0, 1.0, 0.0], [2.0, 0.5, 0.0]])
    plans = trial_plans(sent, bits_by_rank([100, 300], 2))
    assert plans.shape == (TRIALS, 2)
    assert plans[0].tolist() == [2, 2]
    assert plans[-1].tolist() == [0, 0]
    assert (np.diff(bits_by_rank([100, 300], 2)[[0, 1], plans].sum(axis=1)) <= 0).all()


def test_at_a_high_rank_the_first_directions_are_still_tried() -> None:
    decay = np.exp(-np.arange(65) / 3.0)
    spent = {}
    for r_max in (16, 64):
        bits = bits_by_rank([100] * 40, r_max)
        plans = trial_plans(np.tile(decay[: r_max + 1], (40, 1)), bits)
        spent[r_max] = plans.sum(axis=1) / 40
    # half a direction a module, one, two, four, eight; then everything
    np.testing.assert_allclose(spent[16][-2:0:-1], [0.5, 1, 2, 4, 8], rtol=0.2)
    np.testing.assert_allclose(spent[64][-2:0:-1], [0.5, 1, 2, 4, 8], rtol=0.2)
    assert (spent[16][0], spent[64][0]) == (16, 64)


def test_a_line_rises_whatever_the_trials_say_and_starts_at_the_whole_update() -> None:
    missing = np.array([0.0, 1.0, 2.0, 4.0])
    line = loss_line(missing, np.array([1.0, 0.9, 1.4, 1.2]))
    assert line.missing.tolist() == missing.tolist()
    assert line.excess[0] == 0
    np.testing.assert_allclose(line.excess[2:], 0.3)  # the mean of the two that fall
    assert (np.diff(line.excess) >= 0).all()


def test_long_examples_are_few_and_training_goes_on_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = sampler()
    drawn = trial_examples(short)
    assert len(drawn) == TRIAL_EXAMPLES == short.position
    monkeypatch.setattr("cloud.finetuning.trial.TRIAL_CHARACTERS", 2_000)
    prose = DomainSampler(default_domain("email+http", DefaultText(kind="default"), 0), 0)
    again = DomainSampler(prose.domain, 0)
    few = trial_examples(prose)
    assert 1 <= len(few) < TRIAL_EXAMPLES
    assert sum(len(e.prompt) for e in few) <= 2_000
    assert again.draw(len(few)) == few
    assert again.draw(3) == prose.draw(3)
