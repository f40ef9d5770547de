"""The console: no line wider than 80, no escape codes on a pipe, no sign that it cannot write."""

from __future__ import annotations

import io
import math
from typing import ClassVar

import pytest

from hil.reporting.text_table import TextTable
from hil.system.waits import waiting_for
from hil.verbs.console.endings import complain
from hil.verbs.console.round_lines import HEAD, round_lines
from hil.verbs.console.signs import mend_streams, printable
from hil.verbs.console.terminal import Screen

ROW = {
    "round.id": 12345,
    "text.domain": "logging+xml",
    "link.snr_db": -10.25,
    "link.delivered": True,
    "link.airtime_s": 359.9876,
    "plan.rank.a": 64,
    "payload.bytes": 12_345_678,
    "edge.status": "installed",
    "edge.reason": "",
    "edge.score": 1.0,
    "edge.loss_nats_per_token": 12.345,
    "edge.gain": -0.987,
    "edge.gain_std_error": 0.123,
}


@pytest.fixture
def pipes(monkeypatch):
    """stdout and stderr as pipes of an encoding; their texts."""

    def make(encoding):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr("sys.stdout", streams[0])
        monkeypatch.setattr("sys.stderr", streams[1])
        monkeypatch.delenv("COLUMNS", raising=False)
        mend_streams()

        def texts():
            for stream in streams:
                stream.flush()
            return [stream.buffer.getvalue().decode(encoding) for stream in streams]

        return texts

    return make


def test_a_console_without_signs_gets_readable_ones(pipes):
    texts = pipes("ascii")
    print("0 ≤ Δ × 2 … ± 1 · µ → é")
    assert texts()[0] == "0 <= delta  x 2 ... +- 1 - u -> ?\n"


def test_a_console_that_knows_the_signs_gets_them(pipes):
    texts = pipes("utf-8")
    print("0 ≤ Δ × 2 … ± 1 · µ → é")
    assert texts()[0] == "0 ≤ Δ × 2 … ± 1 · µ → é\n"


def test_text_from_outside_cannot_steer_the_terminal():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert printable("gone\x1b[2J\x07\r up\nnext", stream) == "gone?[2J?? up\nnext"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_sentences_tables_and_rounds_keep_to_80_columns(pipes, encoding):
    texts = pipes(encoding)
    screen = Screen()
    words = " ".join(f"{'word' * (k % 5 + 1)}±" for k in range(60))
    screen.say(words)
    screen.show(
        TextTable(
            heads=("a", "b ± c"),
            rows=[(words, "1 ± 2"), ("x", "3")],
            text_columns=("a",),
            title=words,
        )
    )
    screen.show_head()
    screen.show_round(ROW)
    screen.show_round(ROW | {"edge.reason": words, "text.domain": "a-domain-with-a-long-name"})
    screen.wait(words)
    for text in texts():
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text
        for word in words.replace("±", "+-" if encoding == "ascii" else "±").split():
            assert word in text


def test_the_head_stands_over_its_columns():
    [line] = round_lines(ROW | {"round.id": 1, "payload.bytes": 12300, "link.airtime_s": 0.25})
    assert HEAD[1] == "round domain         dB rank      kB       s  update      score    gain"
    assert line == "    1 logging+xml -10.2 64.0    12.3   0.250  installed 100.0 %   -98.7 ± 12.3"
    for head, end in (("dB", 23), ("rank", 28), ("kB", 36), ("s ", 44)):
        assert HEAD[1].index(head) + len(head.strip()) == end
        assert line[end - 1] != " "
        assert line[end] == " "


def test_plain_text_shows_losses_and_a_round_without_a_plan_says_keep():
    [line] = round_lines(
        ROW
        | {"round.id": 0, "edge.score": math.nan, "edge.gain": 0.0213, "edge.gain_std_error": 0.004}
        | {"plan.rank.a": "keep", "payload.bytes": 0, "link.airtime_s": 0.002}
        | {"edge.status": "kept", "link.snr_db": math.nan}
    )
    assert line == "    0 logging+xml     – keep     0.0   0.002  kept       12.345  +0.021 ± 0.004"


def test_a_turned_down_update_was_delivered():
    lines = round_lines(ROW | {"edge.reason": "norm 41 is above 30", "edge.status": "refused"})
    assert lines[1] == "      norm 41 is above 30"


def test_waits_are_lines_of_stderr_and_results_of_stdout(pipes):
    texts = pipes("utf-8")
    screen = Screen()
    with screen.at_work("the first step") as bar:
        waiting_for("opening the model")
        bar.count(1, 2, "half")
        bar.advance()
        bar.reach(7)
        screen.say("a result")
    waiting_for("nobody")
    assert texts() == ["a result\n", "opening the model ...\n1/2  half\n"]


class HandTimer:
    """A timer that goes off when it is told."""

    made: ClassVar[list[HandTimer]] = []

    def __init__(self, seconds, function, arguments):
        self.seconds, self.go_off = seconds, lambda: function(*arguments)
        self.started = self.cancelled = False
        self.made.append(self)

    def start(self):
        self.started = True

    def cancel(self):
        self.cancelled = True


def test_a_stage_is_named_on_a_pipe_only_when_it_takes_long(pipes, monkeypatch):
    texts = pipes("utf-8")
    monkeypatch.setattr("hil.verbs.console.terminal.threading.Timer", HandTimer)
    HandTimer.made.clear()
    with Screen().at_work("opening") as bar:
        for stage in ("training", "sending", "scoring"):
            bar.describe(stage)
        opening, training, sending, scoring = HandTimer.made
        assert all(timer.started and timer.seconds == 2 for timer in HandTimer.made)
        assert all(timer.cancelled for timer in (opening, training, sending))
        assert not scoring.cancelled
        scoring.go_off()
    assert scoring.cancelled
    assert texts()[1] == "scoring ...\n"


def test_figures_stand_in_two_columns(pipes):
    texts = pipes("utf-8")
    Screen().figures({"a_s": 0.123456, "swaps": 200, "long.name_s": 1e-9})
    assert texts()[0] == "a_s          0.1235\nswaps        200\nlong.name_s  1e-09\n"


def test_a_path_is_never_broken(pipes):
    texts = pipes("utf-8")
    path = "/a" * 60
    Screen().file("report", path)
    Screen().say(f"see {path} for more")
    assert texts()[0].split() == ["report:", path, "see", path, "for", "more"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_complaint_is_wrapped_on_a_terminal_and_one_line_elsewhere(monkeypatch, capsys, terminal):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    complain("radio.kind = 'loopback': " + "it hears no other process; " * 5)
    printed = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 80 for line in printed) == terminal
    assert (len(printed) == 1) != terminal
    assert printed[0].startswith("hil: radio.kind = 'loopback': it hears")
