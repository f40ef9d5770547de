"""Recordings of sessions: what SigMF's own package makes of them, and whether replay is the session
again."""

import hashlib
import json
import math
import shutil
from collections import deque
from dataclasses import asdict

import numpy as np
import pytest
import sigmf

from hil.contract import DeviceError
from radio.channel import QueueFeedback
from radio.clocks import VirtualClock
from radio.link import Limits, Link
from radio.modem.ofdm import AMPLITUDE
from radio.recordings import recording
from radio.recordings.recorder import SAME_BURST, RecordingLink, fingerprint
from radio.recordings.recording import RecordingError, Setup, read_recording, write_recording
from radio.recordings.replay import replay

PAYLOAD = np.random.default_rng(71).bytes(30_000)
RATE_HZ, CFO_HZ = 2e6, -21e3
SETUP = Setup(hardware="a test's channel", frequency_hz=915e6, gain_db=40.0, notes={"seed": 72})


class Air:
    """A Transceiver of the test's own, which knows where every burst begins in the received
    samples."""

    def __init__(self, clock, *, snr_db=20.0, seed=72):
        self.sample_rate_hz = RATE_HZ
        self.snr_db = snr_db
        self.starts, self.lengths, self.snrs_db = [], [], []
        self.received = []
        self.broken = False
        self.cut = ()
        self._clock = clock
        self._rng = np.random.default_rng(seed)
        self._air = deque()
        self._sent = 0

    def transmit(self, iq):
        if self.broken:
            raise DeviceError("the radio was unplugged; plug it in")
        if len(self.starts) in self.cut:
            iq = iq[: len(iq) // 2]
        delay = int(self._rng.integers(2000))
        self.starts.append(self._sent + delay)
        self.lengths.append(len(iq))
        self.snrs_db.append(self.snr_db)
        late = np.concatenate([np.zeros(delay, np.complex64), iq])
        late *= np.exp(2j * np.pi * CFO_HZ / self.sample_rate_hz * np.arange(len(late)))
        sigma = AMPLITUDE * 10 ** (-self.snr_db / 20) / 2**0.5
        noise = self._rng.normal(0, sigma, len(late)) + 1j * self._rng.normal(0, sigma, len(late))
        self._air.append((late + noise).astype(np.complex64))
        self._sent += len(late)
        self._clock.sleep_until(self._clock.now() + len(iq) / self.sample_rate_hz)

    def receive(self, n_samples, *, timeout_s):
        """All that was sent: never more than a burst and its delay."""
        iq = self._air.popleft() if self._air else np.zeros(0, np.complex64)
        assert len(iq) <= n_samples
        self.received.append(iq)
        return iq

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class TickingClock(VirtualClock):
    """Time goes on at every look, as on a real machine."""

    def __init__(self):
        super().__init__()
        self._rng = np.random.default_rng(73)

    def now(self):
        self.sleep_until(super().now() + self._rng.uniform(0, 1e-4))
        return super().now()


def links(kind, clock=None):
    clock = clock or VirtualClock()
    air = Air(clock)
    return kind(air, QueueFeedback(clock, delay_s=0.02), clock), air


def session(link, air):
    """Sounded at 20 dB, delivered at 12 dB: blocks are lost before the scheme adapts."""
    air.snr_db = 20.0
    sounding = link.sound()
    air.snr_db = 12.0
    return sounding, *link.deliver(PAYLOAD, Limits(airtime_s=10.0), sounding=sounding)


def record(folder, clock=None):
    link, air = links(RecordingLink, clock)
    link.begin(folder / "a.session", SETUP)
    result = session(link, air)
    return link.end(), air, result


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recording"))


@pytest.fixture
def copy(original, tmp_path):
    """A copy of the recording that a test may damage: its metadata's path."""
    shutil.copytree(original[0].parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / original[0].name


def edit(path, change):
    """Change what replay rests on, and forge its hash."""
    facts = json.loads(path.read_text())
    stated = facts["global"]["hil:session"]
    change(stated)
    text = json.dumps(stated, sort_keys=True)
    facts["global"]["hil:session_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(facts))


@pytest.mark.slow
def test_recording_changes_nothing_and_replay_gives_the_same_report_and_bytes(original):
    path, _, (sounding, report, received) = original
    assert report.blocks_lost > 0
    assert received == PAYLOAD
    assert session(*links(Link)) == (sounding, report, received)
    sounded, delivered = replay([path])
    assert sounded.differences == delivered.differences == ()
    assert delivered.received == PAYLOAD
    assert {name: delivered.replayed[name] for name in asdict(report)} == asdict(report)
    assert {name: sounded.replayed[name] for name in asdict(sounding)} == asdict(sounding)


@pytest.mark.slow
def test_times_of_a_clock_that_goes_on_by_itself_are_replayed_to_the_last_digit(tmp_path):
    path, _, (_, report, _) = record(tmp_path, TickingClock())
    _, delivered = replay([path])
    assert delivered.replayed["elapsed_s"] == report.elapsed_s > report.airtime_s
    assert delivered.differences == ()


def test_an_unusable_channel_is_replayed_too(tmp_path):
    link, air = links(RecordingLink)
    link.begin(tmp_path / "noise", SETUP)
    air.snr_db = -28.0
    report, received = link.deliver(PAYLOAD, Limits(elapsed_s=1.0))
    assert received is None
    assert math.isnan(report.snr_db)
    [delivered] = replay([link.end()])
    assert delivered.differences == ()
    assert delivered.received is None


@pytest.mark.slow
def test_the_sigmf_package_reads_and_validates_it(original):
    path, air, _ = original
    signal = sigmf.fromfile(path)  # compares the SHA-512, too
    signal.validate()
    assert np.array_equal(signal.read_samples(), np.concatenate(air.received))
    assert signal.sample_rate == RATE_HZ
    assert signal.datatype == "cf32_le"
    sounding, delivery = signal.get_captures()
    assert [sounding["hil:operation"], delivery["hil:operation"]] == ["sound", "deliver"]
    assert delivery["core:sample_start"] == len(air.received[0])
    assert delivery["core:frequency"] == 915e6
    assert delivery["hil:gain_db"] == 40.0


@pytest.mark.slow
def test_each_burst_is_annotated_where_it_was(original):
    path, air, _ = original
    found = sigmf.fromfile(path).get_annotations()
    assert [burst["core:sample_start"] for burst in found] == pytest.approx(air.starts, abs=4)
    assert [burst["core:sample_count"] for burst in found] == pytest.approx(air.lengths, abs=8)
    assert [burst["hil:snr_db"] for burst in found] == pytest.approx(air.snrs_db, abs=1.0)
    assert [burst["hil:cfo_hz"] for burst in found] == pytest.approx([CFO_HZ] * len(found), abs=100)
    assert [(burst["hil:session"], burst["hil:burst"]) for burst in found] == [
        (1, 0),
        *((2, number) for number in range(len(found) - 1)),
    ]
    middle_hz = [
        (burst["core:freq_lower_edge"] + burst["core:freq_upper_edge"]) / 2 for burst in found
    ]
    assert middle_hz == pytest.approx([915e6 + CFO_HZ] * len(found), abs=100)
    widths_hz = [burst["core:freq_upper_edge"] - burst["core:freq_lower_edge"] for burst in found]
    # 100 subcarriers on either side of the carrier's own, of 256
    assert widths_hz == pytest.approx([RATE_HZ * 201 / 256] * len(found))


@pytest.mark.slow
def test_bursts_are_found_wherever_a_window_of_the_search_ends(tmp_path, monkeypatch):
    link, air = links(RecordingLink)
    link.begin(tmp_path / "x", SETUP)
    link.deliver(PAYLOAD[:1500])
    for _ in range(3):
        link.deliver(PAYLOAD[:100])
    path = link.end()
    whole = read_recording(path)
    first, last = np.flatnonzero(np.array(air.starts) > max(air.lengths) + 9000)[[0, -1]].tolist()
    assert first < last
    ends = []
    for k in (first, last):
        start, end = air.starts[k], air.starts[k] + air.lengths[k]
        ends += [start - 50, start + 700, start + 3000, end - 50, end + 50]
    for window in ends:
        monkeypatch.setattr(recording, "_WINDOW_SAMPLES", window)
        shutil.copy(path.with_suffix(".sigmf-data"), tmp_path / "again.part")
        path.with_name("again.sigmf-meta").unlink(missing_ok=True)
        again = write_recording(tmp_path / "again", SETUP, whole.session, "0" * 128)
        found = json.loads(again.read_text())["annotations"]
        assert [burst["core:sample_start"] for burst in found] == pytest.approx(air.starts, abs=4)
        assert [burst["core:sample_count"] for burst in found] == pytest.approx(air.lengths, abs=8)


@pytest.mark.slow
def test_a_burst_that_breaks_off_ends_where_the_next_one_begins(tmp_path):
    link, air = links(RecordingLink)
    air.cut = (1,)
    link.begin(tmp_path / "cut", SETUP)
    report, received = link.deliver(PAYLOAD)
    assert received == PAYLOAD
    assert report.blocks_lost > 0
    path = link.end()
    found = sigmf.fromfile(path).get_annotations()
    starts = [burst["core:sample_start"] for burst in found]
    ends = [burst["core:sample_start"] + burst["core:sample_count"] for burst in found]
    assert starts == pytest.approx(air.starts, abs=4)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert [each.differences for each in replay([path])] == [()]


def test_what_a_limit_cut_off_is_replayed_to_the_same_prefix(tmp_path):
    link, _ = links(RecordingLink)
    link.begin(tmp_path / "limit", SETUP)
    report, received = link.deliver(PAYLOAD, Limits(airtime_s=0.03))
    path = link.end()
    assert received is None
    assert 0 < report.prefix_bytes < len(PAYLOAD)
    [delivered] = replay([path])
    assert delivered.differences == ()
    beginning = PAYLOAD[: report.prefix_bytes]
    assert delivered.replayed["prefix"]["sha256"] == hashlib.sha256(beginning).hexdigest()


def damage_data(path):
    data = path.with_suffix(".sigmf-data")
    stored = bytearray(data.read_bytes())
    stored[len(stored) // 2] ^= 1
    data.write_bytes(stored)


def cut_data(path):
    data = path.with_suffix(".sigmf-data")
    data.write_bytes(data.read_bytes()[:-4])


def lose_data(path):
    path.with_suffix(".sigmf-data").unlink()


def lose_payload(path):
    path.with_suffix(".1.payload").unlink()


def damage_payload(path):
    path.with_suffix(".1.payload").write_bytes(PAYLOAD[:-1] + b"?")


def damage_report(path):
    path.write_text(path.read_text().replace('"blocks_sent": ', '"blocks_sent": 1', 1))


def cut_metadata(path):
    path.write_text(path.read_text()[:-100])


def foreign(path):
    facts = json.loads(path.read_text())
    del facts["global"]["hil:session"]
    path.write_text(json.dumps(facts))


def lose_metadata(path):
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage_data, "sigmf-data: its SHA-512"),
        (cut_data, r"sigmf-data: \d+ bytes, \d+ were recorded"),
        (lose_data, "sigmf-data: No such file"),
        (lose_payload, r"a.session.1.payload: No such file"),
        (damage_payload, r"a.session.1.payload: its SHA-256"),
        (damage_report, "hil:session does not fit"),
        (cut_metadata, "not JSON"),
        (foreign, "no hil:session"),
        (lose_metadata, "sigmf-meta: No such file"),
    ],
)
def test_damage_is_refused_in_one_line(copy, harm, said):
    harm(copy)
    with pytest.raises(RecordingError, match=said) as caught:
        list(replay([copy]))
    assert "\n" not in str(caught.value)


def other_payload(stated):
    stated["operations"][1]["payload"]["sha256"] = hashlib.sha256(PAYLOAD[::-1]).hexdigest()


def other_length(stated):
    calls = [call for call in stated["calls"] if call["call"] == "receive"]
    calls[2]["asked"] += 1


def call_less(stated):
    stated["calls"].pop()


def call_more(stated):
    stated["calls"].append({"call": "wait", "at_s": 1e3})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_payload, "parts at call .* transmits another burst"),
        (other_length, "parts at call .* receive up to"),
        (call_less, "goes on after"),
        (call_more, "ends 1 calls early"),
    ],
)
def test_a_program_that_would_do_otherwise_is_told_where(copy, change, said):
    edit(copy, change)
    if change is other_payload:
        copy.with_suffix(".1.payload").write_bytes(PAYLOAD[::-1])
    with pytest.raises(RecordingError, match=said):
        list(replay([copy]))


@pytest.mark.slow
def test_other_figures_and_answers_are_named(copy):
    def change(stated):
        stated["operations"][1]["result"]["snr_db"] += 1e-12
        answers = [call for call in stated["calls"] if call["call"] == "answer"]
        answers[-1]["message"] = "00" + answers[-1]["message"][2:]

    edit(copy, change)
    sounded, delivered = replay([copy])
    assert sounded.differences == ()
    assert set(delivered.differences) == {"snr_db", "answers that differ"}


@pytest.mark.slow
def test_recordings_of_one_link_are_replayed_in_their_order(tmp_path):
    link, air = links(RecordingLink)
    paths = []
    for name, air.sample_rate_hz in (("first", 2e6), ("second", 1e6)):
        link.begin(tmp_path / name, SETUP)
        session(link, air)
        paths.append(link.end())
    assert [each.differences for each in replay(paths)] == [()] * 4
    with pytest.raises(RecordingError, match="begins at session 3"):
        list(replay(paths[1:]))


def test_a_session_that_fails_leaves_samples_but_no_recording(tmp_path):
    link, air = links(RecordingLink)
    link.begin(tmp_path / "x", SETUP)
    link.sound()
    air.broken = True
    with pytest.raises(DeviceError, match="unplugged"):
        link.deliver(PAYLOAD)
    assert link.end() is None
    assert (tmp_path / "x.part").stat().st_size == 8 * sum(map(len, air.received))
    with pytest.raises(RecordingError, match="No such file"):
        read_recording(tmp_path / "x")


def test_a_recording_is_not_written_over_and_has_one_rate(tmp_path):
    link, air = links(RecordingLink)
    link.begin(tmp_path / "x", SETUP)
    link.sound()
    air.sample_rate_hz = 1e6
    with pytest.raises(RecordingError, match="sample rate is 1e"):
        link.sound()
    link.end()
    air.sample_rate_hz = 2e6
    link.begin(tmp_path / "x", SETUP)
    link.sound()
    assert link.end() is not None
    with pytest.raises(RecordingError, match="exists"):
        link.begin(tmp_path / "x", SETUP)


def test_a_fingerprint_tells_bursts_apart_and_not_roundings():
    rng = np.random.default_rng(74)
    iq = (0.1 * rng.standard_normal(2 * 40_000)).astype(np.float32).view(np.complex64)
    rounded = iq * (1 + 1e-6 * rng.standard_normal(len(iq))).astype(np.float32)
    other = iq.copy()
    other[20_000:20_288] *= -1
    assert abs(fingerprint(rounded) - fingerprint(iq)) < SAME_BURST / 10
    assert abs(fingerprint(other) - fingerprint(iq)) > 10 * SAME_BURST
    assert abs(fingerprint(iq[::-1]) - fingerprint(iq)) > 10 * SAME_BURST
