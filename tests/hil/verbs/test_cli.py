"""The command line as a person meets it: one line for a mistake, exit codes, and Ctrl-C."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hil import cli
from hil.reporting.run_folder import read_run

ROOT = Path(__file__).parents[3]


def hil(*arguments, cwd=ROOT):
    """A verb in a process of its own."""
    command = [sys.executable, "-m", "hil.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": ROOT},
    )


def sets(overrides):
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture
def verb(monkeypatch, capsys):
    """A verb in this process, which has the large libraries loaded: what it prints, and its exit
    code."""

    def call(*arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["hil", *map(str, arguments)])
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(
            arguments, int(ended.value.code or 0), printed.out, printed.err
        )

    return call


def assert_one_line(result, *parts):
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("hil: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def test_a_typo_names_the_nearest_key():
    assert_one_line(hil("run", "--set", "run.ruonds=3"), "run.ruonds", "run.rounds")


def test_no_hil_toml_here(tmp_path):
    assert_one_line(hil("run", cwd=tmp_path), "hil.toml", "--config")


def _one_tensor_short(folder):
    shutil.copytree(ROOT / "cloud/model/default", folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["GPT2LMHeadModel"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model.base=./no-such-model"], ["no-such-model"]),
        (["model.base={tmp}/gpt2"], ["GPT2LMHeadModel", "Qwen3ForCausalLM"]),
        (["text.kind=file", "text.path={tmp}/empty.tsv"], ["empty.tsv", "empty"]),
        (
            ["text.kind=file", "text.path={tmp}/x.csv", "text.label_column=mood"],
            ["no column", "text", "mood"],
        ),
        (["finetune.resume_from={tmp}/gone.safetensors"], ["gone.safetensors"]),
    ],
)
def test_bad_input_gets_one_line_and_leaves_a_readable_folder(
    verb, tmp_path, small_overrides, overrides, parts
):
    _one_tensor_short(tmp_path / "gpt2")
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "x.csv").write_text("text,label\na,1\nb,0\n")
    out = tmp_path / "runs"
    result = verb(
        "run", *sets([*small_overrides(out), *(o.format(tmp=tmp_path) for o in overrides)])
    )
    assert_one_line(result, *parts)
    [folder] = out.iterdir()
    assert read_run(folder).manifest["outcome"].startswith("failed: ")


def test_a_port_that_is_no_brokers(verb, small_overrides, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = verb(
            "run",
            *sets(
                [
                    *small_overrides(tmp_path),
                    f"control.url=mqtt://127.0.0.1:{port}",
                    "control.timeout_s=2",
                ]
            ),
        )
    assert_one_line(result, str(port))


def test_provision_then_a_truncated_model(verb, tmp_path, small_overrides):
    made = verb("provision", tmp_path / "bundle", *sets(small_overrides(tmp_path)))
    assert made.returncode == 0, made.stderr
    assert "Q4_K × 24" in made.stdout
    model = tmp_path / "bundle/model.gguf"
    model.write_bytes(model.read_bytes()[:100_000])
    from edge_device.bundle import load_bundle
    from edge_device.gguf_model import inspect
    from hil.contract import ModelError

    with pytest.raises(ModelError, match=r"model\.gguf"):
        load_bundle(tmp_path / "bundle")
    with pytest.raises(ModelError, match=r"model\.gguf"):
        inspect(model)


def test_run_report_export_and_compare(verb, tmp_path, small_overrides):
    done = verb("run", "--rounds", 1, "--out", tmp_path, *sets(small_overrides(tmp_path)))
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.iterdir()
    assert len(read_run(folder).rows) == 1
    assert (folder / "report.html").stat().st_size > 50_000
    compared = verb("report", folder, folder, "--out", tmp_path / "both.html")
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "both.html").exists()
    exported = verb("export", folder, "--format", "gguf")
    assert exported.returncode == 0, exported.stderr
    assert (folder / "export.gguf").read_bytes()[:4] == b"GGUF"
    assert_one_line(verb("report", tmp_path / "gone"), "gone")


def test_a_session_is_recorded_and_replayed_to_the_same_report(verb, tmp_path):
    air = sets(["radio.channel.preset=lab_cable", "radio.channel.snr_db=14"])
    recorded = verb("record", "--out", tmp_path / "capture", "--bytes", 5000, *air)
    assert recorded.returncode == 0, recorded.stderr
    assert "5000 bytes delivered" in recorded.stdout
    replayed = verb("replay", tmp_path / "capture")
    assert replayed.returncode == 0, replayed.stderr
    assert "equal in every field" in replayed.stdout
    assert_one_line(verb("record", "--out", tmp_path / "capture", *air), "capture")
    (samples,) = (tmp_path / "capture").glob("*.sigmf-data")
    damaged = bytearray(samples.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    samples.write_bytes(damaged)
    assert_one_line(verb("replay", tmp_path / "capture"), "SHA-512", "damaged")


def test_a_run_records_each_round_when_asked(verb, tmp_path, small_overrides):
    done = verb(
        "run",
        "--rounds",
        1,
        "--out",
        tmp_path,
        *sets([*small_overrides(tmp_path), "radio.record=true"]),
    )
    assert done.returncode == 0, done.stderr
    (captures,) = tmp_path.glob("*/iq")
    assert [file.name for file in captures.glob("*.sigmf-meta")] == ["round-00000.sigmf-meta"]
    assert verb("replay", captures).returncode == 0


def test_a_preset_that_is_not_there_is_named(verb, tmp_path):
    refused = verb("record", "--out", tmp_path, "--set", "radio.channel.preset=indor_nlos")
    assert_one_line(refused, "radio.channel.preset", "indor_nlos", "indoor_nlos")
    refused = verb("record", "--out", tmp_path, "--set", "radio.channel.dopler_hz=5")
    assert_one_line(refused, "radio.channel.dopler_hz", "radio.channel.doppler_hz")


def test_check_finds_everything_at_once(verb, tmp_path, small_overrides):
    good = verb("check", *sets(small_overrides(tmp_path)))
    assert good.returncode == 0, good.stdout + good.stderr
    assert "llama.cpp answers" in good.stdout
    bad = verb(
        "check",
        *sets([*small_overrides(tmp_path), "model.base=./gone", "control.url=mqtt://127.0.0.1:9"]),
    )
    assert bad.returncode == 2
    assert bad.stdout.count("broken") == 3  # model, edge, control
    assert "gone" in bad.stdout
    assert "127.0.0.1:9" in bad.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_mid_run(tmp_path, small_overrides, number):
    command = [
        sys.executable,
        "-m",
        "hil.cli",
        "run",
        *sets([*small_overrides(tmp_path), "run.rounds=5000"]),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, process_group=0, **pipes)
    try:
        line = process.stdout.readline()  # the first round is done
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)  # as a terminal does it: to the whole group
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert line.lstrip().startswith("0  jargon40")
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    [folder] = tmp_path.iterdir()
    run = read_run(folder)
    assert run.manifest["outcome"] == "interrupted"
    assert len(run.rows) >= 1
    assert children
    deadline = time.monotonic() + 10
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, "a child process is left"
        time.sleep(0.05)
