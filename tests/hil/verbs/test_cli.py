"""The command line itself: quick to answer, one line for a mistake, an exit code for every end."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hil import __version__, cli
from hil.reporting.run_folder import read_run

ROOT = Path(__file__).parents[3]
LARGE = "typer pydantic numpy scipy torch transformers numba matplotlib rich".split()
VERBS = [*cli.BEGINNINGS]
BENCHES = [f"bench {part}" for part in ("link", "edge", "controller", "pluto")]


def python(code, *arguments):
    """A fresh interpreter's answer."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line(called, *parts):
    """Exit code 2, and one line of complaint after the line that every verb begins with."""
    assert called.code == 2, called.out + called.err
    lines = [line for line in called.err.splitlines() if line.startswith("hil: ")]
    assert lines == [called.error]
    for part in parts:
        assert part in called.error


# ------------------------------------------------------------------------------ how it begins


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_something_before_it_imports_anything_large(verb):
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {LARGE}: sys.stdout.write(name); sys.stdout.flush(); sys.exit(9)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import hil.cli\n"
        f"sys.argv = ['hil', '{verb}']\n"
        "hil.cli.main()\n"
    )
    done = python(code)
    assert done.stdout == "typer"  # what would have been imported next
    assert done.stderr == f"hil {verb}: {cli.BEGINNINGS[verb]} ...\n"
    assert len(done.stderr) <= 80


@pytest.mark.slow
def test_the_version_needs_no_import_and_the_help_typer_alone():
    code = (
        "import sys, hil.cli\n"
        "sys.argv = ['hil', *sys.argv[1:]]\n"
        "try: hil.cli.main()\n"
        f"finally: print([n for n in {LARGE} if n in sys.modules], file=sys.stderr)\n"
    )
    done = python(code, "--version")
    assert (done.stdout, done.stderr) == (f"hil-lora-testbed {__version__}\n", "[]\n")
    for arguments in ("--help", "run --help", "bench link --help", ""):
        done = python(code, *arguments.split())
        assert done.stdout.startswith("Usage: hil")
        assert done.stderr in ("['typer']\n", "['typer', 'pydantic']\n")  # typer's own


def test_every_verb_is_listed_with_a_whole_sentence(call):
    listed = re.findall(r"^  ([a-z][a-z-]*) {2,}(.+)$", call("--help").out, re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(VERBS)
    assert all(sentence.endswith(".") and "..." not in sentence for _, sentence in listed)
    assert [name for name, _ in listed][:2] == ["run", "check"]


@pytest.mark.parametrize("verb", [*VERBS, *BENCHES])
def test_the_help_of_a_verb_is_its_manual(call, verb):
    shown = call(*verb.split(), "--help")
    assert shown.code == 0
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80
    if verb != "bench":
        assert re.search(r"Exit codes?: 0 ", " ".join(shown.out.split()))


def test_a_shell_gets_the_verbs_as_completions(monkeypatch, call):
    monkeypatch.setenv("_HIL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "hil re")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert call().out.split() == ["report", "record", "replay"]


# ------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("runn", ["No such command 'runn'", "'run'"]),
        ("run --round 3", ["No such option: --round", "--rounds"]),
        ("bench nothing", ["No such command 'nothing'"]),
        ("bench", ["Missing command"]),
        ("replay", ["Missing argument 'PATH'"]),
        ("run --set run.ruonds=3", ["run.ruonds", "run.rounds"]),
        ("run --set rounds", ["--set rounds", "table.key=value"]),
        ("run --config gone.toml", ["gone.toml", "pluto_pair"]),
        ("run --require arrived>=1", ["'arrived>=1'", "installed|delivered|gain|score"]),
        ("cloud --require gain", ["'gain'", "installed|delivered|gain|score"]),
        ("report gone", ["gone", "not a run"]),
        ("record --out x --set radio.channel.preset=indor_nlos", ["indor_nlos", "indoor_nlos"]),
        (
            "record --out x --set radio.channel.dopler_hz=5",
            ["radio.channel.dopler_hz", "radio.channel.doppler_hz"],
        ),
        ("calibrate snr", ["radio.kind", "emulate-pluto"]),
        ("demo-pluto --config hil.toml", ["radio.kind"]),
        ("eval --scope year", ["'year'", "round, episode"]),
        ("train nobody", ["nobody"]),
        ("bench link --only nothing", ["nothing", "speed"]),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(call, arguments, parts):
    assert_one_line(call(*arguments.split()), *parts)


@pytest.mark.slow
def test_without_a_hil_toml_the_shipped_experiment_is_taken(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    called = call("record", "--out", ".", "--set", "radio.channel.max_delay_samples=0")
    assert "no hil.toml here" in called.err


def _one_tensor_short(folder):
    shutil.copytree(ROOT / "cloud/model/default", folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["GPT2LMHeadModel"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.slow
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
    call, tmp_path, small, overrides, parts
):
    _one_tensor_short(tmp_path / "gpt2")
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "x.csv").write_text("text,label\na,1\nb,0\n")
    out = tmp_path / "runs"
    called = call("run", *small(out, *(o.format(tmp=tmp_path) for o in overrides)))
    assert_one_line(called, *parts)
    [folder] = out.iterdir()
    assert f"run folder: {folder}\n" in called.out
    assert read_run(folder).manifest["outcome"].startswith("failed: ")


@pytest.mark.slow
def test_a_port_that_is_no_brokers(call, small, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        url = f"control.url=mqtt://127.0.0.1:{port}"
        called = call("run", *small(tmp_path, url, "control.timeout_s=2"))
    assert_one_line(called, str(port))


# ------------------------------------------------------------------------------ other ends


def test_a_bug_is_one_line_that_names_place_and_traceback(call, monkeypatch):
    def broken(*arguments, **options):
        raise KeyError("a key")

    monkeypatch.setattr("hil.lab.check.check_bench", broken)
    called = call("check")
    assert called.code == 1
    found = re.fullmatch(
        r"hil: this is a bug: KeyError: 'a key' \(hil/verbs/check\.py:\d+\); please report it "
        r"with (\S+)",
        called.error,
    )
    assert found
    traceback = Path(found[1])
    assert "KeyError: 'a key'" in traceback.read_text()
    assert "Traceback (most recent call last)" in traceback.read_text()
    traceback.unlink()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/place"), OSError(28, "No space left")]
)
def test_a_place_that_cannot_be_written_is_no_bug(call, monkeypatch, error):
    def full(*arguments, **options):
        raise error

    monkeypatch.setattr("hil.lab.check.check_bench", full)
    assert_one_line(call("check"), error.strerror, "choose another place")


def test_a_reader_that_leaves_ends_the_verb_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hil.cli", "--help"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_figures_that_cannot_be_written_are_a_mistake(call, monkeypatch, tmp_path):
    monkeypatch.setattr("hil.benchmarks.pluto.bench", lambda on_progress: {"rate_hz": 4.0e6})
    written = tmp_path / "pluto.json"
    called = call("bench", "pluto", "--json", written)
    assert called.code == 0
    assert called.out == "rate_hz  4e+06\n"
    assert json.loads(written.read_text()) == {"rate_hz": 4e6}
    assert_one_line(call("bench", "pluto", "--json", tmp_path / "gone" / "x.json"), "x.json")
