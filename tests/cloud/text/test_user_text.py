"""A user's text as a domain: what is scored is never trained on, and what is left out is said."""

import json
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from cloud.text.loading import load_domains
from hil.contract import TextError
from hil.settings import FileText, HubText


@pytest.fixture
def load(tmp_path, base):
    """Loads rows as the only domain of a JSONL file."""

    def loaded(rows, *, score=None, seed=0, max_tokens=64, **changes):
        path, score_path = tmp_path / "text.jsonl", tmp_path / "score.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if score is not None:
            score_path.write_text("".join(json.dumps(row) + "\n" for row in score))
            changes["score_path"] = str(score_path)
        settings = FileText(kind="file", path=str(path), **changes)
        domains, stream = load_domains(settings, seed, base.token_limit(max_tokens))
        assert stream == ["text"]
        return domains["text"]

    return loaded


def labelled(texts_and_labels):
    return [{"text": text, "label": label} for text, label in texts_and_labels]


@pytest.mark.parametrize("seed", range(5))
def test_no_text_is_on_both_sides_however_often_it_stands_in_the_file(load, seed):
    rng = np.random.default_rng(seed)
    rows = [(f"number {i}", int(i % 4 == 0)) for i in range(200)]
    rows += [(text.replace(" ", "  "), label) for text, label in rows[:60]]
    rows += [rows[i] for i in rng.integers(len(rows), size=100)]
    order = rng.permutation(len(rows))
    rows = [rows[i] for i in order]
    domain = load(labelled(rows), seed=seed, label_column="label")
    scored = [" ".join(q.prompt.split()) for q in domain.score_set.questions]
    trained = Counter(" ".join(e.prompt.split()) for e in domain.train)
    assert not set(scored) & set(trained)
    assert len(set(scored)) == len(scored) == 20
    assert len(set(trained)) == 180
    # every other row is still there, as often as it stands in the file
    distinct = Counter(f"report: {' '.join(text.split())}. verdict:" for text, _ in rows)
    assert trained == Counter({key: n for key, n in distinct.items() if key not in scored})
    left_out = sum(distinct[key] - 1 for key in scored)
    assert list(domain.notes) == (
        [f"{left_out} example{'s' * (left_out > 1)} not trained on: the text is scored"]
        if left_out
        else []
    )
    # a quarter of the texts has the label 1, and so has what is scored
    assert sum(q.answer for q in domain.score_set.questions) == 5
    again = load(labelled(rows), seed=seed, label_column="label")
    assert again == domain
    assert load(labelled(rows), seed=seed + 9, label_column="label") != domain


def test_a_text_with_two_labels_is_not_scored(load):
    rows = [("unclear", 0), ("unclear", 1), ("one", 0), ("two", 1), ("three", 1)]
    for seed in range(6):
        domain = load(labelled(rows), seed=seed, label_column="label", prompt="{text}")
        assert "unclear" not in [q.prompt for q in domain.score_set.questions]
        assert [e.text for e in domain.train].count("unclear") == 2
        assert domain.notes[0] == "1 text with different labels trained on, but not scored"


def test_texts_of_the_score_file_are_taken_out_of_training_and_all_of_them_scored(load):
    score = labelled([("b", 0), ("b", 0), ("x", 1)])
    train = labelled([("a", 1), ("b", 0), (" b ", 0), ("c", 0)])
    domain = load(train, score=score, label_column="label", prompt="{text}")
    assert [e.text for e in domain.train] == ["a", "c"]
    assert [q.prompt for q in domain.score_set.questions] == ["b", "b", "x"]
    assert domain.notes == ("2 examples not trained on: the text is scored",)


def test_long_texts_that_are_the_same_once_cut_are_one_text(load):
    rows = [(f"{i} " + "word " * 60 + "the end", 1) for i in range(30)]
    for seed in range(4):
        domain = load(labelled([*rows, ("a", 0), ("b", 0)]), seed=seed, label_column="label")
        [question] = domain.score_set.questions
        assert question.prompt not in [e.prompt for e in domain.train]
        assert domain.notes[0].startswith("30 texts of text file")
        assert "cut at the front to 64 tokens" in domain.notes[0]


def test_what_is_scored_is_spread_over_a_file_that_is_sorted(load):
    score = labelled((f"s{i}", int(i >= 50)) for i in range(100))
    train = labelled((f"t{i}", i % 2) for i in range(4))
    domain = load(train, score=score, label_column="label", score_examples=10)
    assert [q.answer for q in domain.score_set.questions] == [0] * 5 + [1] * 5
    assert domain.notes == ("scored on 10 of 100 examples, evenly spread (text.score_examples)",)
    many = labelled((f"t{i}", i % 2) for i in range(400))
    assert len(load(many, label_column="label", score_examples=8).score_set.questions) == 8


def test_a_label_that_is_only_scored_and_one_that_is_all_that_is_scored_are_named(load):
    train = labelled([("a", 0), ("b", 0)])
    domain = load(train, score=labelled([("x", 1)]), label_column="label")
    assert domain.notes == (
        "scored on the label word ' good', which no example to train on has",
        "all that is scored has the label word ' good'",
    )


def test_labels_may_share_a_word(load):
    words = {"1": " bad", "2": " bad", "5": " good"}
    rows = labelled([("a", 1), ("b", 2), ("c", 5)])
    domain = load(rows, score=labelled([("d", 5)]), label_column="label", label_words=words)
    assert [e.label_word for e in domain.train] == [" bad", " bad", " good"]
    assert domain.score_set.questions[0].labels == (" bad", " good")
    assert domain.score_set.questions[0].answer == 1


def test_plain_text_is_cut_into_pieces_as_it_stands(load):
    poem = "  one two\n\n  three   four\t five\n" * 10
    rows = [{"text": poem}, {"text": "x"}, {"text": "fine work"}]
    domain = load(rows, score=[{"text": "others, and more"}], max_tokens=256)
    chunks = [e.prompt for e in domain.train]
    assert all(chunk in poem for chunk in chunks[:2])
    assert [len(chunk.split()) for chunk in chunks[:2]] == [32, 18]
    assert " ".join(chunks[:2]).split() == poem.split()
    assert chunks[2:] == ["fine work"]
    assert len(domain.notes) == 1
    assert domain.notes[0].startswith("1 chunk of text file")
    assert domain.notes[0].endswith("of a single token left out; the first is in row 2")


def test_a_chunk_that_is_scored_is_trained_on_nowhere(load):
    licence = " ".join(f"licence{i}" for i in range(32))
    rows = [{"text": f"{licence} text number {i}"} for i in range(40)]
    domain = load(rows, max_tokens=256)
    scored = set(domain.score_set.chunks)
    assert licence in scored
    assert not scored & {e.text for e in domain.train}
    assert len(domain.score_set.chunks) == len(scored) == 5
    assert domain.notes == ("39 examples not trained on: the text is scored",)


def test_a_text_without_blanks_is_trained_on_and_scored(load, base):
    line = "".join(chr(0x4E00 + i) for i in range(300))
    domain = load([{"text": line[i:] + line[:i]} for i in range(12)], max_tokens=32)
    lengths = base.token_limit(32).count([e.prompt for e in domain.train])
    assert max(lengths) <= 32
    assert min(lengths) > 16
    assert len(domain.score_set.chunks) > 10
    assert not domain.notes
    text = labelled((line[i:] + line[:i], i % 2) for i in range(12))
    domain = load(text, max_tokens=32, label_column="label")
    assert all(line.endswith(e.text) or e.text in line * 2 for e in domain.train)
    assert domain.notes[0].startswith("12 texts of text file")


def test_a_prompt_or_label_words_that_do_not_fit_are_refused(load):
    rows, prompt = labelled([("a", 0), ("b", 1)]), "word " * 60 + "{text}"
    with pytest.raises(TextError, match=r"text.prompt: \d+ tokens with the label word ' bad'"):
        load(rows, label_column="label", prompt=prompt)
    words = {f"{i}": f" a long name, number {i}" for i in range(64)}
    with pytest.raises(TextError, match=r"text.label_words: 64 words of several tokens, .* 63"):
        load(rows, label_column="label", label_words=words)


def test_a_data_set_by_name(monkeypatch, base):
    asked = []

    def load_dataset(name, subset):
        asked.append((name, subset))
        return {
            "train": [
                {"text": "it is fine", "label": 1},
                {"text": None, "label": 0},
                {"text": "it is bad", "label": 0},
            ],
            "validation": [{"text": "it is not", "label": False}],
        }

    fake = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=RuntimeError)
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    words = {"0": " bad", "1": " good", "false": " bad"}
    settings = HubText(kind="hub", name="me/mood", label_column="label", label_words=words)
    domain = load_domains(settings, 0, base.token_limit(64))[0]["mood"]
    assert asked == [("me/mood", None)]
    assert [e.label_word for e in domain.train] == [" good", " bad"]
    assert domain.score_set.questions[0].answer == 0
    assert domain.notes[0] == (
        "1 row of data set 'me/mood', train without text left out; the first is in row 2"
    )
    with pytest.raises(TextError, match=r"data set 'me/mood' cannot be loaded: 'test'"):
        load_domains(settings.model_copy(update={"score_split": "test"}), 0, base.token_limit(64))


def test_a_data_set_without_its_package(monkeypatch, base):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextError, match="pip install datasets"):
        load_domains(HubText(kind="hub", name="someone/mood"), 0, base.token_limit(64))
