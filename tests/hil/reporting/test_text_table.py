"""Plain tables: alignment, wrapping, and a width that holds."""

import pytest
from rich.cells import cell_len

from hil.reporting.text_table import TextTable

TABLE = TextTable(
    heads=("fault", "n", "resumed after"),
    rows=(("lost block", "12", "0.4 s"), ("context lost while sending a burst", "3", "10.4 s")),
    title="15 of 15 radio faults",
    notes=("A sentence that stands below the table and is long enough to be folded.",),
    text_columns=("fault",),
)


def test_numbers_stand_flush_right_and_texts_flush_left():
    assert TABLE.lines(80)[:6] == [
        "15 of 15 radio faults",
        "                                        resumed",
        "fault                                n    after",
        "----------------------------------  --  -------",
        "lost block                          12    0.4 s",
        "context lost while sending a burst   3   10.4 s",
    ]


def test_a_narrow_table_wraps_its_texts():
    assert TABLE.lines(30) == [
        "15 of 15 radio faults",
        "                       resumed",
        "fault               n    after",
        "-----------------  --  -------",
        "lost block         12    0.4 s",
        "context lost        3   10.4 s",
        "while sending a",
        "burst",
        "A sentence that stands below",
        "the table and is long enough",
        "to be folded.",
    ]


@pytest.mark.parametrize("width", [28, 30, 40, 60, 80, 160])
def test_no_line_is_wider_and_no_word_is_lost(width):
    lines = TABLE.lines(width)
    assert max(map(cell_len, lines)) <= width
    shown = " ".join(lines).split()
    for cell in [*TABLE.heads, *(cell for row in TABLE.rows for cell in row)]:
        for word in cell.split():
            assert word in shown


def test_the_console_translates_before_anything_is_measured():
    table = TextTable(heads=("gain",), rows=(("+1.0 ± 0.2",), ("+10.0 ± 0.2",)))
    assert table.lines(80, lambda text: text.replace("±", "+-")) == [
        "        gain",
        "------------",
        " +1.0 +- 0.2",
        "+10.0 +- 0.2",
    ]
