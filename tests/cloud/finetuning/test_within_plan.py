"""Training within a plan: what is sent gets better, what is kept stays, and a stream does what the
loop does."""

from dataclasses import replace

import numpy as np
import pytest

from cloud.agent import CloudHalf
from cloud.finetuning.directions import cut_update
from cloud.finetuning.finetuner import Branch, FineTuner
from cloud.finetuning.within_plan import BranchScorer, StreamBranches, within_plan
from cloud.model.base_model import open_base_model
from cloud.streams.scorer import leading
from cloud.streams.stream import train_stream
from cloud.text.sources import default_domain, load_domains
from hil.codec import decode, digest
from hil.contract import KEEP, RankPlan
from hil.settings import DefaultText, FinetuneSettings, ModelSettings, parse_settings

MODEL = ModelSettings(r_max=4)
SETTINGS = FinetuneSettings(steps=24, batch=8, threads=1)
BRANCH_STEPS = 12
DOMAINS = ["jargon40", "jargon40", "http"]


@pytest.fixture(scope="module")
def base():
    return open_base_model("default")


@pytest.fixture(scope="module")
def domain():
    return default_domain("jargon40", DefaultText(train_examples=400, score_examples=40), seed=0)


def _trained(base, domain):
    tuner = FineTuner(base, MODEL, SETTINGS, seed=0)
    return tuner, tuner.train(domain.train[:192], branch_steps=BRANCH_STEPS).branch


@pytest.fixture(scope="module")
def trained(base, domain):
    return _trained(base, domain)


def _factors(found, rank=None):
    plan = RankPlan(ranks={name: rank or len(d.s) for name, d in found.items()})
    return cut_update(found, plan, round_id=0, identity="ab", held_digest="").factors


# ------------------------------------------------------------------------------------------ one
# round


def test_what_takes_the_last_steps_within_its_plan_loses_less_than_a_cut(trained, domain):
    tuner, branch = trained
    steps = []
    ranks = dict.fromkeys(tuner.module_shapes, 1)
    found = tuner.train_within(branch, ranks, {}, lambda: steps.append(1))
    assert len(steps) == len(branch.batches) == BRANCH_STEPS
    assert [len(d.s) for d in found.values()] == [1] * 28
    held = [_factors(tuner.directions()), _factors(tuner.directions(), 1), _factors(found)]
    whole, cut, within = tuner.losses_of(held, domain.train[192:320])
    assert whole < cut
    assert within < cut - 0.1 * (cut - whole)


def test_at_full_rank_the_branch_comes_to_what_the_training_does(trained, domain):
    tuner, branch = trained
    found = tuner.train_within(branch, dict.fromkeys(tuner.module_shapes, 4), {})
    begun, end, other = tuner.losses_of(
        [branch.factors, _factors(tuner.directions()), _factors(found)], domain.train
    )
    assert end < begun
    assert abs(other - end) < 0.5 * (begun - end)


def test_the_training_at_r_max_goes_on_as_if_nothing_had_been(base, domain):
    (untouched, _), (disturbed, branch) = _trained(base, domain), _trained(base, domain)
    disturbed.train_within(branch, dict.fromkeys(disturbed.module_shapes, 2), {})
    for one in (untouched, disturbed):
        one.train(domain.train[192:256])
    for name, d in untouched.directions().items():
        for part in ("u", "s", "vt"):
            np.testing.assert_array_equal(
                getattr(disturbed.directions()[name], part), getattr(d, part)
            )


def test_kept_modules_stay_and_are_what_the_others_are_trained_beside(trained, domain):
    tuner, branch = trained
    names = list(tuner.module_shapes)
    whole = _factors(tuner.directions())
    ranks, kept = dict.fromkeys(names[::2], 2), {n: whole[n] for n in names[1::2]}
    before = {n: (f.a.copy(), f.b.copy()) for n, f in kept.items()}
    found = tuner.train_within(branch, ranks, kept)
    assert set(found) == set(ranks)
    for n, (a, b) in before.items():
        np.testing.assert_array_equal(kept[n].a, a)
        np.testing.assert_array_equal(kept[n].b, b)
    alone = tuner.train_within(branch, ranks, {})
    beside, apart = tuner.losses_of(
        [{**kept, **_factors(f)} for f in (found, alone)], domain.train[192:320]
    )
    assert beside < apart


def test_what_the_branch_has_come_to_is_sent_only_where_it_is_the_better(trained, domain):
    tuner, branch = trained
    cut, trial = _factors(tuner.directions(), 1), domain.train[192:320]
    found = within_plan(tuner, branch, cut, {}, trial)
    assert found is not None
    before, after = tuner.losses_of([cut, _factors(found)], trial)
    assert after < before
    misled = Branch(
        branch.factors, [[(ids, 1) for ids, _ in batch] for batch in branch.batches]
    )  # learns the prompt
    assert within_plan(tuner, misled, cut, {}, trial) is None
    endless = {name: replace(f, a=np.full_like(f.a, 1e30)) for name, f in branch.factors.items()}
    assert within_plan(tuner, Branch(endless, branch.batches), cut, {}, trial) is None
    assert tuner.losses_of([cut], trial) == [before]  # nothing of it is left behind


# ---------------------------------------------------------------------------------- a stream, and
# the loop


def _settings(tmp_path, plan_share=0.5, policy=("largest",)):
    return parse_settings(
        {
            "run": {"seed": 3},
            "text": {
                "stream": ["jargon40", "http"],
                "dwell": 2,
                "train_examples": 120,
                "score_examples": 40,
            },
            "model": {"r_max": 4},
            "finetune": {"steps": 6, "batch": 8, "threads": 1, "plan_share": plan_share},
            "policy": dict(zip(("kind", "rank"), policy, strict=False)),
            "streams": {"rounds": 3, "steps": 6, "batch": 8, "items": 12, "cache": str(tmp_path)},
        },
        source="test",
    )


def test_streams_hold_bit_for_bit_what_the_loop_sends(base, tmp_path):
    settings = _settings(tmp_path)
    seeds = {"text_seed": 3, "train_seed": 3}
    branches = StreamBranches(
        settings, base, train_stream(settings, **seeds, domains=DOMAINS, base=base), **seeds
    )
    cloud = CloudHalf(settings, base, *load_domains(settings.text, 3))
    held, digest_held = {}, ""
    for t, keeps in enumerate((False, True, True)):
        trained = cloud.train(t, lambda: None)
        ranks = {
            n: KEEP if keeps and i % 3 == t else i % 4 for i, n in enumerate(cloud.module_shapes)
        }
        payload = cloud.encode(t, trained, RankPlan(ranks=ranks), digest_held)
        digest_held = digest(payload)
        cloud.confirm(payload, digest_held)
        kept = {n: held[n] for n, r in ranks.items() if r == KEEP and n in held}
        held = branches.after(t, kept, {n: r for n, r in ranks.items() if r != KEEP and r > 0})
        sent = decode(payload, base.spec).factors
        assert set(held) == {*sent, *kept}
        for name, factors in sent.items():
            np.testing.assert_array_equal(held[name][1].a, factors.a)
            np.testing.assert_array_equal(held[name][1].b, factors.b)


def test_a_method_that_trains_at_its_own_ranks_has_no_branch(base, tmp_path):
    payloads = []
    for share in (0.0, 0.5):
        settings = _settings(tmp_path, share, ("adalora", 2))
        cloud = CloudHalf(settings, base, *load_domains(settings.text, 3))
        trained = cloud.train(0, lambda: None)
        ranks = {name: len(d.s) for name, d in trained.directions.items()}
        payloads.append(cloud.encode(0, trained, RankPlan(ranks=ranks), ""))
    assert payloads[0] == payloads[1]


@pytest.fixture(scope="module")
def branches(base, tmp_path_factory):
    settings = _settings(tmp_path_factory.mktemp("streams"))
    stream = train_stream(settings, text_seed=1, train_seed=2, domains=DOMAINS, base=base)
    return StreamBranches(settings, base, stream, text_seed=1, train_seed=2)


class _Listener:
    """A scorer that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score_held(self, round_id, held):
        self.asked.append((round_id, dict(held)))
        return 0.5, 1.0


def test_an_episode_is_followed_round_by_round_and_equal_ones_train_once(branches, monkeypatch):
    trainings = []
    train = FineTuner.train_within
    monkeypatch.setattr(
        FineTuner, "train_within", lambda *args: trainings.append(1) or train(*args)
    )
    modules = list(branches.stream.modules)
    half = np.arange(28) % 2 == 0
    states = [
        (np.zeros(28, int), np.full(28, 2)),  # everything is sent
        (np.where(half, 1, 0), np.where(half, 1, 2)),  # every other module is sent again
        (np.where(half, 1, -1), np.where(half, 1, 0)),  # and those between are sent with rank 0
    ]
    runs = []
    for _ in range(2):
        listener = _Listener()
        scorer = BranchScorer(listener, branches)
        for t, (held_round, held_rank) in enumerate(states):
            assert scorer.score(t, held_round, held_rank) == (0.5, 1.0)
        runs.append(listener.asked)
    assert len(trainings) == 2
    assert runs[0] == runs[1]
    (_, first), (_, second), (_, third) = runs[0]
    assert set(first) == set(second) == set(modules)
    assert set(third) == set(modules[::2])
    for module in modules[1::2]:
        assert second[module] == first[module]
    for module in modules[::2]:
        assert second[module][1].rank == 1
        assert second[module][0] != first[module][0]
        assert third[module] == second[module]
        cut = leading(branches.stream.factors(1)[module], 1)
        assert np.abs(second[module][1].b @ second[module][1].a - cut.b @ cut.a).max() > 0


def test_a_round_that_begins_an_episode_remembers_nothing(branches):
    listener = _Listener()
    scorer = BranchScorer(listener, branches)
    scorer.score(0, np.zeros(28, int), np.full(28, 2))
    scorer.score(0, np.full(28, -1), np.zeros(28, int))
    assert listener.asked[1] == (0, {})
