"""Text files of every odd kind: each gives the rows that stand here, or one line with its place."""

from typing import NamedTuple

import pytest

from cloud.text.loading import load_domains
from cloud.text.token_limit import TokenLimit
from hil.contract import TextError
from hil.settings import FileText

# A token a letter, so that nothing depends on a vocabulary.
LETTERS = TokenLimit(
    spans=lambda texts: [[(i, i + 1) for i in range(len(text))] for text in texts], max_tokens=1000
)
SCORE = '{"text": "scored one", "label": 0}\n{"text": "scored two", "label": 1}\n'


class Read(NamedTuple):
    """A file that is read: its name, its bytes, its rows as (text, label) and its notes."""

    name: str
    content: str | bytes
    rows: list[tuple[str, str]]
    notes: list[str] = []  # noqa: RUF012
    changes: dict = {}  # noqa: RUF012


class Refused(NamedTuple):
    """A file that is refused, and the line after the file's name."""

    name: str
    content: str | bytes
    line: str
    changes: dict = {}  # noqa: RUF012


TWO = [("it is fine", "1"), ("it is not", "0")]
READ = [
    Read("plain.tsv", "text\tlabel\nit is fine\t1\nit is not\t0\n", TWO),
    Read("no-end.csv", "text,label\nit is fine,1\nit is not,0", TWO),
    Read("upper.CSV", "text,label\nit is fine,1\nit is not,0\n", TWO),
    Read("bom.csv", b"\xef\xbb\xbftext,label\nit is fine,1\nit is not,0\n", TWO),
    Read("bom.jsonl", b'\xef\xbb\xbf{"text": "it is fine", "label": 1}\n'
         b'{"text": "it is not", "label": 0}\n', TWO),
    Read("crlf.csv", "text,label\r\nit is fine,1\r\nit is not,0\r\n", TWO),
    Read("crlf.jsonl", '{"text":"it is fine","label":1}\r\n{"text":"it is not","label":0}\r\n',
         TWO),
    Read("old-mac.tsv", "text\tlabel\rit is fine\t1\rit is not\t0\r", TWO),
    Read("empty-lines.csv", "\ntext,label\n\nit is fine,1\n   \n\nit is not,0\n\n", TWO),
    Read("columns.csv", "id,label,text,id\n7,1,it is fine,\n8,0,it is not,7\n", TWO),
    Read("headless.tsv", "it is fine\t1\nit is not\t0\n", TWO,
         changes={"columns": ["text", "label"]}),
    Read("u2028.tsv", "text\tlabel\none\u2028two\u2029three\t1\nno\t0\n",
         [("one\u2028two\u2029three", "1"), ("no", "0")]),
    Read("u2028.csv", "text,label\none\u2028two,1\nno,0\n", [("one\u2028two", "1"), ("no", "0")]),
    Read("u2028.jsonl", '{"text": "one\u2028two\x85", "label": 1}\n{"text": "no", "label": 0}\n',
         [("one\u2028two\x85", "1"), ("no", "0")]),
    Read("separators.tsv", "text\tlabel\na\x0bb\x0cc\x1cd\x1de\x1ef\x85g\t1\nno\t0\n",
         [("a\x0bb\x0cc\x1cd\x1de\x1ef\x85g", "1"), ("no", "0")]),
    Read("quoted-newline.csv", 'text,label\n"two\nlines, one text",1\nno,0\n',
         [("two\nlines, one text", "1"), ("no", "0")]),
    Read("quoted-crlf.csv", 'text,label\r\n"two\r\nlines",1\r\nno,0\r\n',
         [("two\r\nlines", "1"), ("no", "0")]),
    Read("doubled.csv", 'text,label\n"he said ""so"" twice",1\n5" disk,0\n',
         [('he said "so" twice', "1"), ('5" disk', "0")]),
    Read("marks.tsv", 'text\tlabel\n"open\t1\n"whole"\t0\n', [('"open', "1"), ('"whole"', "0")]),
    Read("blanks.csv", "text,label\n  two  blanks\t,1\nno,0\n",
         [("  two  blanks\t", "1"), ("no", "0")]),
    Read("emoji.jsonl", '{"text": "\\ud83d\\ude00 \U0001f468\u200d\U0001f469", "label": 1}\n'
         '{"text": "e\u0301", "label": 0}\n',
         [("\U0001f600 \U0001f468\u200d\U0001f469", "1"), ("e\u0301", "0")]),
    Read("chinese.tsv", "text\tlabel\n这部电影很好看\t1\n不好\t0\n",
         [("这部电影很好看", "1"), ("不好", "0")]),
    Read("numbers.jsonl", '{"text": 1e400, "label": 1}\n{"text": 0.10, "label": "0"}\n',
         [("1e400", "1"), ("0.10", "0")]),
    Read("truth.jsonl", '{"text": "yes", "label": true}\n{"text": "no", "label": false}\n',
         [("yes", "true"), ("no", "false")],
         changes={"label_words": {"true": " good", "false": " bad", "0": " bad", "1": " good"}}),
    Read("null-text.jsonl", '{"text": null, "label": 1}\n{"text": "a", "label": 1}\n'
         '{"text": "b", "label": 0}\n', [("a", "1"), ("b", "0")],
         ["1 row of text file null-text.jsonl without text left out; the first is in row 1"]),
    Read("blank-text.csv", 'text,label\na,1\n"x\ny",0\n ,1\n,0\n', [("a", "1"), ("x\ny", "0")],
         ["2 rows of text file blank-text.csv without text left out; the first is in row 4 "
          "(line 5)"]),
    Read("unused.jsonl", '{"text": "a", "label": 1, "id": null, "more": [{"x": "\\ud800"}]}\n'
         '{"text": "b", "label": 0, "id": 3}\n', [("a", "1"), ("b", "0")]),
    Read("unused.csv", b"text,label,note\na,1,caf\xe9\nb,0,\n", [("a", "1"), ("b", "0")]),
    Read("scored.csv", "text,label\nscored  one,0\na,1\nb,0\nscored two,1\n",
         [("a", "1"), ("b", "0")], ["2 examples not trained on: the text is scored"]),
    Read("twice.csv", "text,label\na,1\na,1\nb,0\n", [("a", "1"), ("a", "1"), ("b", "0")]),
    Read("huge.csv", f"text,label\n{'x' * 300_000}end,1\nno,0\n", [("x" * 974 + "end", "1"),
         ("no", "0")],
         ["1 text of text file huge.csv cut at the front to 1000 tokens (finetune.max_tokens); the "
          "first is in row 2"]),
]  # fmt: skip
REFUSED = [
    Refused("empty.tsv", "", "empty"),
    Refused("only-bom.csv", b"\xef\xbb\xbf\n", "empty"),
    Refused("blank.jsonl", " \n\n", "empty"),
    Refused("header.csv", "text,label\n", "no rows below the header"),
    Refused("all-blank.csv", "text,label\n,1\n ,0\n", "no row has text in column 'text'"),
    Refused("latin1.csv", b"text,label\nfine,1\ncaf\xe9,0\n",
            "row 3, column 'text', character 4: byte 0xe9 is not UTF-8"),
    Refused("latin1.jsonl", b'{"text": "caf\xe9", "label": 1}\n',
            "row 1, column 'text', character 4: byte 0xe9 is not UTF-8"),
    Refused("utf16.csv", "text,label\n很好,1\n".encode("utf-16"), "row 1 is UTF-16"),
    Refused("utf16.jsonl", SCORE.encode("utf-16-be"), "row 1 is UTF-16"),
    Refused("nul.tsv", "text\tlabel\nfine\t1\nfi\0ne\t0\n",
            "row 3, column 'text', character 3: a NUL"),
    Refused("nul.csv", "text,label\nfine,1\nfine,\0\n",
            "row 3, column 'label', character 1: a NUL"),
    Refused("nul.jsonl", '{"text": "a\\u0000", "label": 1}\n',
            "row 1, column 'text', character 2: a NUL"),
    Refused("half.jsonl", '{"text": "a", "label": 1}\n{"text": "b \\ud800", "label": 1}\n',
            "row 2, column 'text', character 3: \\ud800 is half of a surrogate pair"),
    Refused("null-label.jsonl", '{"text": "a", "label": null}\n',
            "row 1, column 'label': label '' is not in text.label_words (0, 1)"),
    Refused("no-key.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "lable": 0}\n',
            "row 2: no column 'label'; it has 'text', 'lable'"),
    Refused("no-column.tsv", "x\ty\n1\t2\n", "row 2: no column 'text'; it has 'x', 'y'"),
    Refused("two-columns.csv", "text,label,label\na,1,0\n",
            "row 2, column 'label': two columns have this name"),
    Refused("two-keys.jsonl", '{"text": "a", "text": "b", "label": 1}\n',
            "row 1, column 'text': two columns have this name"),
    Refused("label.csv", 'text,label\n"a\nb",1\nb,7\n',
            "row 3 (line 4), column 'label': label '7'"),
    Refused("few.tsv", "text\tlabel\na\t1\nb\n", "row 3, column 'label': missing"),
    Refused("many.csv", "text,label\na,1\nso, so,0\n", "row 3, column 3: '0' has no column"),
    Refused("tab.tsv", "text\tlabel\na\tb\t1\n", "row 2, column 3: '1' has no column"),
    Refused("open.csv", 'text,label\na,1\n"b,0\nc,1\n', "row 3: a quotation mark is not closed"),
    Refused("after.csv", 'text,label\n"a" b,1\n', "row 2: ',' expected after '\"'"),
    Refused("broken.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "la\n',
            "row 2, character 15: not JSON: Unterminated string"),
    Refused("pretty.jsonl", '{\n  "text": "a"\n}\n', "row 1, character 2: not JSON: Expecting"),
    Refused("list.jsonl", '["a", 1]\n', "row 1 is ['a', '1'], not an object"),
    Refused("inside.jsonl", '{"text": ["a"], "label": 1}\n',
            "row 1, column 'text': holds ['a']; one text or number is needed"),
    Refused("deep.jsonl", "[" * 200_000 + "\n", "row 1: nested too deeply"),
    Refused("one-label.csv", "text,label\na,1\nb,1\n",
            "column 'label': all rows have the label for ' good'", changes={"score_path": ""}),
    Refused("one-text.csv", "text,label\na,1\na,1\n", "1 different text to split",
            changes={"score_path": ""}),
    Refused("same.csv", "text,label\nscored one,0\nscored two,1\n",
            "of 2 examples 0 are left to train on, beside 2 to score on"),
    Refused("text.txt", "hello\n", "unknown ending '.txt'"),
]  # fmt: skip


def load(tmp_path, monkeypatch, name, content, changes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "score.jsonl").write_text(SCORE)
    settings = FileText(
        **{
            "kind": "file",
            "path": name,
            "label_column": "label",
            "score_path": "score.jsonl",
            **changes,
        }
    )
    [domain] = load_domains(settings, 0, LETTERS)[0].values()
    return domain, settings


@pytest.mark.parametrize("file", READ, ids=lambda file: file.name)
def test_a_file_is_read_as_it_stands(tmp_path, monkeypatch, file):
    domain, settings = load(tmp_path, monkeypatch, file.name, file.content, file.changes)
    expected = [(text, settings.label_words[label]) for text, label in file.rows]
    assert [(e.text, e.label_word) for e in domain.train] == expected
    assert [e.prompt for e in domain.train] == [
        f"report: {text}.\nverdict:" for text, _ in file.rows
    ]
    assert list(domain.notes) == file.notes
    domain.score_set.to_bytes()  # what goes to the edge is UTF-8


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.name)
def test_a_file_is_refused_with_one_line(tmp_path, monkeypatch, file):
    with pytest.raises(TextError) as caught:
        load(tmp_path, monkeypatch, file.name, file.content, file.changes)
    line = str(caught.value)
    assert line.startswith(f"text file {file.name}")
    assert file.line in line
    assert line.isprintable()
    assert len(line) < 300


@pytest.mark.parametrize("name", ["gone.csv", "folder.csv"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TextError, match=f"text file .*{name}: .*; set text.path to a TSV"):
        load_domains(FileText(kind="file", path=str(tmp_path / name)), 0, LETTERS)
