"""The two ends without a driver: what they do with bursts and messages that are late, twice, cut or
missing."""

import dataclasses

import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from radio.channel import Awgn
from radio.link import Adaptation, BlockStore, combining, reassembly
from radio.link.burst_size import BURST_SAMPLES, robust_sounding, sounding_samples
from radio.link.feedback import Feedback
from radio.link.receiver import Receiver, receive_burst
from radio.link.sender import Sender
from radio.modem import framing, mcs, sync

RATE_HZ = 2e6
LONG = np.random.default_rng(81).bytes(
    210_000
)  # 203 blocks: seven bursts, and too many for repair blocks
PAYLOAD = LONG[:70_000]  # 68 blocks: three bursts
ALL = 10**9


class Fixed(Adaptation):
    """Takes one MCS whatever the SNR is."""

    def __init__(self, place=13):
        super().__init__()
        self.place = place

    def choose(self, snr_db, snr_std_db=0.0):
        return mcs.MCS_TABLE[self.place]


def sender(payload=PAYLOAD, *, session=5, snr_db=22.0, place=13):
    return Sender(payload, session=session, adaptation=Fixed(place), snr_db=snr_db)


def hear(receiver, bursts, snr_db=22.0, seed=82):
    """The bursts one after another with pauses, in one capture."""
    rng = np.random.default_rng(seed)
    pause = np.zeros(500, np.complex64)
    parts = []
    for burst in bursts:
        parts += [pause, burst if isinstance(burst, np.ndarray) else burst.iq]
    receiver.feed(Awgn(snr_db)(np.concatenate([*parts, pause]), rng), RATE_HZ)
    receiver.flush(RATE_HZ)


def answered(tx, rx):
    """The receiver's answer, taken by the sender."""
    answer = rx.feedback()
    assert tx.on_feedback(answer.pack())
    return answer


def test_a_window_and_one_answer_deliver_the_payload():
    tx, rx = sender(), Receiver(epoch=1)
    bursts = list(tx.window(ALL))
    assert [b.header.block_count for b in bursts] == [32, 32, 4]
    assert [b.header.first for b in bursts] == [0, 32, 64]
    hear(rx, bursts)
    assert rx.payload(5) == PAYLOAD
    assert rx.prefix(5) == PAYLOAD
    answered(tx, rx)
    assert tx.complete
    assert list(tx.window(ALL)) == []


def test_without_an_snr_the_sender_sounds_first():
    tx, rx = Sender(PAYLOAD, session=5, adaptation=Adaptation()), Receiver(epoch=1)
    (burst,) = tx.window(ALL)
    assert burst.header.block_count == 0
    assert burst.header.robust
    assert len(burst.iq) == sounding_samples(float("nan"))
    hear(rx, [burst])
    answered(tx, rx)
    assert tx.snr_db == pytest.approx(22.0, abs=0.7)
    chosen = next(iter(tx.window(ALL))).header
    assert chosen.mcs.place == mcs.fastest(tx.snr_db - tx.snr_std_db)
    assert not chosen.robust


def test_soundings_are_robust_where_the_snr_is_unknown_or_low():
    low = mcs.slowest(robust=False).threshold_db
    assert robust_sounding([float("nan"), -10.0, low, 15.0]).tolist() == [True, True, True, False]
    for snr_db in (float("nan"), low, 15.0):
        (burst,) = Sender(b"", session=1, adaptation=Adaptation(), snr_db=snr_db).window(ALL)
        assert burst.header.robust == robust_sounding(snr_db)
        assert len(burst.iq) == sounding_samples(snr_db)


@pytest.mark.parametrize("place", [0, 1, 2, 17])
def test_data_bursts_are_robust_where_their_mcs_is_and_bounded_in_length(place):
    bursts = list(sender(PAYLOAD[:20_000], place=place, snr_db=40.0).window(ALL))
    assert {b.header.robust for b in bursts} == {place < 2}
    assert all(len(b.iq) <= BURST_SAMPLES for b in bursts)
    assert sum(b.header.block_count for b in bursts) == 20


def test_duplicated_and_reordered_bursts_do_no_harm_and_count_once():
    tx, rx = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    hear(rx, [c, a, a, c, b, a])
    answer = rx.feedback()
    assert rx.payload(5) == PAYLOAD
    assert (answer.bursts_found, answer.blocks_passed, answer.last_burst) == (3, 68, 2)


def test_only_the_holes_of_a_missing_burst_go_again():
    tx, rx = sender(), Receiver(epoch=1)
    a, _, c = tx.window(ALL)
    hear(rx, [a, c])
    answer = answered(tx, rx)
    np.testing.assert_array_equal(np.flatnonzero(~answer.held), np.arange(32, 64))
    assert rx.prefix(5) == PAYLOAD[: 32 * framing.LONG.block_payload_bytes]
    (again,) = tx.window(ALL)
    assert (again.header.basis, again.header.first, again.header.block_count) == (
        answer.sequence,
        0,
        32,
    )
    hear(rx, [again])
    assert rx.payload(5) == PAYLOAD


def test_a_truncated_burst_gives_its_whole_blocks():
    tx, rx = sender(), Receiver(epoch=1)
    header = next(iter(tx.window(ALL))).header
    iq = next(iter(sender().window(ALL))).iq
    ten_blocks = framing.burst_samples(10, header.mcs, robust=False)
    rx.feed(Awgn(22.0)(iq[: ten_blocks + 100], np.random.default_rng(83)), RATE_HZ)
    assert rx.feedback() is None  # the rest might still come
    assert rx.mid_burst
    rx.flush(RATE_HZ)
    answer = rx.feedback()
    assert answer.held.sum() in (9, 10)  # the tenth may lack its last samples
    assert answer.block_error_rate == pytest.approx(1 - answer.held.sum() / 32)


def test_a_burst_that_was_cut_off_by_the_next_one_costs_neither():
    tx, rx = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    hear(rx, [np.concatenate([a.iq[:20_000], b.iq]), c])
    assert rx.feedback().held[32:].all()


@pytest.mark.parametrize("chunk", [700, 5_000, 33_333])
def test_a_stream_may_come_in_pieces(chunk):
    tx, rx = sender(PAYLOAD[:6000]), Receiver(epoch=1)
    pause = np.zeros(1111, np.complex64)
    twice = [np.concatenate([pause, burst.iq, pause, burst.iq]) for burst in tx.window(ALL)]
    iq = Awgn(22.0)(np.concatenate(twice), np.random.default_rng(84))
    heard = []
    for k in range(0, len(iq), chunk):
        heard += rx.feed(iq[k : k + chunk], RATE_HZ)
    heard += rx.flush(RATE_HZ)
    assert len(heard) == 2
    assert rx.payload(5) == PAYLOAD[:6000]


def test_a_missing_answer_is_asked_for_and_no_data_repeated():
    tx, rx = sender(), Receiver(epoch=1)
    hear(rx, tx.window(ALL))
    rx.feedback()  # lost
    (poll,) = tx.window(ALL)
    assert poll.header.block_count == 0
    assert not poll.header.robust
    hear(rx, [poll])
    answered(tx, rx)
    assert tx.complete


def test_an_answer_to_all_blocks_will_do_while_soundings_are_on_their_way():
    tx, rx = sender(), Receiver(epoch=1)
    a, b, _ = tx.window(ALL)
    hear(rx, [a, b])
    answered(tx, rx)
    assert not tx.informed  # what became of the third burst is not known
    first, second = (next(iter(tx.window(ALL))) for _ in range(2))
    hear(rx, [first])
    answered(tx, rx)
    assert tx.informed
    hear(rx, [second])
    late = rx.feedback()
    (again,) = tx.window(ALL)
    assert again.header.block_count == 2
    assert tx.on_feedback(late.pack())
    assert not tx.informed  # it speaks of the time before


def test_an_answer_without_a_header_or_about_an_earlier_life_tells_nothing_of_blocks_on_the_way():
    tx, rx = sender(), Receiver(epoch=1)
    next(iter(tx.window(ALL)))  # lost, as most of the sounding behind it
    (poll,) = tx.window(ALL)
    hear(rx, [poll.iq[: len(poll.iq) - 4 * 288]])
    assert answered(tx, rx).bursts_found == 0
    assert not tx.informed
    first, rx = sender(LONG), Receiver(epoch=1)
    hear(rx, list(first.window(ALL))[2:])
    second = sender(LONG)
    hear(rx, [next(iter(second.window(ALL)))])
    assert answered(second, rx).last_burst == 6
    assert not second.informed
    (poll,) = second.window(ALL)
    assert (poll.header.burst, poll.header.block_count) == (7, 0)


def test_damaged_foreign_repeated_and_overtaken_answers_are_counted_and_ignored():
    tx, rx = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    hear(rx, [a])
    early = rx.feedback()
    hear(rx, [b, c])
    late = rx.feedback()
    assert tx.on_feedback(late.pack())
    assert tx.complete
    refused = [
        early.pack(),  # overtaken
        late.pack(),  # twice
        b"",
        b"nonsense",
        late.pack()[:-3],
        dataclasses.replace(late, sequence=99, session=6).pack(),
        dataclasses.replace(late, sequence=99, tag=bytes(6)).pack(),
        dataclasses.replace(late, sequence=99, held=np.ones(4, np.bool_)).pack(),
    ]
    assert not any(tx.on_feedback(message) for message in refused)
    assert tx.ignored == len(refused)
    assert tx.complete


def test_an_answer_within_a_window_steers_its_mcs_and_is_not_taken_for_the_last_word():
    class Learning(Fixed):
        def observe(self, blocks, lost):
            self.place = 9 if lost else 15
            super().observe(blocks, lost)

    adaptation = Learning()
    tx = Sender(LONG, session=5, adaptation=adaptation, snr_db=22.0)
    rx = Receiver(epoch=1)
    window = tx.window(ALL)
    first = [next(window), next(window)]
    hear(rx, first)
    answered(tx, rx)
    assert adaptation.loss < 0.01
    rest = list(window)
    assert {b.header.mcs.place for b in first} == {13}
    assert {b.header.mcs.place for b in rest} == {15}
    assert {b.header.basis for b in rest} == {0}  # places in the list with which the window began
    assert sum(b.header.block_count for b in rest) == 203 - 64
    (poll,) = tx.window(ALL)
    assert poll.header.block_count == 0  # what became of the rest is not known
    hear(rx, rest)
    answered(tx, rx)
    assert rx.payload(5) == LONG


def test_a_window_ends_when_an_answer_shows_that_its_blocks_are_held():
    """A sender that started anew with a known SNR repeats what was held only until the first
    answer."""
    first, rx = sender(), Receiver(epoch=1)
    hear(rx, [b for b in first.window(ALL) if b.header.first >= 32])
    second = sender()
    window = second.window(ALL)
    hear(rx, [next(window)])
    answered(second, rx)
    assert list(window) == []
    assert second.complete


def test_a_restarted_receiver_says_what_it_holds_and_gets_the_rest():
    tx, old = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    hear(old, [a])
    assert tx.on_feedback(old.feedback().pack())
    new = Receiver(epoch=2)
    hear(new, [c])
    answered(tx, new)
    assert tx.held.sum() == 4  # what the first life held is gone
    hear(old, [b])
    assert not tx.on_feedback(old.feedback().pack())  # a late word of the first life
    hear(new, tx.window(ALL))
    assert new.payload(5) == PAYLOAD


def test_a_receiver_with_a_store_goes_on_where_its_last_life_ended(tmp_path):
    tx, old = sender(), Receiver(epoch=1, store=BlockStore(tmp_path))
    a, b, c = tx.window(ALL)
    hear(old, [a, c])
    new = Receiver(epoch=2, store=BlockStore(tmp_path))
    hear(new, list(Sender(PAYLOAD, session=5, adaptation=Fixed()).window(ALL)))
    assert new.feedback().held.sum() == 36
    other = Receiver(epoch=3, store=BlockStore(tmp_path))
    hear(other, list(Sender(PAYLOAD[:-1], session=5, adaptation=Fixed()).window(ALL)))
    assert other.feedback().held.sum() == 0  # another payload under the same number
    hear(new, [b])
    assert new.payload(5) == PAYLOAD


def test_a_restarted_sender_resumes_with_the_same_payload():
    first, rx = sender(), Receiver(epoch=1)
    a, b, _ = first.window(ALL)
    hear(rx, [a, b])
    adaptation = Fixed()
    second = Sender(PAYLOAD, session=5, adaptation=adaptation)
    hear(rx, second.window(ALL))
    answered(second, rx)
    assert second.held.sum() == 64
    (rest,) = second.window(ALL)
    assert (rest.header.first, rest.header.block_count) == (0, 4)
    hear(rx, [rest])
    answered(second, rx)
    assert second.complete
    assert adaptation.margin_db == 0.0  # the bursts of its first life were not counted as lost


def test_a_session_number_with_another_payload_starts_anew():
    first, rx = sender(), Receiver(epoch=1)
    a, _, _ = first.window(ALL)
    hear(rx, [a])
    other = bytes(len(PAYLOAD))
    second = sender(other, snr_db=float("nan"))
    hear(rx, second.window(ALL))
    answered(second, rx)
    assert second.held.sum() == 0
    hear(rx, second.window(ALL))
    assert rx.payload(5) == other


def test_a_payload_that_fails_its_hash_is_never_handed_over():
    header = framing.BurstHeader(
        session=5,
        burst=0,
        mcs=mcs.MCS_TABLE[13],
        basis=0,
        first=0,
        block_count=3,
        payload_bytes=400,
        tag=b"others",
    )
    rx = Receiver(epoch=1)
    hear(rx, [framing.build_burst(header, framing.split(bytes(400)), range(3))])
    answer = rx.feedback()
    assert answer.blocks_passed == 3
    assert answer.wanted == 3
    assert not answer.held.any()
    assert rx.payload(5) is None


def test_repair_blocks_stand_in_for_lost_ones():
    tx = sender()
    bursts = list(tx.window(ALL, round_trip_samples=1e6))
    spare = sum(b.header.block_count for b in bursts) - 68
    assert 2 <= spare <= 8

    class Lossy(Receiver):
        def _accept(self, reception, sample_rate_hz):
            reception.blocks.passed[:spare] &= reception.header.first != 32
            return super()._accept(reception, sample_rate_hz)

    rx = Lossy(epoch=1)
    hear(rx, bursts)
    assert answered(tx, rx).blocks_passed == 68
    assert rx.payload(5) == PAYLOAD
    assert tx.complete


def test_of_many_holes_only_as_many_as_are_wanted_go_again():
    tx, rx = sender(), Receiver(epoch=1)
    a, _, c = tx.window(ALL, round_trip_samples=1e6)
    hear(rx, [a, c])  # the second burst is lost, some of the third are repair blocks
    answer = answered(tx, rx)
    repairs = c.header.block_count - 4
    assert (answer.wanted, int((~answer.held).sum())) == (32 - repairs, 32)
    (again,) = tx.window(ALL)
    assert again.header.block_count == 32 - repairs
    hear(rx, [again])
    assert rx.payload(5) == PAYLOAD


def test_copies_that_fail_by_themselves_pass_as_a_sum():
    """2 dB below the threshold no block passes; two copies together have 3 dB more."""
    snr_db = mcs.MCS_TABLE[3].threshold_db - 2.0
    tx, rx = sender(PAYLOAD[:8000], place=3), Receiver(epoch=1)
    (burst,) = tx.window(ALL)
    hear(rx, [burst], snr_db)
    assert answered(tx, rx).blocks_passed == 0
    hear(rx, [burst], snr_db, seed=99)
    answer = rx.feedback()
    assert answer.blocks_passed == 0
    assert rx.payload(5) == PAYLOAD[:8000]


def soft_copies(n, snr_db):
    """n copies of one burst of four blocks in soft values, each with noise of its own, and the
    burst's header."""
    (burst,) = sender(PAYLOAD[:4000], place=3).window(ALL)
    iq = np.concatenate([np.zeros(300, np.complex64), burst.iq, np.zeros(300, np.complex64)])
    noisy = [Awgn(snr_db)(iq, np.random.default_rng(seed)) for seed in range(n)]
    return [
        receive_burst(heard, sync.find_bursts(heard)[0], burst.header).soft for heard in noisy
    ], burst.header


def test_a_sum_with_a_foreign_copy_in_it_is_given_up():
    (first, second, third), header = soft_copies(3, mcs.MCS_TABLE[3].threshold_db - 2.0)
    copies = combining.SoftCopies()
    foreign = np.clip(-8 * first.astype(np.int32), -30_000, 30_000).astype(np.int16)
    for copy in (foreign, first, second):
        assert copies.recover(range(4), copy, header) == {}
    assert sorted(copies.recover(range(4), third, header)) == [0, 1, 2, 3]  # second + third
    assert len(copies) == 0


def test_soft_values_kept_are_bounded_and_the_first_ones_stay(monkeypatch):
    monkeypatch.setattr(combining, "MAX_KEPT", 3)
    (first, second), header = soft_copies(2, mcs.MCS_TABLE[3].threshold_db - 2.0)
    copies = combining.SoftCopies()
    assert copies.recover(range(4), first, header) == {}
    assert len(copies) == 3
    assert sorted(copies.recover(range(4), second, header)) == [0, 1, 2]


def test_bitmaps_are_remembered_for_a_while():
    held = reassembly.Assembly(5, b"abcdef", 70_000)
    for sequence in range(1, 40):
        held.show(sequence)
    header = dataclasses.replace(next(iter(sender().window(ALL))).header, first=66, block_count=4)
    assert held._indices(dataclasses.replace(header, basis=39)) == [66, 67, 68, 69]
    assert held._indices(dataclasses.replace(header, basis=0)) == [66, 67, 68, 69]
    assert held._indices(dataclasses.replace(header, basis=3)) is None
    assert held._indices(dataclasses.replace(header, basis=77)) is None


def test_nothing_new_is_sent_twice_over_random_losses():
    """Bursts and answers are lost at random; a block that an answer showed as held never goes
    again."""
    rng = np.random.default_rng(87)
    tx, rx = sender(LONG[:100_000]), Receiver(epoch=1)
    shown, sent = np.zeros(97, np.bool_), 0
    for turn in range(60):
        for burst in tx.window(ALL, round_trip_samples=2e4):
            indices = rx._session_of(burst.header)._indices(burst.header)
            assert not shown[[i for i in indices if i < 97]].any()
            sent += len(indices)
            if rng.random() < 0.6:
                hear(rx, [burst], seed=turn)
        answer = rx.feedback()
        if answer is not None and rng.random() < 0.6 and tx.on_feedback(answer.pack()):
            shown = tx.held
        if tx.complete:
            break
    assert rx.payload(5) == LONG[:100_000]
    assert sent == tx.sent.blocks


def test_an_unreadable_burst_is_answered_with_its_preamble_snr():
    tx, rx = sender(snr_db=float("nan")), Receiver(epoch=1)
    (burst,) = tx.window(ALL)
    hear(rx, [burst.iq[: len(burst.iq) - 8 * 288]])  # the preamble alone
    assert rx.bursts_unreadable == 1
    answer = answered(tx, rx)
    assert not answer.data_aided
    assert tx.snr_db == pytest.approx(22.0, abs=1.5)
    assert next(iter(tx.window(ALL))).header.block_count == 32


def test_a_receiver_that_heard_nothing_says_nothing_and_refuses_bad_samples():
    rx = Receiver(epoch=1)
    hear(rx, [])
    assert rx.feedback() is None
    assert rx.payload(5) is None
    assert rx.prefix(5) == b""
    with pytest.raises(DeviceError, match="at least one sample"):
        rx.feed(np.zeros(0, np.complex64), RATE_HZ)
    with pytest.raises(DeviceError, match="not finite"):
        rx.feed(np.array([1, np.nan], np.complex64), RATE_HZ)


def test_bursts_shrink_to_the_air_that_is_left():
    one, thirty = (framing.burst_samples(n, mcs.MCS_TABLE[13], robust=False) for n in (1, 30))
    for limit in (one - 1, one, thirty, 4 * thirty):
        lengths = [len(b.iq) for b in sender().window(limit)]
        assert sum(lengths) <= limit
        assert bool(lengths) == (limit >= one)
    nan = float("nan")
    assert list(sender(snr_db=nan).window(int(sounding_samples(nan)) - 1)) == []


def test_an_unusable_channel_is_sounded_not_sent_to():
    tx = Sender(PAYLOAD, session=5, adaptation=Adaptation(), snr_db=-15.0)
    assert tx.unusable
    (sounding,) = tx.window(ALL)
    assert (sounding.header.block_count, sounding.header.robust) == (0, True)


def test_a_window_of_which_nothing_arrived_is_followed_by_a_probe():
    tx, rx = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    end = [
        np.concatenate([burst.iq[:2500], np.zeros(len(burst.iq) - 2500, np.complex64)])
        for burst in (a, b, c)
    ]
    hear(rx, end)
    answer = answered(tx, rx)
    assert (answer.bursts_found, answer.blocks_passed, answer.block_error_rate) == (3, 0, 1.0)
    (probe,) = tx.window(ALL)
    assert probe.header.block_count == 2


def test_a_payload_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="split"):
        sender(bytes(framing.MAX_PAYLOAD_BYTES + 1))


def test_answers_survive_the_wire():
    tx, rx = sender(), Receiver(epoch=7)
    hear(rx, tx.window(ALL))
    answer = rx.feedback()
    assert answer.epoch == 7
    assert Feedback.unpack(answer.pack()).held.sum() == 68
