"""Score sets as bytes: equal sets have equal names everywhere, different ones never."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from hil.contract import LabelQuestion, ScoreSet

TEXT = ScoreSet(name="a", chunks=("b",))
QUESTION = LabelQuestion(prompt="größer:", labels=(" ja", " nein"), answer=1)
LABELS = ScoreSet(name="labels", questions=(QUESTION,))


def test_the_digest_is_that_of_the_canonical_json():
    # sha256sum of {"chunks":["b"],"name":"a","questions":[]}
    known = "017dec60b8c07201987538b6a9f9ba6ddc1e179433cb8024c216d5284e68f5cc"
    assert TEXT.digest == known


def test_a_set_comes_back_from_its_bytes():
    for score_set in (TEXT, LABELS):
        again = ScoreSet.of(json.loads(score_set.to_bytes()))
        assert again == score_set
        assert again.digest == hashlib.sha256(score_set.to_bytes()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"chunks": ("c",)},
        {"questions": (replace(QUESTION, answer=0),)},
        {"questions": (replace(QUESTION, labels=(" nein", " ja")),)},
    ],
)
def test_every_part_counts(change):
    assert replace(LABELS, **change).digest != LABELS.digest


def test_several_sets_have_one_digest_whatever_their_order():
    assert ScoreSet.digest_of_all([TEXT, LABELS]) == ScoreSet.digest_of_all([LABELS, TEXT])
    assert ScoreSet.digest_of_all([TEXT]) != ScoreSet.digest_of_all([TEXT, LABELS])


def test_another_content_is_an_error():
    for content in ({}, {**asdict(LABELS), "questions": [{"prompt": "x"}]}):
        with pytest.raises(KeyError):
            ScoreSet.of(content)
