"""A run folder survives what happens to runs: crashes, Ctrl-C, cut lines, two runs in one
second."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from hil.reporting.run_folder import RunLog, Value, comparable, git_state, read_run

GIT = shutil.which("git")
NOON = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)


def _create(out_dir: Path, **fields: object) -> RunLog:
    return RunLog.create(
        out_dir, "demo", config_toml="[run]\nseed = 7\n", manifest=fields, now_utc=NOON
    )


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows: list[dict[str, Value]] = [
        {
            "round.id": 0,
            "text.domain": "Füße",
            "link.snr_db": 0.1 + 0.2,
            "link.delivered": True,
            "plan.rank.a.b": "keep",
        },
        {
            "round.id": 1,
            "text.domain": "",
            "link.snr_db": -7.25,
            "link.delivered": False,
            "plan.rank.a.b": 3,
        },
    ]
    with _create(tmp_path) as log:
        for row in rows:
            log.write_round(row)
    run = read_run(log.folder)
    assert run.rows == rows
    assert [type(v) for v in run.rows[1].values()] == [type(v) for v in rows[1].values()]
    assert run.config_toml == "[run]\nseed = 7\n"
    assert (run.name, run.outcome, run.truncated) == ("demo", "finished", False)
    assert run.manifest["rounds"] == 2


def test_each_round_is_on_the_disk_as_one_line_before_the_next(tmp_path: Path) -> None:
    with _create(tmp_path) as log:
        for number in range(1, 4):
            log.write_round({"round.id": number, "text.domain": "two\nlines"})
            assert (log.folder / "rounds.jsonl").read_bytes().count(b"\n") == number
            assert len(read_run(log.folder).rows) == number
            assert read_run(log.folder).outcome == "running"


def test_rounds_and_manifest_are_flushed_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power may fail after any round; what only the system's memory holds would be gone."""
    flushed: list[tuple[int, int]] = []
    flush = os.fsync

    def recorded_flush(descriptor: int) -> None:
        state = os.fstat(descriptor)
        flushed.append((state.st_ino, state.st_size))
        flush(descriptor)

    with _create(tmp_path) as log:
        monkeypatch.setattr(os, "fsync", recorded_flush)
        for number in range(3):
            log.write_round({"round.id": number})
            on_disk = (log.folder / "rounds.jsonl").stat()
            assert flushed == [(on_disk.st_ino, on_disk.st_size)]
            flushed.clear()
        log.describe({})
        manifest = (log.folder / "manifest.json").stat()
        assert flushed[:1] == [(manifest.st_ino, manifest.st_size)]


def test_a_reader_never_meets_half_a_manifest(tmp_path: Path) -> None:
    with _create(tmp_path) as log, (log.folder / "manifest.json").open() as opened_before:
        log.describe({"emulated": ["a radio"]})
        assert "emulated" not in json.load(opened_before)
        assert read_run(log.folder).manifest["emulated"] == ["a radio"]


def test_numbers_that_are_not_finite_are_written_as_null_and_read_as_nan(tmp_path: Path) -> None:
    with _create(tmp_path) as log:
        log.write_round(
            {
                "a": math.nan,
                "b": math.inf,
                "c": -math.inf,
                "d": None,
                "e": np.float32("nan"),
                "f": 1.5,
            }
        )
    line = (log.folder / "rounds.jsonl").read_text()
    assert json.loads(line) == {"a": None, "b": None, "c": None, "d": None, "e": None, "f": 1.5}
    (row,) = read_run(log.folder).rows
    assert row.pop("f") == 1.5
    assert all(isinstance(value, float) and math.isnan(value) for value in row.values())


def test_numpy_scalars_are_written_as_plain_numbers(tmp_path: Path) -> None:
    with _create(tmp_path) as log:
        log.write_round({"a": np.int64(3), "b": np.float64(0.25), "c": np.bool_(True)})
    assert (log.folder / "rounds.jsonl").read_text() == '{"a": 3, "b": 0.25, "c": true}\n'


@pytest.mark.parametrize("value", [[1, 2], {"x": 1}, np.zeros(2), b"bytes"])
def test_a_row_is_flat(tmp_path: Path, value: object) -> None:
    with _create(tmp_path) as log:
        with pytest.raises(TypeError, match=r"link\.blocks"):
            log.write_round({"link.blocks": value})  # type: ignore[dict-item]
        assert read_run(log.folder).rows == []


def test_columns_of_a_run(tmp_path: Path) -> None:
    with _create(tmp_path) as log:
        log.write_round({"x": 1, "word": "a", "rank.m": "keep", "ok": True})
        log.write_round({"x": None, "rank.m": 2, "rank.n": 4})
    run = read_run(log.folder)
    np.testing.assert_array_equal(run.numbers("x"), [1, math.nan])
    np.testing.assert_array_equal(run.numbers("rank.m"), [math.nan, 2])
    np.testing.assert_array_equal(run.numbers("ok"), [1, math.nan])
    np.testing.assert_array_equal(run.numbers("nowhere"), [math.nan, math.nan])
    assert run.texts("word") == ["a", ""]
    assert run.texts("rank.m") == ["keep", ""]
    assert run.keys("rank.") == ["rank.m", "rank.n"]


def test_a_second_run_in_the_same_second_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [_create(tmp_path / "runs").folder.name for _ in range(3)]
    assert folders == [
        "20260301T120005Z-demo",
        "20260301T120005Z-demo-2",
        "20260301T120005Z-demo-3",
    ]


def test_the_stamp_is_utc(tmp_path: Path) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    log = RunLog.create(tmp_path, "demo", config_toml="", manifest={}, now_utc=tokyo)
    assert log.folder.name == "20260301T120005Z-demo"
    assert read_run(log.folder).manifest["started_utc"] == "2026-03-01T12:00:05Z"
    with pytest.raises(ValueError, match="time zone"):
        RunLog.create(
            tmp_path, "demo", config_toml="", manifest={}, now_utc=NOON.replace(tzinfo=None)
        )


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "two words"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"change \[run\] name"):
        RunLog.create(tmp_path / "runs", name, config_toml="", manifest={}, now_utc=NOON)
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_hold_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file.*choose another \[run\] out"):
        _create(tmp_path / "file")


def test_the_manifest_says_what_ran(tmp_path: Path) -> None:
    with _create(
        tmp_path, seeds={"run": 7}, simulated=["the air"], out=Path("runs"), outcome="boasting"
    ) as log:
        pass
    manifest = read_run(log.folder).manifest
    assert manifest["seeds"] == {"run": 7}
    assert manifest["simulated"] == ["the air"]
    assert manifest["out"] == "runs"
    assert manifest["outcome"] == "finished"
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["platform"]["cpus"] == os.cpu_count()
    assert manifest["started_utc"] <= manifest["finished_utc"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DeviceError("radio: no answer\nin 2 s"), "failed: DeviceError: radio: no answer in 2 s"),
        (ZeroDivisionError("division by zero"), "failed: ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
    ],
)
def test_an_exception_goes_on_and_leaves_a_readable_run(
    tmp_path: Path, error: BaseException, outcome: str
) -> None:
    log = _create(tmp_path)

    def break_off() -> None:
        with log:
            log.write_round({"round.id": 0})
            raise error

    with pytest.raises(type(error)):
        break_off()
    run = read_run(log.folder)
    assert run.outcome == outcome
    assert len(run.rows) == 1
    text = (log.folder / "log.txt").read_text()
    assert outcome in text
    assert "Traceback" in text


def test_a_killed_process_leaves_its_rounds(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from datetime import UTC, datetime
        from pathlib import Path
        from hil.reporting.run_folder import RunLog
        log = RunLog.create(Path({str(tmp_path)!r}), "demo", config_toml="", manifest={{}},
            now_utc=datetime.now(UTC))
        with log:
            for i in range(5):
                log.write_round({{"round.id": i}})
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[3],
        check=False,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    run = read_run(folder)
    assert run.outcome == "running"
    assert run.numbers("round.id").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_last_line_cut_off_anywhere_is_left_out(tmp_path: Path, cut: int) -> None:
    with _create(tmp_path) as log:
        log.write_round({"word": "first"})
        log.write_round({"word": "größer"})
    path = log.folder / "rounds.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - cut])
    run = read_run(log.folder)
    assert run.rows == [{"word": "first"}]
    assert run.truncated


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path: Path) -> None:
    with _create(tmp_path) as log:
        log.write_round({"word": "whole"})
    path = log.folder / "rounds.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert read_run(log.folder).rows == [{"word": "whole"}]


@pytest.mark.parametrize("damage", [b'{"word": "fir', b"[1, 2]"])
def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path, damage: bytes) -> None:
    with _create(tmp_path) as log:
        pass
    (log.folder / "rounds.jsonl").write_bytes(b'{"a": 1}\n' + damage + b'\n{"a": 3}\n')
    with pytest.raises(ConfigError, match=r"line 2: damaged"):
        read_run(log.folder)


@pytest.mark.parametrize("missing", ["config.toml", "manifest.json", "rounds.jsonl"])
def test_a_folder_that_is_not_a_run_is_named(tmp_path: Path, missing: str) -> None:
    log = _create(tmp_path)
    (log.folder / missing).unlink()
    with pytest.raises(ConfigError, match=rf"is not a run: {missing}: No such file"):
        read_run(log.folder)
    with pytest.raises(ConfigError, match=r"nowhere is not a run"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ['{"name": ', "[]", "\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    log = _create(tmp_path)
    (log.folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"manifest\.json"):
        read_run(log.folder)


def test_messages_of_the_project_and_warnings_of_others_go_to_the_log(tmp_path: Path) -> None:
    before = logging.getLogger("radio").level
    with _create(tmp_path) as log:
        logging.getLogger("radio.link").info("burst %d found", 3)
        logging.getLogger("somebody").info("chatter")
        logging.getLogger("somebody").warning("a disk is full")
    logging.getLogger("radio.link").warning("after the run")
    text = (log.folder / "log.txt").read_text()
    assert "INFO radio.link: burst 3 found" in text
    assert "WARNING somebody: a disk is full" in text
    assert "run finished after 0 rounds" in text
    assert "chatter" not in text
    assert "after the run" not in text
    assert logging.getLogger("radio").level == before


def test_runs_that_differ_in_wall_clock_only_compare_equal(tmp_path: Path) -> None:
    def written(seconds: float, snr_db: float) -> tuple[RunLog, dict[str, Value]]:
        row: dict[str, Value] = {
            "round.id": 0,
            "link.snr_db": snr_db,
            "evm": math.nan,
            "timing.round_s": seconds,
        }
        log = _create(tmp_path)
        log.write_round(row)
        return log, row

    (first, row), (second, _), (third, _) = (
        written(1.0, 12.5),
        written(2.0, 12.5),
        written(1.0, 12.6),
    )
    rows = [comparable(read_run(log.folder).rows) for log in (first, second, third)]
    assert (
        rows[0]
        == rows[1]
        == comparable([row])
        == [{"round.id": 0, "link.snr_db": 12.5, "evm": None}]
    )
    assert rows[0] != rows[2]


@pytest.mark.skipif(GIT is None, reason="needs git on the path")
def test_the_git_state_is_that_of_the_checkout_the_code_is_tracked_in(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            [str(GIT), "-C", str(tmp_path), *identity, *args],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout.strip()

    source = tmp_path / "module.py"
    source.write_text("one = 1\n")
    git("init", "-q")
    assert git_state(source) is None  # lies in a checkout, but does not belong to it
    git("add", "module.py")
    git("commit", "-q", "-m", "one")
    sha = git("rev-parse", "HEAD")
    assert git_state(source) == {"sha": sha, "dirty": False}
    (tmp_path / "notes.txt").write_text("does not run")
    assert git_state(source) == {"sha": sha, "dirty": False}
    (tmp_path / "policy.py").write_text("does run")
    assert git_state(source) == {"sha": sha, "dirty": True}
    (tmp_path / "policy.py").unlink()
    source.write_text("one = 2\n")
    assert git_state(source) == {"sha": sha, "dirty": True}
