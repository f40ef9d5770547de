"""A run's verdict: what an expression asks for, and which runs meet it."""

import math

import pytest

from hil.contract import ConfigError
from hil.reporting.verdict import DEFAULT, missed, parse_requirement


def row(status="installed", delivered=True, gain=0.1, score=0.6):
    return {
        "edge.status": status,
        "link.delivered": delivered,
        "edge.gain": gain,
        "edge.score": score,
    }


LOST = row("refused", delivered=False, gain=-0.02, score=0.4)
KEPT = row("kept", delivered=False)
TURNED_DOWN = row("refused", delivered=True)


def meets(text, *rows):
    return not missed(parse_requirement(text), rows)


@pytest.mark.parametrize(
    ("text", "rows", "met"),
    [
        (DEFAULT, [row(), LOST, LOST], True),
        (DEFAULT, [LOST, LOST], False),
        (DEFAULT, [], False),
        (DEFAULT, [KEPT], True),
        ("installed>=1", [KEPT, TURNED_DOWN], False),
        ("delivered>=2", [KEPT, TURNED_DOWN], True),
        ("delivered>=0.5", [row(), LOST], True),
        ("delivered>0.5", [row(), LOST], False),
        ("delivered>=.75", [row(), row(), row(), LOST], True),
        ("installed==3", [row(), row(), row(), LOST], True),
        ("installed<=2", [row(), row(), row()], False),
        ("delivered<1", [LOST], True),
        ("delivered>0", [LOST], False),
        ("installed >= 1 , gain > 0", [row()], True),
        ("installed>=1,gain>0", [row(), row(gain=-0.1)], False),
        ("gain>=-0.5", [row(gain=-0.1)], True),
        ("score>=0.6", [row(score=0.1), row(score=0.6)], True),
        ("score>=0.6", [row(score=0.9), row(score=0.5)], False),
        ("none", [LOST], True),
    ],
)
def test_which_runs_meet_which_requirement(text, rows, met):
    assert meets(text, *rows) is met


@pytest.mark.parametrize("unmeasured", [math.nan, None])
def test_a_figure_that_was_not_measured_meets_nothing(unmeasured):
    for text in ("score>=0", "score<1"):
        [line] = missed(parse_requirement(text), [row(score=unmeasured)])
        assert line == f"{text} is required; score was not measured"


def test_what_was_missed_is_said_in_figures():
    terms = parse_requirement("delivered>=0.9,installed>=4,gain>0.2")
    assert missed(terms, [row(), row(), LOST, KEPT]) == [
        "delivered>=0.9 is required; 3 of 4 rounds were delivered",
        "installed>=4 is required; 2 of 4 rounds were installed",
        "gain>0.2 is required; the last round's gain is 0.1",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("delivered", "'delivered'"),
        ("delivered>=", "'delivered>='"),
        ("arrived>=1", "'arrived>=1'"),
        ("delivered>=1,", "''"),
        ("delivered>=1,gain=>0", "'gain=>0'"),
        ("delivered>=1 gain>0", "'delivered>=1 gain>0'"),
        ("delivered!=1", "'delivered!=1'"),
        ("delivered>=1e9", "'delivered>=1e9'"),
        ("delivered>=nan", "'delivered>=nan'"),
        ("none,gain>0", "'none'"),
    ],
)
def test_a_term_that_cannot_be_read_is_named_with_what_is_allowed(text, part):
    with pytest.raises(ConfigError) as caught:
        parse_requirement(text)
    message = str(caught.value)
    assert f"cannot read {part};" in message
    assert "installed|delivered|gain|score" in message
    assert "\n" not in message
