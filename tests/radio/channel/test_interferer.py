"""Interferers: level, place in time and frequency, and files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf

from hil.contract import ConfigError
from radio.channel.interferer import (
    Bursts,
    Interferer,
    Tone,
    WhiteNoise,
    read_recorded,
)

RNG = np.random.default_rng(2)
IQ = (3e4 * (RNG.standard_normal(5000) + 1j * RNG.standard_normal(5000))).astype(np.complex64)


@pytest.mark.parametrize(
    ("waveform", "duty"), [(WhiteNoise(1), 1.0), (Tone(1e5), 1.0), (Bursts(1, 1e-3, 0.25), 0.25)]
)
def test_power_is_the_level_while_it_sounds_and_pieces_are_the_whole(
    waveform: Any, duty: float
) -> None:
    one = Interferer(6.0, waveform)
    heard = one.at(12_345, 100_000, 1e6)
    power_db = 10 * np.log10(np.mean(np.abs(heard) ** 2) / duty)
    assert power_db == pytest.approx(6.0, abs=0.1)
    pieces = [one.at(12_345 + begin, 20_000, 1e6) for begin in range(0, 100_000, 20_000)]
    np.testing.assert_array_equal(heard, np.concatenate(pieces))


def test_a_tone_stands_at_its_frequency_and_is_not_heard_outside_the_band() -> None:
    spectrum = np.abs(np.fft.fft(Tone(-125e3).at(0, 1024, 1e6)))
    assert spectrum.argmax() == 1024 - 128
    assert not Tone(6e5).at(0, 8, 1e6).any()


def test_bursts_go_on_and_off() -> None:
    sounds = Bursts(1, 1e-3, 0.25).at(500, 2000, 1e6) != 0
    assert sounds.mean() == pytest.approx(0.25, abs=1e-3)
    assert not sounds[:500].any()
    assert sounds[501:749].all()


def test_recordings_are_brought_to_unit_power_and_the_radios_rate(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IQ)
    own = read_recorded(tmp_path / "a.npy", 0.0).at(4990, 20, 7e6)
    assert np.mean(np.abs(IQ) ** 2) ** 0.5 * own[:10] == pytest.approx(IQ[4990:], rel=1e-4)
    assert np.mean(np.abs(IQ) ** 2) ** 0.5 * own[10:] == pytest.approx(IQ[:10], rel=1e-4)
    np.save(tmp_path / "tone.npy", np.exp(2j * np.pi * 0.05 * np.arange(4000)))
    moved = read_recorded(tmp_path / "tone.npy", 1e6).at(1000, 4096, 2e6)
    assert np.abs(np.fft.fft(moved * np.hanning(4096))).argmax() in (102, 103)  # 0.025 · 4096


def write_sigmf(stem: Path, **changes: Any) -> Path:
    stem.with_suffix(".sigmf-data").write_bytes(IQ.tobytes())
    facts = {sigmf.DATATYPE_KEY: "cf32_le", sigmf.SAMPLE_RATE_KEY: 1e6, **changes}
    recording = sigmf.SigMFFile(
        data_file=stem.with_suffix(".sigmf-data"), global_info=facts, skip_checksum=True
    )
    recording.tofile(stem.with_suffix(".sigmf-meta"), skip_validate=True)
    return stem.with_suffix(".sigmf-meta")


def test_sigmf_says_its_rate(tmp_path: Path) -> None:
    path = write_sigmf(tmp_path / "rec")
    for name in (path, path.with_suffix(".sigmf-data")):
        heard = read_recorded(name, 0.0).at(0, 5000, 1e6)
        assert heard * np.mean(np.abs(IQ) ** 2) ** 0.5 == pytest.approx(IQ, rel=1e-4)


def test_files_that_are_no_recording_get_one_line(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            read_recorded(path, 0.0)
        assert "\n" not in str(caught.value)

    cases: list[tuple[Any, str]] = [
        (IQ.real, r"float32\[5000\]; an interferer is a row of complex"),
        (IQ.reshape(2, -1), r"complex64\[2, 2500\]"),
        (IQ[:0], "0 samples"),
        (IQ * 0, "only zeros"),
        (IQ * np.nan, "not finite"),
        (np.array([None]), "not a NumPy file of numbers"),
    ]
    for array, message in cases:
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        refused(tmp_path / "x.npy", message)
    refused(tmp_path / "gone.npy", "No such file")
    (tmp_path / "text.npy").write_text("hello")
    refused(tmp_path / "text.npy", "not a NumPy file|No data|magic")
    refused(tmp_path / "gone.sigmf-meta", "no such file; a recording has both")
    meta = write_sigmf(tmp_path / "rec")
    for content in ("{", "[]", "{}", '{"global": {"core:datatype": "cx9"}}'):
        meta.write_text(content)
        refused(meta, "not a SigMF recording|sample rate")
    refused(write_sigmf(tmp_path / "norate", **{sigmf.SAMPLE_RATE_KEY: 0}), "sample rate|not a Sig")
