"""Announcements of waits: heard inside the block alone, and by every listener."""

import logging

from hil.system.waits import heard, waiting_for


def test_announcements_are_heard_until_the_block_ends():
    lines = []
    waiting_for("before")
    with heard(lines.append):
        waiting_for("opening the model")
    waiting_for("after")
    assert lines == ["opening the model ..."]


def test_a_silent_root_logger_does_not_hide_them_and_levels_are_put_back():
    logger = logging.getLogger("hil.waits")
    before = logger.level
    logging.getLogger("hil").setLevel(logging.ERROR)
    lines = []
    try:
        with heard(lines.append), heard(lines.append):
            waiting_for("loading llama.cpp")
    finally:
        logging.getLogger("hil").setLevel(logging.NOTSET)
    assert lines == ["loading llama.cpp ..."] * 2
    assert logger.level == before
    assert logger.handlers == []
