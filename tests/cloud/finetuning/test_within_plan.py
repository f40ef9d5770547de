"""Training within a plan: what is sent gets better, and what is kept stays."""

from dataclasses import replace

import numpy as np
import pytest

from cloud.finetuning.directions import cut_update
from cloud.finetuning.finetuner import Branch, FineTuner
from cloud.finetuning.scoring import losses_of
from cloud.finetuning.within_plan import train_within, within_plan
from hil.contract import RankPlan
from hil.settings import FinetuneSettings, ModelSettings

MODEL = ModelSettings(r_max=4)
SETTINGS = FinetuneSettings(steps=24, batch=8, threads=1)
BRANCH_STEPS = 12


def _trained(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS, seed=0)
    return tuner, tuner.train(domain.train[:192], branch_steps=BRANCH_STEPS).branch


@pytest.fixture(scope="module")
def trained(base, domain):
    return _trained(base, domain)


def _factors(found, rank=None):
    plan = RankPlan(ranks={name: rank or len(d.s) for name, d in found.items()})
    return cut_update(found, plan, round_id=0, identity="ab", held_digest="").factors


@pytest.mark.slow
def test_what_takes_the_last_steps_within_its_plan_loses_less_than_a_cut(trained, domain):
    tuner, branch = trained
    steps = []
    ranks = dict.fromkeys(tuner.module_shapes, 1)
    found = train_within(tuner, branch, ranks, {}, lambda: steps.append(1))
    assert len(steps) == len(branch.batches) == BRANCH_STEPS
    assert [len(d.s) for d in found.values()] == [1] * 28
    held = [
        _factors(tuner.model.directions()),
        _factors(tuner.model.directions(), 1),
        _factors(found),
    ]
    whole, cut, within = losses_of(tuner.model, held, domain.train[192:320])
    assert whole < cut
    assert within < cut - 0.1 * (cut - whole)


@pytest.mark.slow
def test_at_full_rank_the_branch_comes_to_what_the_training_does(trained, domain):
    tuner, branch = trained
    found = train_within(tuner, branch, dict.fromkeys(tuner.module_shapes, 4), {})
    begun, end, other = losses_of(
        tuner.model,
        [branch.factors, _factors(tuner.model.directions()), _factors(found)],
        domain.train,
    )
    assert end < begun
    assert abs(other - end) < 0.5 * (begun - end)


@pytest.mark.slow
def test_the_training_at_r_max_goes_on_as_if_nothing_had_been(base, domain):
    untouched, disturbed = (FineTuner(base, MODEL, SETTINGS, seed=0) for _ in range(2))
    untouched.train(domain.train[:24])
    branch = disturbed.train(domain.train[:24], branch_steps=2).branch
    train_within(disturbed, branch, dict.fromkeys(disturbed.module_shapes, 2), {})
    for one in (untouched, disturbed):
        one.train(domain.train[24:40])
    for name, d in untouched.model.directions().items():
        for part in ("u", "s", "vt"):
            np.testing.assert_array_equal(
                getattr(disturbed.model.directions()[name], part), getattr(d, part)
            )


@pytest.mark.slow
def test_kept_modules_stay_and_are_what_the_others_are_trained_beside(trained, domain):
    tuner, branch = trained
    names = list(tuner.module_shapes)
    whole = _factors(tuner.model.directions())
    ranks, kept = dict.fromkeys(names[::2], 2), {n: whole[n] for n in names[1::2]}
    before = {n: (f.a.copy(), f.b.copy()) for n, f in kept.items()}
    found = train_within(tuner, branch, ranks, kept)
    assert set(found) == set(ranks)
    for n, (a, b) in before.items():
        np.testing.assert_array_equal(kept[n].a, a)
        np.testing.assert_array_equal(kept[n].b, b)
    alone = train_within(tuner, branch, ranks, {})
    beside, apart = losses_of(
        tuner.model, [{**kept, **_factors(f)} for f in (found, alone)], domain.train[192:320]
    )
    assert beside < apart


@pytest.mark.slow
def test_what_the_branch_has_come_to_is_sent_only_where_it_is_the_better(trained, domain):
    tuner, branch = trained
    cut, trial = _factors(tuner.model.directions(), 1), domain.train[192:320]
    found = within_plan(tuner, branch, cut, {}, trial)
    assert found is not None
    before, after = losses_of(tuner.model, [cut, _factors(found)], trial)
    assert after < before
    misled = Branch(
        branch.factors, [[(ids, 1) for ids, _ in batch] for batch in branch.batches]
    )  # learns the prompt
    assert within_plan(tuner, misled, cut, {}, trial) is None
    endless = {name: replace(f, a=np.full_like(f.a, 1e30)) for name, f in branch.factors.items()}
    assert within_plan(tuner, Branch(endless, branch.batches), cut, {}, trial) is None
    assert losses_of(tuner.model, [cut], trial) == [before]  # nothing of it is left behind
