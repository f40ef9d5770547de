"""The terminal on which the wheel's verbs are watched."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from on_terminal import on_terminal  # noqa: E402 - beside this file

# Python 3.12 warns of threads (here the tests' own) beside a fork; exec follows at once
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def watched(code, tmp_path, **options):
    return on_terminal(
        [sys.executable, "-c", code],
        columns=80,
        folder=tmp_path,
        environment=os.environ,
        **{"deadline_s": 60, **options},
    )


def test_lines_are_seen_as_they_stood(tmp_path):
    code = (
        "import os; print('\\x1b[1m' + 'a' * os.get_terminal_size().columns + '\\x1b[0m'); "
        "print('12345\\r67'); raise SystemExit(3)"
    )
    shown = watched(code, tmp_path)
    assert shown.code == 3
    assert shown.widest == "a" * 80
    assert shown.lines == ["a" * 80, "12345", "67", ""]
    assert shown.first_s <= shown.took_s


def test_ctrl_c_reaches_the_program(tmp_path):
    code = (
        "import time\n"
        "try:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: raise SystemExit(130)\n"
    )
    assert watched(code, tmp_path, enough=lambda text: "ready" in text).code == 130


def test_a_program_past_its_deadline_is_ended(tmp_path):
    assert watched("import time; time.sleep(60)", tmp_path, deadline_s=0.3).code == -9
