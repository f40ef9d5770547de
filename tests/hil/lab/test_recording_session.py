"""What `hil record` and `hil replay` do, on the radio of hil.toml."""

import json
from pathlib import Path

import pytest

from hil.contract import ConfigError, HilError
from hil.lab.recording_session import (
    comparison,
    payload_of,
    random_payload,
    record,
    replay_all,
    summary,
    verdict,
)
from hil.settings import load_settings

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def settings():
    return load_settings(ROOT / "hil.toml", ["radio.channel.snr_db=14"])


@pytest.fixture(scope="module")
def recorded(settings, tmp_path_factory):
    return record(settings, tmp_path_factory.mktemp("recording"), random_payload(settings, 5000))


@pytest.mark.slow
def test_a_folder_and_a_file_are_replayed(settings, recorded):
    assert recorded.report.delivered
    for path in (recorded.path.parent, recorded.path, recorded.path.with_suffix("")):
        replayed = replay_all(path)
        assert replayed[1].received == random_payload(settings, 5000)
        assert (
            verdict(replayed)
            == "equal in every field: 2 soundings and deliveries, 5000 payload bytes"
        )


@pytest.mark.slow
def test_the_recording_says_that_it_is_simulated_and_what_of(recorded):
    facts = json.loads(recorded.path.read_text())["global"]
    assert facts["hil:notes"]["simulated"] is True
    assert facts["hil:notes"]["radio"]["channel"]["snr_db"] == {"kind": "constant", "value": 14.0}
    assert "5000 bytes delivered in" in summary(recorded)
    assert (
        recorded.data_bytes
        == recorded.path.with_suffix(".sigmf-data").stat().st_size
        == 8 * facts["hil:session"]["samples"]
    )


@pytest.mark.slow
def test_what_differs_is_marked_and_named(recorded):
    replayed = replay_all(recorded.path)
    replayed[1].recorded["blocks_sent"] += 1
    assert verdict(replayed) == "differs in session deliver: blocks_sent"
    [line] = [line for line in comparison(replayed).lines(80) if "DIFFERS" in line]
    assert "blocks_sent" in line


@pytest.mark.slow
def test_payloads(settings, tmp_path):
    assert random_payload(settings, 100) == random_payload(settings, 100)
    file = tmp_path / "update.bin"
    file.write_bytes(b"an update")
    assert payload_of(file) == b"an update"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"update\.bin: 0 bytes"):
        payload_of(file)
    with pytest.raises(ConfigError, match=r"gone\.bin"):
        payload_of(tmp_path / "gone.bin")
    with pytest.raises(ConfigError, match="--bytes 0"):
        random_payload(settings, 0)


@pytest.mark.slow
def test_mistakes_are_one_line(settings, recorded, tmp_path):
    with pytest.raises(HilError, match="exists"):
        record(settings, recorded.path.parent, b"x")
    with pytest.raises(HilError, match=r"no \*\.sigmf-meta"):
        replay_all(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HilError, match="choose another folder"):
        record(settings, tmp_path / "file", b"x")
