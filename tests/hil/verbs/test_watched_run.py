"""A run's ends: verdict, Ctrl-C, bug and broken bench, each with exit code, line and report."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hil.contract import DeviceError
from hil.reporting.run_folder import RunLog, read_run

ROUND = {
    "text.domain": "jargon40",
    "link.snr_db": 11.26,
    "link.delivered": True,
    "link.airtime_s": 0.0421,
    "link.payload_bytes": 12345,
    "plan.rank.a": 3,
    "plan.rank.b": 0,
    "plan.rank.c": "keep",
    "payload.bytes": 12345,
    "edge.status": "installed",
    "edge.reason": "",
    "edge.score": 0.625,
    "edge.base_score": 0.5,
    "edge.loss_nats_per_token": 0.61,
    "edge.gain": 0.125,
    "edge.gain_std_error": 0.031,
}
LOST = ROUND | {
    "link.delivered": False,
    "edge.status": "refused",
    "edge.reason": "link unusable: no answer to any of 8 soundings",
    "edge.gain": -0.01,
}


@pytest.fixture
def run_of(monkeypatch, call, tmp_path):
    """`hil run` with a loop that writes these rounds and then ends in the way it is told."""

    def run(*rounds, ends_with=None, require=None):
        def loop(settings, watcher):
            log = RunLog.create(
                tmp_path, "made-up", config_toml="", manifest={}, now_utc=datetime.now(UTC)
            )
            with log:
                watcher.on_start(log.folder)
                for number, row in enumerate(rounds):
                    watcher.on_stage(number, "training")
                    watcher.on_step()
                    log.write_round({"round.id": number, **row})
                    watcher.on_round({"round.id": number, **row})
                if ends_with is not None:
                    raise ends_with
            return log.folder

        monkeypatch.setattr("hil.loop.rounds.run", loop)
        called = call("run", *(["--require", require] if require else []))
        [folder] = tmp_path.iterdir()
        return called, folder

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "require", "code", "missed"),
    [
        ([ROUND, LOST], None, 0, []),
        ([LOST, LOST], None, 3, ["delivered>=1 is required; 0 of 2 rounds were delivered"]),
        ([LOST, LOST], "none", 0, []),
        ([ROUND, ROUND, LOST], "installed>=0.6", 0, []),
        (
            [ROUND, ROUND, LOST],
            "installed>=0.7,gain>0",
            3,
            [
                "installed>=0.7 is required; 2 of 3 rounds were installed",
                "gain>0 is required; the last round's gain is -0.01",
            ],
        ),
    ],
)
def test_a_run_is_judged_by_what_is_required_of_it(run_of, rounds, require, code, missed):
    called, folder = run_of(*rounds, require=require)
    assert called.code == code
    assert re.findall(r"^missed: (.+)$", called.out, re.MULTILINE) == missed
    assert (folder / "report.html").exists()
    assert read_run(folder).outcome == "finished"


@pytest.mark.slow
def test_rounds_and_totals_are_shown(run_of):
    called, folder = run_of(ROUND, LOST)
    lines = called.out.splitlines()
    assert lines[0] == f"run folder: {folder}"
    head = next(k for k, line in enumerate(lines) if line.startswith("round domain"))
    assert lines[head + 1] == (
        "    0 jargon40     11.3  1.5    12.3   0.042  installed  62.5 %   +12.5 ± 3.1"
    )
    assert lines[head + 2] == (
        "    1 jargon40     11.3  1.5    12.3   0.042  refused    62.5 %    -1.0 ± 3.1"
    )
    assert lines[head + 3] == "      not delivered: link unusable: no answer to any of 8 soundings"
    assert "installed / kept / refused  1 / 0 / 1" in lines
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert called.out.count("Es/N0") == 1


@pytest.mark.slow
def test_an_interrupted_run_names_its_folder_and_leaves_a_report(run_of):
    called, folder = run_of(ROUND, ends_with=KeyboardInterrupt())
    assert called.code == 130
    assert f"hil: stopped; the rounds that were finished are in {folder}" in called.err
    assert called.error == "hil: interrupted"
    assert called.out.endswith(f"report: {folder / 'report.html'}\n")
    assert (folder / "report.html").exists()
    assert json.loads((folder / "manifest.json").read_text())["outcome"] == "interrupted"


def test_a_bug_is_named_with_the_log_that_has_its_traceback(run_of):
    called, folder = run_of(ROUND, ends_with=ZeroDivisionError("division\nby zero"))
    assert called.code == 1
    assert called.error.startswith("hil: this is a bug: ZeroDivisionError: division by zero (hil/")
    log = Path(re.search(r"please report it with (\S+)$", called.error)[1])
    assert log == folder / "log.txt"
    assert "ZeroDivisionError" in log.read_text()
    assert "Traceback" in log.read_text()
    assert "Traceback" not in called.err


def test_a_broken_bench_is_no_verdict(run_of):
    called, _ = run_of(ROUND, ends_with=DeviceError("the radio is gone; plug it in"))
    assert called.code == 2
    assert called.error == "hil: the radio is gone; plug it in"
    assert "missed" not in called.out
