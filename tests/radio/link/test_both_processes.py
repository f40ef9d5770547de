"""The two ends of the link, joined by nothing but air and answers: outages, restarts, lost and late
messages, cuts."""

import dataclasses
import heapq
import queue
import threading

import numpy as np
import pytest

from hil.contract import ConfigError, LinkReport
from radio.channel.noise import Awgn
from radio.clocks import MonotonicClock
from radio.link import (
    Adaptation,
    AnswerTaken,
    BlockStore,
    BurstSent,
    Limits,
    ReceivingEnd,
    SendingEnd,
    Sounding,
    receiver,
)
from radio.link.feedback import Feedback
from radio.link.receiving_end import STEP_S
from radio.link.sender import Sender
from radio.modem import framing, sync

RATE_HZ = 500e3
PAYLOAD = np.random.default_rng(301).bytes(
    150_000
)  # 145 blocks: five bursts, a second of air at 20 dB
SHORT = PAYLOAD[:20_000]


class Edge:
    """The edge's radio: hears the air with noise, unless it is away; moves the world's time as it
    listens."""

    def __init__(self, world):
        self.world = world
        self.sample_rate_hz = RATE_HZ
        self.position = 0
        self.rng = np.random.default_rng(302)

    def receive(self, n_samples, *, timeout_s):
        world = self.world
        if world.radio_away:
            world.now_s += min(timeout_s, 0.1)
            self.position = max(self.position, int(world.now_s * RATE_HZ))
            return np.zeros(0, np.complex64)
        n_heard = n_samples // 3 if world.cuts and self.rng.random() < world.cuts else n_samples
        iq = Awgn(world.snr_db)(world.heard(self.position, n_heard), self.rng)
        self.position += n_samples
        world.now_s = max(world.now_s, self.position / RATE_HZ)
        return iq


class EdgeClock:
    """The same time, for the edge: when it sleeps, nothing but time passes."""

    def __init__(self, world):
        self.world = world

    def now(self):
        return self.world.now_s

    def sleep_until(self, t_s):
        self.world.now_s = max(self.world.now_s, t_s)


class World:
    """Air, answers and time between a cloud and an edge: a clock, a transmitter and a feedback path
    for the cloud.

    Time passes only while the cloud waits: then the edge listens, step by step. A transmitter with
    a queue returns at once, the other kind when all is played.

    Attributes:
        away: spans of time in which the edge's radio gives nothing.
        dropped: numbers of the transmissions that never reach the edge.
        lost: share of the answers that are lost; others come `delay_s` later, twice or out of order
            as `chaos` says.
        events: what the cloud's end sent and took.
    """

    def __init__(
        self,
        snr_db=20.0,
        *,
        away=(),
        lost=0.0,
        chaos=0.0,
        delay_s=0.02,
        cuts=0.0,
        dropped=(),
        queues=True,
        store=None,
    ):
        self.now_s = 0.0
        self.snr_db, self.away, self.cuts, self.dropped = snr_db, away, cuts, dropped
        self.lost, self.chaos, self.delay_s, self.queues = lost, chaos, delay_s, queues
        self.sample_rate_hz = RATE_HZ
        self.transmitted = []
        self.events = []
        self.answers = []
        self.replayed = None
        self._free = 0
        self._messages = []
        self._rng = np.random.default_rng(303)
        self.store = store
        self.epoch = 0
        self.start_edge()

    def start_edge(self):
        self.epoch += 1
        self.edge = ReceivingEnd(
            Edge(self), self, EdgeClock(self), epoch=self.epoch, store=self.store
        )
        self.edge.transceiver.position = int(self.now_s * RATE_HZ)

    def cloud(self, **arguments):
        return SendingEnd(self, self, self, watch=self.events.append, **arguments)

    @property
    def radio_away(self):
        return any(begin <= self.now_s < end for begin, end in self.away)

    def heard(self, position, n):
        iq = np.zeros(n, np.complex64)
        for number, (start, burst) in enumerate(self.transmitted):
            if number in self.dropped:
                continue
            first, last = max(start, position), min(start + len(burst), position + n)
            if first < last:
                iq[first - position : last - position] = burst[first - start : last - start]
        return iq

    # the cloud's clock

    def now(self):
        return self.now_s

    def sleep_until(self, t_s):
        while self.now_s < t_s:
            self.edge.listen()

    # the cloud's radio

    def transmit(self, iq):
        start = max(self._free, int(np.ceil(self.now_s * RATE_HZ)))
        self.transmitted.append((start, iq))
        self._free = start + len(iq)
        if not self.queues:
            self.sleep_until(self._free / RATE_HZ)

    # the feedback path

    def send(self, message):
        self.answers.append(Feedback.unpack(message))
        if self._rng.random() < self.lost:
            return
        copies = 1 + (self._rng.random() < self.chaos)
        for _ in range(copies):
            late_s = 0.3 * self._rng.random() if self._rng.random() < self.chaos else 0.0
            heapq.heappush(
                self._messages, (self.now_s + self.delay_s + late_s, len(self.answers), message)
            )

    def receive(self, timeout_s):
        until_s = self.now_s + timeout_s
        while True:
            if self._messages and self._messages[0][0] <= self.now_s:
                return heapq.heappop(self._messages)[2]
            if self.radio_away and self.replayed is not None and self._rng.random() < 0.2:
                return self.replayed.pack()
            if self.now_s >= until_s:
                return None
            self.edge.listen()


def of(kind, world):
    return [event for event in world.events if isinstance(event, kind)]


def data_sent(world):
    return [event for event in of(BurstSent, world) if event.indices]


def assert_nothing_held_is_sent_again(world):
    held = {}
    for event in world.events:
        if isinstance(event, AnswerTaken):
            held[event.session] = event.held
        elif event.session in held:
            known = held[event.session]
            assert not any(known[i] for i in event.indices if i < len(known))


def sender_of(payload, *, session):
    return Sender(payload, session=session, adaptation=Adaptation(), snr_db=20.0)


@pytest.mark.slow
@pytest.mark.parametrize("queues", [True, False])
def test_both_ends_and_the_air_tell_the_same_story(queues):
    world = World(queues=queues)
    cloud = world.cloud(first_session=7)
    sounding = cloud.sound()
    report = cloud.deliver(PAYLOAD, sounding=sounding)
    assert cloud.next_session == 9
    assert world.edge.payload(8) == PAYLOAD
    assert report.delivered
    assert (report.reason, report.prefix_bytes) == ("", len(PAYLOAD))
    seen = [receiver.peek_header(iq, *sync.find_bursts(iq)) for _, iq in world.transmitted]
    assert [(h.session, h.burst, h.block_count) for h in seen] == [
        (e.session, e.burst, len(e.indices)) for e in of(BurstSent, world)
    ]
    assert report.bursts_sent == len(seen) == world.edge.bursts
    assert report.blocks_sent == sum(h.block_count for h in seen)
    assert (report.bursts_lost, sounding.bursts_lost) == (0, 0)
    assert report.blocks_lost == report.blocks_sent - world.answers[-1].blocks_passed
    assert report.airtime_s == pytest.approx(sum(len(iq) for _, iq in world.transmitted) / RATE_HZ)
    assert report.elapsed_s == pytest.approx(world.now_s)
    assert report.feedback_bytes == sum(len(a.pack()) for a in world.answers)
    assert len(world.answers) == world.edge.answers == len(of(AnswerTaken, world))
    assert report.snr_db == pytest.approx(20.0, abs=0.3)
    assert sounding.snr_db == pytest.approx(20.0, abs=1.0)
    assert cloud.bandwidth_hz == pytest.approx(RATE_HZ * 201 / 256)
    assert sum(e.indices == () for e in of(BurstSent, world)) == 1
    assert sounding.elapsed_s < sounding.airtime_s + world.delay_s + 1.5 * STEP_S
    assert (
        report.elapsed_s < report.airtime_s + 2 * world.delay_s + 5 * STEP_S
    )  # the window's for a step of silence
    assert_nothing_held_is_sent_again(world)


def test_answers_within_a_window_come_every_fifth_of_a_second_and_steer_it():
    world = World(snr_db=9.0)
    cloud = world.cloud()
    sounding = cloud.sound()
    begun_s = world.now_s
    world.snr_db = 24.0  # the window begins slow
    report = cloud.deliver(PAYLOAD, sounding=sounding)
    assert world.edge.payload(2) == PAYLOAD
    assert len(report.blocks_by_mcs) > 1
    window_s = of(BurstSent, world)[-1].at_s - begun_s
    assert 2 <= len(world.answers) - 1 <= window_s / 0.2 + 3
    first = next(answer for answer in world.answers if answer.session == 2)
    assert (first.last_burst, first.bursts_found) == (0, 1)


def test_a_step_without_any_burst_ends_a_window_and_the_step_in_which_one_ends_does_not():
    world = World()
    (burst,) = sender_of(PAYLOAD[:5000], session=3).window(10**9)
    step, length = int(STEP_S * RATE_HZ), len(burst.iq)
    second = length + 300
    third = second + length
    world.transmitted = [
        (start - third % step - 300 + 2 * step, burst.iq) for start in (0, second, third)
    ]
    assert (
        world.transmitted[2][0] + 300
    ) % step == 0  # in one step: the end of one, and the beginning of another
    assert world.transmitted[2][0] + length < 0.2 * RATE_HZ
    world.edge.listen(0.5)
    assert (world.edge.bursts, world.edge.answers) == (3, 2)  # the first, and the window


def test_the_first_burst_of_a_payload_is_answered_at_once():
    world = World(snr_db=28.0)
    cloud = world.cloud()
    cloud.deliver(PAYLOAD, sounding=cloud.sound())
    assert [(a.session, a.bursts_found) for a in world.answers[:2]] == [(1, 1), (2, 1)]
    second_s = next(e.at_s for e in of(AnswerTaken, world) if e.session == 2)
    first_s = next(e.at_s for e in of(AnswerTaken, world) if e.session == 1)
    assert second_s - first_s < 0.17  # earlier than any burst would be answered


def test_where_answers_take_long_more_is_sent_than_is_wanted():
    sent = []
    for delay_s in (0.01, 0.4):
        cloud = World(delay_s=delay_s).cloud()
        sounding = cloud.sound()
        sent.append(cloud.deliver(SHORT, sounding=sounding).blocks_sent)
    assert sent[0] < sent[1] < 1.5 * sent[0]


@pytest.mark.slow
def test_the_radio_is_kept_supplied_but_never_far_ahead():
    world = World(snr_db=8.0)
    report = world.cloud().deliver(PAYLOAD)
    assert report.delivered
    handed_s = [e.at_s for e in of(BurstSent, world)]
    played_s = [start / RATE_HZ for start, _ in world.transmitted]
    assert np.allclose(
        handed_s, played_s, atol=2 / RATE_HZ
    )  # what the end takes for the air's state is so
    ends_s = [(start + len(iq)) / RATE_HZ for start, iq in world.transmitted]
    pauses = np.subtract(played_s[1:], ends_s[:-1])
    assert (pauses > 1e-4).sum() <= 3  # between windows only


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_delivery_survives_lost_late_doubled_and_swapped_answers_and_cuts(seed):
    world = World(snr_db=14.0, lost=0.3, chaos=0.5, cuts=0.05)
    world._rng = np.random.default_rng(310 + seed)
    world.edge.transceiver.rng = np.random.default_rng(320 + seed)
    cloud = world.cloud()
    report = cloud.deliver(PAYLOAD, Limits(feedback_timeout_s=0.1))
    assert report.delivered
    assert world.edge.payload(1) == PAYLOAD
    assert (
        0
        <= report.blocks_lost
        < report.blocks_sent
        == sum(len(e.indices) for e in data_sent(world))
    )
    assert_nothing_held_is_sent_again(world)


@pytest.mark.slow
@pytest.mark.parametrize(("away_s", "stale"), [(5.0, False), (10.0, True)])
def test_an_outage_of_the_receiving_radio_is_waited_for_with_soundings_only(away_s, stale):
    back_s = 0.6 + away_s
    world = World(away=[(0.6, back_s)])
    cloud = world.cloud()

    def watch(event):
        world.events.append(event)
        if stale and world.answers:
            world.replayed = world.answers[-1]

    cloud.watch = watch
    report = cloud.deliver(PAYLOAD)
    assert report.delivered
    assert world.edge.payload(1) == PAYLOAD
    assert_nothing_held_is_sent_again(world)
    blind = [event for event in of(BurstSent, world) if 0.6 + 1.7 < event.at_s < back_s]
    assert len(blind) >= 0.85 * (away_s - 2)
    assert all(event.indices == () for event in blind)
    gaps = np.diff([event.at_s for event in blind])
    assert (gaps < 1.3).all()  # two waits, which end with a step of a radio that is away
    assert gaps[-1] > 0.95
    answered_s = min(event.at_s for event in of(AnswerTaken, world) if event.at_s > back_s)
    assert answered_s < back_s + 1.3
    assert report.elapsed_s < back_s + 3.5


@pytest.mark.slow
def test_a_window_breaks_off_when_nothing_is_heard_of_it():
    world = World(snr_db=3.0, away=[(1.0, 7.0)])
    report = world.cloud(patience_s=7.5).deliver(PAYLOAD)
    assert report.delivered  # patience begins anew with every block that is held
    window_s = sum(len(iq) for _, iq in world.transmitted) / RATE_HZ
    assert window_s > 4.0
    longest_s = max(len(iq) for _, iq in world.transmitted) / RATE_HZ
    assert not [e for e in data_sent(world) if 1.0 + 0.52 + 0.2 + 0.5 + longest_s < e.at_s < 7.0]
    assert len([e for e in data_sent(world) if e.at_s > 1.0]) >= 2
    assert_nothing_held_is_sent_again(world)


def test_what_the_radio_still_has_to_play_is_not_waited_for_with_soundings():
    world = World(snr_db=-2.5)  # bursts of half a second
    report = world.cloud().deliver(PAYLOAD[:6000], Limits(feedback_timeout_s=0.1))
    assert report.delivered
    assert max(len(iq) for _, iq in world.transmitted) / RATE_HZ > 0.4
    assert [bool(e.indices) for e in of(BurstSent, world)].count(False) == 1


def test_patience_ends_and_says_so():
    world = World(away=[(0.6, 99.0)])
    cloud = world.cloud(patience_s=8.0)
    report = cloud.deliver(PAYLOAD)
    assert not report.delivered
    assert "no new block in 8 s" in report.reason
    assert 8.0 < world.now_s < 11.0
    assert 0 < report.prefix_bytes <= len(world.edge.prefix(1))
    assert PAYLOAD.startswith(world.edge.prefix(1))
    report = cloud.deliver(SHORT)
    assert report.reason == f"none of {report.bursts_sent} bursts was answered"
    assert report.blocks_sent == 0
    assert world.now_s < 22.0


def test_a_sounding_waits_for_the_radio_or_makes_so_many_attempts():
    world = World(away=[(0.0, 6.0)])
    cloud = world.cloud(patience_s=3.0)
    sounding = cloud.sound(attempts=2)
    assert sounding.bursts_sent == sounding.bursts_lost == 2
    assert "none of 2" in sounding.reason
    assert world.now_s < 1.5
    sounding = cloud.sound()
    assert "answered" in sounding.reason
    assert 4.0 < world.now_s < 6.0
    cloud.patience_s = 20.0
    sounding = cloud.sound()
    assert sounding.reason == ""
    assert sounding.measured_at_s < 7.3
    assert sounding.bursts_lost == sounding.bursts_sent - 1


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(elapsed_s=0.7), "time limit of 0.7 s"),
        (Limits(airtime_s=0.4), "airtime limit of 0.4 s"),
    ],
)
def test_limits_hold_are_named_and_leave_a_prefix(limits, said):
    world = World()
    cloud = world.cloud()
    report = cloud.deliver(PAYLOAD, limits)
    assert said in report.reason
    assert report.elapsed_s <= limits.elapsed_s + STEP_S
    assert (
        report.airtime_s
        == sum(len(iq) for _, iq in world.transmitted) / RATE_HZ
        <= limits.airtime_s
    )
    assert (
        max(start + len(iq) for start, iq in world.transmitted) / RATE_HZ <= limits.elapsed_s + 1e-6
    )
    assert 20_000 < report.prefix_bytes <= len(world.edge.prefix(1)) < len(PAYLOAD)


def test_a_message_that_waits_since_an_earlier_session_is_not_taken_for_an_answer():
    world = World()
    world.transmit(
        sender_of(b"", session=1).window(10**9).__next__().iq[:800]
    )  # a preamble without its header
    world.edge.listen(0.3)
    assert world.answers[0].bursts_found == 0
    world.sleep_until(1.0)
    world.away = [(0.0, 99.0)]
    sounding = world.cloud().sound(attempts=2)
    assert "none of 2" in sounding.reason
    assert np.isnan(sounding.snr_db)


def test_a_deadline_holds_through_an_outage():
    world = World(away=[(0.0, 60.0)])
    report = world.cloud(patience_s=1e9).deliver(PAYLOAD, Limits(elapsed_s=5.0))
    assert "time limit" in report.reason
    assert world.now_s <= 5.0 + 0.15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snr_db", "said"), [(-10.5, "unusable: measured SNR of -"), (-25.0, "answered")]
)
def test_an_unusable_channel_is_sounded_at_growing_intervals_until_patience_ends(snr_db, said):
    world = World(snr_db=snr_db)
    report = world.cloud(patience_s=5.0).deliver(SHORT)
    assert not report.delivered
    assert said in report.reason
    assert report.blocks_sent == 0
    gaps = np.diff([e.at_s for e in of(BurstSent, world)])
    assert gaps[-1] > 0.5
    assert (gaps < 1.1).all()
    assert 5.0 < world.now_s < 6.2


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_receiving_end_that_starts_anew_goes_on_with_what_its_store_holds(tmp_path, kept):
    world = World(store=BlockStore(tmp_path) if kept else None)
    cloud = world.cloud()

    def watch(event):
        world.events.append(event)
        if isinstance(event, AnswerTaken) and event.held.sum() > 40 and world.epoch == 1:
            world.start_edge()

    cloud.watch = watch
    report = cloud.deliver(PAYLOAD)
    assert report.delivered
    assert world.epoch == 2
    assert world.edge.payload(1) == PAYLOAD
    assert 0 <= report.blocks_lost < report.blocks_sent
    assert_nothing_held_is_sent_again(world)
    assert report.blocks_sent <= framing.block_count_of(len(PAYLOAD)) + (50 if kept else 145)


class KilledError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("sounded", [True, False])
def test_a_sending_end_that_starts_anew_goes_on_under_the_same_number(sounded):
    world = World()

    def die(event):
        world.events.append(event)
        if isinstance(event, AnswerTaken) and event.held.sum() > 60:
            raise KilledError

    first = world.cloud(first_session=4)
    first.watch = die
    with pytest.raises(KilledError):
        first.deliver(PAYLOAD)
    first_bursts = len(world.transmitted)
    sounding = world.cloud(first_session=3).sound() if sounded else None
    report = world.cloud(first_session=4).deliver(PAYLOAD, sounding=sounding)
    assert report.delivered
    assert world.edge.payload(4) == PAYLOAD
    again = sum(len(e.indices) for e in of(BurstSent, world)[first_bursts:])
    assert again == report.blocks_sent
    assert report.blocks_sent <= (145 if sounded else 145 - 60 + 5)
    assert report.bursts_lost >= 0
    assert report.blocks_lost >= 0
    assert report.elapsed_s < report.airtime_s + 1.2


@pytest.mark.slow
def test_answers_slower_than_the_wait_for_them_are_met_with_longer_waits():
    world = World(delay_s=1.3, dropped={2, 3})
    report = world.cloud().deliver(PAYLOAD)
    assert report.delivered
    assert report.elapsed_s < 16.0
    assert_nothing_held_is_sent_again(world)


def test_answers_of_earlier_sessions_do_not_disturb():
    world = World(chaos=1.0)
    cloud = world.cloud()
    for size in (3000, 20_000, 9000):
        report = cloud.deliver(PAYLOAD[:size])
        assert report.delivered
        assert report.bursts_lost == 0
        assert world.edge.payload(cloud.next_session - 1) == PAYLOAD[:size]


@pytest.mark.slow
def test_time_that_the_own_radio_is_away_is_not_charged_to_the_other_end():
    world = World()
    usual = world.transmit

    def transmit(iq):
        if not world.transmitted:
            world.transmitted.append((0, np.zeros(1, np.complex64)))
            world.sleep_until(world.now_s + 9.0)  # reopened meanwhile; the burst is lost
        else:
            usual(iq)

    world.transmit = transmit
    report = world.cloud(patience_s=3.0).deliver(SHORT)
    assert report.delivered
    assert report.bursts_lost == 1
    assert world.edge.payload(1) == SHORT


def test_the_receiving_end_answers_what_it_heard_once():
    world = World()
    edge, transmit = world.edge, world.transmit
    bursts = list(sender_of(SHORT, session=3).window(10**9))
    edge.listen(1.0)
    assert (edge.bursts, edge.answers) == (0, 0)  # noise is not answered
    transmit(bursts[0].iq)
    edge.listen(0.5)
    assert (edge.bursts, edge.answers) == (1, 1)
    transmit(bursts[0].iq)  # once more, and its answer again
    edge.listen(0.5)
    assert (edge.bursts, edge.answers) == (2, 2)
    edge.listen(1.0)
    assert edge.answers == 2
    first, second = world.answers
    assert first.bursts_found == second.bursts_found == 1
    assert edge.payload(3) == SHORT
    assert edge.payload(4) is None
    assert edge.prefix(4) == b""


def test_a_burst_that_is_cut_off_by_the_stream_is_answered_with_its_whole_blocks():
    world = World()
    (burst,) = sender_of(SHORT, session=3).window(10**9)
    world.transmit(burst.iq)
    world.away = [(0.6 * len(burst.iq) / RATE_HZ, 5.0)]
    world.edge.listen(1.0)
    (answer,) = world.answers
    assert 5 < answer.held.sum() < 15
    assert SHORT.startswith(world.edge.prefix(3))
    assert len(world.edge.prefix(3)) == int(answer.held.argmin()) * framing.LONG.block_payload_bytes


def test_an_empty_payload_is_refused():
    cloud = World().cloud()
    with pytest.raises(ConfigError, match="empty"):
        cloud.deliver(b"")


class Pipe:
    """Air between two threads, without time: what is transmitted waits to be received."""

    def __init__(self):
        self.sample_rate_hz = RATE_HZ
        self._air = queue.SimpleQueue()
        self._rest = np.zeros(0, np.complex64)
        self._rng = np.random.default_rng(330)

    def transmit(self, iq):
        self._air.put(iq)

    def receive(self, n_samples, *, timeout_s):
        try:
            while len(self._rest) < n_samples:
                self._rest = np.concatenate([self._rest, self._air.get(timeout=0.02)])
        except queue.Empty:
            self._rest = np.concatenate(
                [self._rest, np.zeros(n_samples, np.complex64)]
            )  # the air is silent
        iq, self._rest = self._rest[:n_samples], self._rest[n_samples:]
        return Awgn(18.0)(iq, self._rng)


class Answers:
    """A feedback path between two threads: answers are lost, doubled and swapped at random."""

    def __init__(self):
        self._queue = queue.SimpleQueue()
        self._rng = np.random.default_rng(331)
        self._kept = None

    def send(self, message):
        fate = self._rng.random()
        if fate < 0.15:
            return
        if fate < 0.3:
            self._kept = message
            return
        self._queue.put(message)
        if fate < 0.5:
            self._queue.put(message)
        if self._kept is not None:
            self._queue.put(self._kept)
            self._kept = None

    def receive(self, timeout_s):
        try:
            return self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None


@pytest.mark.slow
def test_two_threads_share_nothing_but_air_and_answers():
    pipe, answers, clock = Pipe(), Answers(), MonotonicClock()
    edge = ReceivingEnd(pipe, answers, clock, epoch=5)
    stop = threading.Event()
    failures = []

    def listen():
        try:
            while not stop.is_set():
                edge.listen(0.05)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    events = []
    cloud = SendingEnd(pipe, answers, clock, watch=events.append)
    try:
        limits = Limits(elapsed_s=20.0, feedback_timeout_s=0.2)
        sounding = cloud.sound(limits)
        report = cloud.deliver(PAYLOAD[:60_000], limits, sounding=sounding)
    finally:
        stop.set()
        thread.join(10.0)
    assert not failures
    assert not thread.is_alive()
    assert report.delivered
    assert edge.payload(2) == PAYLOAD[:60_000]
    assert report.blocks_sent == sum(len(e.indices) for e in events if isinstance(e, BurstSent))


def test_soundings_and_reports_are_the_contract_s_records():
    world = World()
    cloud = world.cloud()
    sounding = cloud.sound()
    assert isinstance(sounding, Sounding)
    assert isinstance(cloud.deliver(SHORT, sounding=sounding), LinkReport)
    assert dataclasses.is_dataclass(sounding)
