"""Streams whose rounds end within a plan: they hold what the loop sends, and follow an episode."""

import numpy as np
import pytest

from cloud.agent import CloudHalf
from cloud.finetuning import within_plan
from cloud.finetuning.directions import leading
from cloud.streams.branches import BranchScorer, StreamBranches
from cloud.streams.stream import train_stream
from cloud.text.loading import load_domains
from hil.codec import decode, digest
from hil.contract import KEEP, RankPlan
from hil.settings import parse_settings

DOMAINS = ["jargon40", "jargon40", "http"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("streams"))
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
            "finetune": {"steps": 4, "batch": 4, "threads": 1, "plan_share": 0.5},
            "policy": {"kind": "largest"},
            "streams": {"rounds": 3, "steps": 4, "batch": 4, "items": 6, "cache": cache},
        },
        source="test",
    )


@pytest.fixture(scope="module")
def branches(base, settings):
    seeds = {"text_seed": 3, "train_seed": 3}
    stream = train_stream(settings, **seeds, domains=DOMAINS, base=base)
    return StreamBranches(settings, base, stream, **seeds)


@pytest.mark.slow
def test_streams_hold_bit_for_bit_what_the_loop_sends(base, settings, branches):
    cloud = CloudHalf(settings, base, *load_domains(settings.text, 3, base.token_limit(64)))
    held, digest_held, n_trained_again = {}, "", 0
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
        cut = leading(branches.stream.factors(t)[name], factors.rank)
        n_trained_again += not np.array_equal(factors.a, cut.a)
    assert n_trained_again > 0


class _Listener:
    """A scorer that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score_held(self, round_id, held):
        self.asked.append((round_id, dict(held)))
        return 0.5, 1.0


@pytest.mark.slow
def test_an_episode_is_followed_round_by_round_and_equal_ones_train_once(branches, monkeypatch):
    trainings = []
    train = within_plan.train_within
    monkeypatch.setattr(
        within_plan, "train_within", lambda *args: trainings.append(1) or train(*args)
    )
    monkeypatch.setattr(within_plan, "losses_of", lambda *_: (1.0, 0.5))  # it is the better
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


@pytest.mark.slow
def test_a_round_that_begins_an_episode_remembers_nothing(branches):
    listener = _Listener()
    scorer = BranchScorer(listener, branches)
    scorer.score(0, np.zeros(28, int), np.full(28, 2))
    scorer.score(0, np.full(28, -1), np.zeros(28, int))
    assert listener.asked[1] == (0, {})
