"""The domains that ship, and the order in which examples are drawn."""

import pytest

from cloud.text.library_docs import HELD_OUT, package_prose
from cloud.text.loading import load_domains
from cloud.text.sources import DomainSampler, default_domain
from hil.contract import TextError
from hil.settings import DefaultText

SMALL = DefaultText(train_examples=60, score_examples=20)


def test_stream_dwells_on_each_domain_in_turn(base):
    settings = DefaultText(
        stream=["jargon40", "known"], dwell=2, train_examples=8, score_examples=4
    )
    domains, stream = load_domains(settings, 0, base.token_limit(128))
    assert stream == ["jargon40", "jargon40", "known", "known"]
    assert len(domains["known"].train) == 8
    assert len(domains["known"].score_set.questions) == 4


def test_prose_domain_keeps_its_score_set_out_of_training():
    domain = default_domain("http+logging", DefaultText(), seed=0)
    assert len(domain.score_set.chunks) >= 50
    assert not {e.text for e in domain.train} & set(domain.score_set.chunks)
    assert all(8 <= len(chunk.split()) <= 32 for chunk in domain.score_set.chunks)


@pytest.mark.slow
def test_held_out_packages_have_prose():
    for package in HELD_OUT:
        assert sum(len(p.split()) for p in package_prose(package)) > 3000


@pytest.mark.parametrize("name", ["jargon", "jargon7", "known40", "poetry", "email+tkinter", ""])
def test_unknown_domain_is_refused_by_name(name):
    with pytest.raises(TextError, match=f"text domain '{name.replace('+', '[+]')}'"):
        default_domain(name, SMALL, seed=0)


def test_sampler_visits_every_example_once_an_epoch_and_resumes_from_its_position():
    domain = default_domain("jargon40", SMALL, seed=0)
    order = {id(e): i for i, e in enumerate(domain.train)}
    whole = DomainSampler(domain, seed=4)
    drawn = [order[id(e)] for _ in range(9) for e in whole.draw(20)]
    assert sorted(drawn[:60]) == sorted(drawn[60:120]) == sorted(drawn[120:]) == list(range(60))
    assert drawn[:60] != drawn[60:120]
    resumed = DomainSampler(domain, seed=4)
    resumed.position = 50
    assert [order[id(e)] for e in resumed.draw(30)] == drawn[50:80]


def test_examples_that_training_cuts_are_counted(base):
    settings = DefaultText(stream=["http"], train_examples=300)
    whole = default_domain("http", settings, 0)
    lengths = [len(base.tokenizer(e.prompt)["input_ids"]) for e in whole.train]
    n_long = sum(length > 40 for length in lengths)
    domain = load_domains(settings, 0, base.token_limit(40))[0]["http"]
    assert 10 < n_long < len(lengths)
    assert domain.notes == (
        f"{n_long} of {len(lengths)} examples are trained on without what is beyond 40 tokens "
        "(finetune.max_tokens)",
    )
    assert domain.train == whole.train
    assert not load_domains(settings, 0, base.token_limit(1024))[0]["http"].notes
