"""Verbs from end to end on one short run: what they write, and that all fits 80 columns."""

import re

import pytest
from rich.cells import cell_len

from hil.reporting.run_folder import read_run

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def widest(text):
    """The longest line, paths aside: they are not broken."""
    lines = [line for line in re.split(r"[\r\n]+", text) if "/" not in line]
    return max(map(cell_len, lines))


def words(text):
    """The text as if it stood on one line."""
    return " ".join(text.split())


def assert_readable(called):
    for text in (called.out, called.err):
        assert "\x1b" not in text
        assert not text or widest(text) <= 80


@pytest.mark.slow
def test_a_run_on_a_pipe(short_run):
    called, run = short_run.called, read_run(short_run.folder)
    assert_readable(called)
    assert len(run.rows) == 2
    assert (short_run.folder / "report.html").stat().st_size > 50_000
    assert called.out.startswith(f"run folder: {short_run.folder}\n")
    for row in run.rows:
        number, domain = row["round.id"], row["text.domain"]
        [line] = re.findall(rf"^ +{number} {domain} .+$", called.out, re.MULTILINE)
        assert f" {row['link.snr_db']:.1f} " in line
        assert f" {row['edge.status']} " in line
    assert called.out.count("Es/N0") == 1
    waits = called.err.splitlines()
    assert waits[0].startswith("hil run: ")
    assert [line for line in waits if "llama.cpp" in line]
    assert [line for line in waits if "opening base model" in line]


@pytest.mark.slow
def test_a_run_on_a_terminal(call_on_terminal, small, tmp_path):
    code, written = call_on_terminal("run", "--rounds", 1, *small(tmp_path))
    assert code == 0
    assert "\x1b[" in written  # the bar
    text = CONTROL.sub("", written)
    assert widest(text) <= 80
    assert re.search(r"[\r\n] +0 jargon40 [^\r\n]+ installed [^\r\n]+\r\n", text)  # over the bar
    assert "round 0 (1 of 1): training" in text
    assert " ± " in text


@pytest.mark.slow
def test_a_report_of_two_runs_on_an_ascii_console(call, short_run, tmp_path):
    page = tmp_path / "both.html"
    called = call("report", short_run.folder, short_run.folder, "--out", page, encoding="ascii")
    assert called.code == 0, called.err
    assert_readable(called)
    assert page.exists()
    assert called.out.count("installed / kept / refused") == 2
    assert "+-" in called.out
    utf8 = call("report", short_run.folder, "--out", page)
    assert "±" in utf8.out
    assert re.findall(r"^ +0 jargon40.+$", utf8.out, re.MULTILINE) == re.findall(
        r"^ +0 jargon40.+$", short_run.called.out, re.MULTILINE
    )


@pytest.mark.slow
def test_the_update_at_the_end_of_a_run_is_exported(call, short_run, tmp_path):
    path = tmp_path / "update.gguf"
    called = call("export", short_run.folder, "--format", "gguf", "--out", path)
    assert called.code == 0, called.err
    assert called.out == f"{path}\n"  # a script takes it from there
    assert path.read_bytes()[:4] == b"GGUF"


@pytest.mark.slow
def test_a_run_records_each_round_when_asked(call, short_run):
    captures = short_run.folder / "iq"
    assert sorted(file.name for file in captures.glob("*.sigmf-meta")) == [
        "round-00000.sigmf-meta",
        "round-00001.sigmf-meta",
    ]
    replayed = call("replay", captures)
    assert replayed.code == 0
    assert_readable(replayed)


def test_a_session_is_recorded_and_replayed_to_the_same_report(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hil.toml").write_text(
        '[radio.channel]\npreset = "lab_cable"\nsnr_db = 14\n', encoding="utf-8"
    )
    recorded = call("record", "--out", "capture", "--bytes", 5000)
    assert recorded.code == 0, recorded.err
    assert_readable(recorded)
    assert "5000 bytes delivered" in words(recorded.out)
    replayed = call("replay", "capture")
    assert replayed.code == 0, replayed.err
    assert_readable(replayed)
    assert "equal in every field" in replayed.out
    again = call("record", "--out", "capture")
    assert again.code == 2
    assert "capture" in again.error
    (samples,) = (tmp_path / "capture").glob("*.sigmf-data")
    damaged = bytearray(samples.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    samples.write_bytes(damaged)
    refused = call("replay", "capture")
    assert refused.code == 2
    assert "SHA-512" in refused.error


@pytest.mark.slow
def test_a_replay_that_differs_misses_its_verdict(call, short_run, monkeypatch):
    from hil.lab.recording_session import replay_all

    def altered(path):
        replayed = replay_all(path)
        replayed[1].recorded["blocks_sent"] += 1
        return replayed

    monkeypatch.setattr("hil.lab.recording_session.replay_all", altered)
    called = call("replay", short_run.folder / "iq")
    assert called.code == 3
    assert "DIFFERS" in called.out
    assert_readable(called)


@pytest.mark.slow
def test_check_finds_everything_at_once(call, small, tmp_path):
    good = call("check", *small(tmp_path))
    assert good.code == 0, good.out + good.err
    assert_readable(good)
    assert "llama.cpp answers" in words(good.out)
    bad = call("check", *small(tmp_path, "model.base=./gone", "control.url=mqtt://127.0.0.1:9"))
    assert bad.code == 2
    assert re.findall(r"^broken +(\w+):", bad.out, re.MULTILINE) == [
        "model",
        "text",  # it is cut to the model's tokens
        "edge",
        "control",
    ]
    assert "gone" in bad.out
    assert "127.0.0.1:9" in bad.out


@pytest.mark.slow
def test_provision_then_a_truncated_model(call, small, tmp_path):
    made = call("provision", tmp_path / "bundle", *small(tmp_path))
    assert made.code == 0, made.err
    assert_readable(made)
    assert "Q4_K × 5" in words(made.out)
    model = tmp_path / "bundle/model.gguf"
    model.write_bytes(model.read_bytes()[:100_000])
    from edge_device.bundle import load_bundle
    from edge_device.gguf_model import inspect
    from hil.contract import ModelError

    with pytest.raises(ModelError, match=r"model\.gguf"):
        load_bundle(tmp_path / "bundle")
    with pytest.raises(ModelError, match=r"model\.gguf"):
        inspect(model)


def test_faults_that_are_not_recovered_from_miss_the_verdict(call, monkeypatch):
    from hil.lab.chaos import ChaosOutcome
    from hil.lab.fault_session import FaultOutcome, SessionOutcome

    fault = FaultOutcome(kind="lost block", node="receiver", resumed_s=0.4)

    def outcome_of(asked):
        session = SessionOutcome(seed=0)
        session.faults = [fault]
        return lambda faults, seed, on_progress: ChaosOutcome(
            asked=asked, sessions=[session], crashed=[]
        )

    for asked, code in ((1, 0), (2, 3)):
        monkeypatch.setattr("hil.lab.chaos.run_chaos", outcome_of(asked))
        called = call("chaos", "--faults", asked)
        assert called.code == code
        assert_readable(called)
        assert ("missed: 1 fault(s) not" in called.out) is (code == 3)


@pytest.mark.parametrize(("second", "code"), [("kept", 0), ("refused", 3)])
def test_a_demo_whose_updates_do_not_arrive_misses_its_verdict(
    call, monkeypatch, tmp_path, second, code
):
    from hil.lab.demo import Demo
    from hil.radio_kinds.loopback_twin import Comparison
    from hil.reporting.run_folder import Run

    one = Comparison(
        round_id=1,
        delivered=True,
        payload_bytes=123_456,
        snr_db=20.5,
        goodput_bps=1.5e6,
        elapsed_goodput_bps=1.2e6,
        loopback_goodput_bps=1.6e6,
        loopback_elapsed_goodput_bps=1.4e6,
    )
    rows = [{"edge.status": status} for status in ("installed", second)]
    run = Run(folder=tmp_path, config_toml="", manifest={}, rows=rows)
    demo = Demo(run=run, rounds=2, comparisons=[one])
    monkeypatch.setattr("hil.lab.demo.demo_pluto", lambda settings, say: demo)
    called = call("demo-pluto")
    assert called.code == code
    assert_readable(called)
    assert "1.50" in called.out
    assert ("missed: 1 of 2 updates arrived" in called.out) is (code == 3)


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("gain: 3 dB off",), 3)])
def test_a_calibration_with_a_wrong_value_misses_its_verdict(
    call, monkeypatch, tmp_path, flags, code
):
    class Done:
        file, report = tmp_path / "x.json", tmp_path / "x.html"

    Done.flags = flags
    monkeypatch.setattr(
        "hil.lab.calibrate.calibrate_settings", lambda settings, what, **options: Done()
    )
    assert call("calibrate", "snr").code == code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("figure", "study", "idle", "code"),
    [
        (0.99, "detection", True, 0),
        (0.5, "detection", True, 3),
        (0.5, "detection", False, 3),
        (0.5, "speed", True, 3),
        (0.5, "speed", False, 0),
    ],
)
def test_a_bar_that_is_missed_is_a_missed_verdict(call, monkeypatch, figure, study, idle, code):
    from hil.benchmarks.link.bars import Bar, Estimate
    from hil.benchmarks.link.bench import LinkBench

    bar = Bar(
        study=study,
        name="bursts found at 0 dB with a name that is long enough to be wrapped",
        estimate=Estimate(figure, figure - 0.01, figure + 0.01),
        trials=100_000,
        of="bursts",
        bar=0.9,
    )
    machine = {"cpu": "a CPU with a name", "cores": 2, "load_average": 0.1, "idle": idle}
    done = LinkBench(bars=(bar,), curves={}, machine=machine, quick=True, took_s=61.0)
    monkeypatch.setattr("hil.benchmarks.link.bench.measure", lambda **options: done)
    called = call("bench", "link", "--quick")
    assert called.code == code
    assert_readable(called)
    assert (f"missed: {study}: bursts found" in called.out) is (code == 3)


@pytest.mark.parametrize(("infeasible", "code"), [(0, 0), (2, 3)])
def test_a_plan_over_its_budget_is_a_missed_verdict(call, monkeypatch, infeasible, code):
    figures = {"allocator.random_states.infeasible": infeasible}
    monkeypatch.setattr("hil.benchmarks.controller.bench", lambda settings, random_states: figures)
    assert call("bench", "controller").code == code


def test_an_adapter_that_cannot_be_sent_is_one_line(call, small, tmp_path):
    called = call("send", tmp_path, *small(tmp_path))
    assert called.code == 2
    assert "adapter_config.json is missing" in called.error
