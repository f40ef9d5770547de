"""A column of a CSV file, and what it says at a time."""

from pathlib import Path

import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel.trace import Trace, read_column, read_trace

WIDE = (-100.0, 100.0)


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"t,snr_db\n0,1.5\n1,-2\n",
        b"\xef\xbb\xbft,snr_db\r\n0,1.5\r\n\r\n1,-2\r\n",
        b't; snr_db \n0; "1.5"\n1; -2',
        b"t\tsnr_db\n0\t1.5\n1\t-2\n\n",
    ],
)
def test_files_of_every_program_are_read(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content)
    assert read_column(path, "snr_db", WIDE).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"t,snr_db\n0,1\n1,\n", r"row 3, column 'snr_db' is ''; it must be a finite number"),
        (b"t,snr_db\n0,nan\n", r"row 2, column 'snr_db' is 'nan'"),
        (b"t,snr_db\n0,12 dB\n", r"row 2, column 'snr_db' is '12 dB'; .* unit in the column's"),
        (b"t,snr_db\n0,1_2\n", r"row 2, column 'snr_db' is '1_2'"),
        (b"t,snr_db\n0\n", r"row 2, column 'snr_db' is ''"),
        (b"t,snr_db\n\n0,1\n0,101\n", r"row 4, column 'snr_db' is 101; .* within -100 and 100"),
        (b"t,snr\n0,1\n", r"0 columns are named 'snr_db', one must be; .* t, snr"),
        (b"snr_db,snr_db\n0,1\n", r"2 columns are named 'snr_db'"),
        (b"", r"0 columns are named 'snr_db'.* none"),
        (b"t,snr_db\n", r"no row below the names"),
        (b"t,snr_db\n\xff\xfe,1\n", r"not UTF-8"),
    ],
)
def test_a_bad_cell_is_named_by_file_row_and_column(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=rf"trace\.csv: {message}") as caught:
        read_column(path, "snr_db", WIDE)
    assert "\n" not in str(caught.value)


def test_times_count_from_the_first_and_must_rise(tmp_path: Path) -> None:
    path = write(tmp_path, b"t,x\n1700000000.0,1\n1700000000.5,2\n1700000002.0,3\n")
    trace = read_trace(path, "x", "t", WIDE, loops=False)
    assert trace.times_s.tolist() == [0.0, 0.5, 2.0]
    path = write(tmp_path, b"t,x\n0,1\n0,2\n")
    with pytest.raises(ConfigError, match=r"row 3, column 't' is 0\.0 after 0\.0; times must"):
        read_trace(path, "x", "t", WIDE, loops=False)
    with pytest.raises(ConfigError, match=r"no\.csv: No such file .*; name a CSV file"):
        read_trace(tmp_path / "no.csv", "x", "t", WIDE, loops=False)


def test_a_value_holds_until_the_next_and_the_last_as_long_as_the_one_before() -> None:
    times, values = np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 7.0])
    once, again = (Trace(times_s=times, values=values, loops=loops) for loops in (False, True))
    assert once.duration_s == 5.0
    assert once.at([-1.0, 0.0, 0.99, 1.0, 4.9, 9.0]).tolist() == [5, 5, 5, 6, 7, 7]
    assert again.at([4.9, 5.0, 6.5, 14.0]).tolist() == [7, 5, 6, 7]
    assert once.limits(0.5, 2.0) == (5.0, 6.0)
    assert once.limits(1.5, 2.0) == (6.0, 6.0)
    assert again.limits(3.5, 5.5) == (5.0, 7.0)
    single = Trace(times_s=np.zeros(1), values=np.array([4.0]), loops=True)
    assert single.at([0.0, 1e9]).tolist() == [4.0, 4.0]
    assert single.limits(0.0, 1e9) == (4.0, 4.0)
