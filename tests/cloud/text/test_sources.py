"""Text sources: the default domains, files by path, and their errors."""

import json
import sys
from types import SimpleNamespace

import pytest

from cloud.text.library_docs import HELD_OUT, package_prose
from cloud.text.sources import DomainSampler, default_domain, load_domains
from hil.contract import TextError
from hil.settings import DefaultText, FileText, HubText

SMALL = DefaultText(train_examples=60, score_examples=20)


def test_stream_dwells_on_each_domain_in_turn():
    settings = DefaultText(
        stream=["jargon40", "known"], dwell=2, train_examples=8, score_examples=4
    )
    domains, stream = load_domains(settings, seed=0)
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


ROWS = [("it worked\tas it should", "1"), ('a "quoted, bit', "0"), ("so, so", "0"), ("fine", "1")]


def _write(tmp_path, kind):
    path = tmp_path / f"text.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"text": t, "label": int(y)}) for t, y in ROWS))
    elif kind == "csv":
        path.write_text(
            "text,label\n" + "\n".join('"' + t.replace('"', '""') + f'",{y}' for t, y in ROWS)
        )
    else:
        path.write_text("\n".join(f"{t.replace(chr(9), ' ')}\t{y}" for t, y in ROWS))
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_files_give_their_rows(tmp_path, kind):
    path = _write(tmp_path, kind)
    columns = ["text", "label"] if kind == "tsv" else []
    settings = FileText(
        kind="file", path=str(path), score_path=str(path), label_column="label", columns=columns
    )
    domains, stream = load_domains(settings, seed=0)
    domain = domains["text"]
    assert stream == ["text"]
    assert [(e.text.replace("\t", " "), e.label_word) for e in domain.train] == [
        (t.replace("\t", " "), {"0": " bad", "1": " good"}[y]) for t, y in ROWS
    ]
    assert domain.train[2].prompt == "report: so, so.\nverdict:"
    assert [q.answer for q in domain.score_set.questions] == [1, 0, 0, 1]


def test_text_without_labels_is_language_model_text(tmp_path):
    path = _write(tmp_path, "jsonl")
    domains, _ = load_domains(FileText(kind="file", path=str(path), score_path=str(path)), seed=0)
    # "fine" alone leaves nothing to predict
    assert domains["text"].score_set.chunks == (
        "it worked as it should",
        'a "quoted, bit',
        "so, so",
    )
    assert [e.prompt for e in domains["text"].train] == list(domains["text"].score_set.chunks)


def test_a_tenth_is_held_out_without_a_score_file(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"number {i}"}) for i in range(50)))
    domain = load_domains(FileText(kind="file", path=str(path)), seed=0)[0]["text"]
    assert len(domain.train) == 45
    assert {e.text for e in domain.train} | set(domain.score_set.chunks) == {
        f"number {i}" for i in range(50)
    }


def test_long_texts_are_cut(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": " ".join(f"w{i}" for i in range(300)), "label": 1}) + "\n")
    files = {"kind": "file", "path": str(path), "score_path": str(path)}
    prose = load_domains(FileText(**files), seed=0)[0]["long"]
    assert [len(e.text.split()) for e in prose.train] == [32] * 9 + [12]
    labelled = load_domains(FileText(**files, label_column="label", prompt="{text} {?}"), seed=0)[
        0
    ]["long"]
    assert labelled.train[0].prompt.split() == [*(f"w{i}" for i in range(180, 300)), "{?}"]


def test_a_data_set_by_name(monkeypatch):
    asked = []

    def load_dataset(name, subset):
        asked.append((name, subset))
        return {
            "train": [{"text": "it is fine", "label": 1}],
            "validation": [{"text": "it is not", "label": 0}],
        }

    fake = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=RuntimeError)
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    domains, _ = load_domains(
        HubText(kind="hub", name="someone/mood", label_column="label"), seed=0
    )
    assert asked == [("someone/mood", None)]
    assert domains["mood"].train[0].label_word == " good"
    assert domains["mood"].score_set.questions[0].answer == 0
    with pytest.raises(TextError, match=r"data set 'someone/mood' cannot be loaded: 'test'"):
        load_domains(HubText(kind="hub", name="someone/mood", score_split="test"), seed=0)


def test_a_data_set_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextError, match="pip install datasets"):
        load_domains(HubText(kind="hub", name="someone/mood"), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("a.tsv", "x\ty\n1\t2\n3\t4\n", {}, r"no column 'text'; it has 'x', 'y'"),
        (
            "a.tsv",
            "text\tlabel\nfine\t7\nbad\t7\n",
            {"label_column": "label"},
            r"label '7' is not in text.label_words \(0, 1\)",
        ),
        ("a.tsv", "text\tlabel\nfine\n", {}, r"line 2 has 1 columns, not 2"),
        ("a.jsonl", "", {}, r"empty"),
        ("a.jsonl", "  \n", {}, r"empty"),
        ("a.jsonl", "{]\n", {}, r"line 1 is not JSON"),
        ("a.jsonl", "[1]\n", {}, r"line 1 is not a JSON object"),
        ("a.txt", "hello\n", {}, r"unknown ending '.txt'"),
        ("a.csv", "text\n", {}, r"0 rows to train on"),
        ("a.csv", None, {}, r"No such file"),
        ("a.csv", b"\xff\xfe", {}, r"not UTF-8 at byte 0"),
    ],
)
def test_bad_files_get_one_line(tmp_path, name, content, changes, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TextError, match=message) as caught:
        load_domains(FileText(kind="file", path=str(path), **changes), seed=0)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
