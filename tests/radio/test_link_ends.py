"""The two ends without a driver: what they do with bursts and messages that are late, twice, cut or missing."""

import dataclasses

import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from radio import framing
from radio.channel import Awgn
from radio.feedback import Feedback
from radio.mcs import Adaptation
from radio.receiver import Receiver
from radio.sender import Sender

RATE_HZ = 2e6
PAYLOAD = np.random.default_rng(81).bytes(40_000)  # 290 blocks: three bursts
ALL = 10**9


def sender(payload=PAYLOAD, *, session=5, snr_db=16.0):
    return Sender(payload, session=session, adaptation=Adaptation(), snr_db=snr_db)


def hear(receiver, bursts, snr_db=16.0, seed=82):
    """The bursts one after another with pauses, in one capture."""
    rng = np.random.default_rng(seed)
    pause = np.zeros(500, np.complex64)
    parts = [part for burst in bursts for part in (pause, burst if isinstance(burst, np.ndarray) else burst.iq)]
    receiver.feed(Awgn(snr_db)(np.concatenate([*parts, pause]), rng), RATE_HZ)
    receiver.flush(RATE_HZ)


def test_a_window_and_one_answer_deliver_the_payload():
    tx, rx = sender(), Receiver(epoch=1)
    bursts = list(tx.window(ALL))
    assert [b.header.block_count for b in bursts] == [128, 128, 34]
    hear(rx, bursts)
    assert rx.payload(5) == PAYLOAD
    assert tx.on_feedback(rx.feedback().pack())
    assert tx.complete
    assert list(tx.window(ALL)) == []


def test_without_an_snr_the_sender_sounds_first():
    tx, rx = sender(snr_db=float("nan")), Receiver(epoch=1)
    (burst,) = tx.window(ALL)
    assert burst.header.block_count == 0
    assert len(burst.iq) == framing.HEAD_SAMPLES
    hear(rx, [burst])
    tx.on_feedback(rx.feedback().pack())
    assert tx.snr_db == pytest.approx(16.0, abs=0.7)
    assert next(iter(tx.window(ALL))).header.block_count == 128


def test_duplicated_and_reordered_bursts_do_no_harm_and_count_once():
    tx, rx = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    hear(rx, [c, a, a, c, b, a])
    answer = rx.feedback()
    assert rx.payload(5) == PAYLOAD
    assert (answer.bursts_found, answer.blocks_passed) == (3, 290)


def test_only_the_holes_of_a_missing_burst_go_again():
    tx, rx = sender(), Receiver(epoch=1)
    a, _, c = tx.window(ALL)
    hear(rx, [a, c])
    answer = rx.feedback()
    np.testing.assert_array_equal(np.flatnonzero(~answer.held), np.arange(128, 256))
    tx.on_feedback(answer.pack())
    (again,) = tx.window(ALL)
    assert (again.header.first_block, again.header.block_count) == (128, 128)
    hear(rx, [again])
    assert rx.payload(5) == PAYLOAD


def test_a_truncated_burst_gives_its_whole_blocks():
    tx, rx = sender(), Receiver(epoch=1)
    a = next(iter(tx.window(ALL)))
    cut = a.iq[: framing.HEAD_SAMPLES + 3 * 10 * 288 + 100]  # QPSK: three symbols a block
    rx.feed(Awgn(16.0)(cut, np.random.default_rng(83)), RATE_HZ)
    assert rx.feedback() is None  # the rest might still come
    assert rx.mid_burst
    rx.flush(RATE_HZ)
    answer = rx.feedback()
    assert answer.held.sum() == 10
    assert answer.block_error_rate == pytest.approx(118 / 128)


@pytest.mark.parametrize("chunk", [700, 5_000, 33_333])
def test_a_stream_may_come_in_pieces(chunk):
    tx, rx = sender(PAYLOAD[:3000]), Receiver(epoch=1)
    pause = np.zeros(1111, np.complex64)
    iq = np.concatenate([part for burst in tx.window(ALL) for part in (pause, burst.iq, pause, burst.iq)])
    iq = Awgn(16.0)(iq, np.random.default_rng(84))
    heard = [r for k in range(0, len(iq), chunk) for r in rx.feed(iq[k : k + chunk], RATE_HZ)]
    heard += rx.flush(RATE_HZ)
    assert len(heard) == 2
    assert rx.payload(5) == PAYLOAD[:3000]


def test_a_missing_answer_is_asked_for_and_no_data_repeated():
    tx, rx = sender(), Receiver(epoch=1)
    hear(rx, tx.window(ALL))
    rx.feedback()  # lost
    (poll,) = tx.window(ALL)
    assert poll.header.block_count == 0
    hear(rx, [poll])
    assert tx.on_feedback(rx.feedback().pack())
    assert tx.complete


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
        dataclasses.replace(late, sequence=99, tag=bytes(7)).pack(),
        dataclasses.replace(late, sequence=99, held=np.zeros(4, np.bool_)).pack(),
    ]
    assert not any(tx.on_feedback(message) for message in refused)
    assert tx.ignored == len(refused)
    assert tx.complete


def test_a_restarted_receiver_says_what_it_holds_and_gets_the_rest():
    tx, old = sender(), Receiver(epoch=1)
    a, b, c = tx.window(ALL)
    hear(old, [a])
    before = old.feedback().pack()
    tx.on_feedback(before)
    new = Receiver(epoch=2)
    hear(new, [c])
    assert tx.on_feedback(new.feedback().pack())
    assert tx.held.sum() == 34  # what the first life held is gone
    hear(old, [b])
    assert not tx.on_feedback(old.feedback().pack())  # a late word of the first life
    hear(new, tx.window(ALL))
    assert new.payload(5) == PAYLOAD


def test_a_restarted_sender_resumes_with_the_same_payload():
    first, rx = sender(), Receiver(epoch=1)
    a, _, _ = first.window(ALL)
    hear(rx, [a])
    second = sender(snr_db=float("nan"))
    hear(rx, second.window(ALL))
    assert second.on_feedback(rx.feedback().pack())
    assert second.held.sum() == 128
    assert [b.header.first_block for b in second.window(ALL)] == [128, 256]


def test_a_session_number_with_another_payload_starts_anew():
    first, rx = sender(), Receiver(epoch=1)
    a, _, _ = first.window(ALL)
    hear(rx, [a])
    other = bytes(len(PAYLOAD))
    second = sender(other, snr_db=float("nan"))
    hear(rx, second.window(ALL))
    second.on_feedback(rx.feedback().pack())
    assert second.held.sum() == 0
    hear(rx, second.window(ALL))
    assert rx.payload(5) == other


def test_a_payload_that_fails_its_hash_is_never_handed_over():
    header = framing.BurstHeader(
        session=5, burst=0, mcs=0, first_block=0, block_count=3, payload_bytes=400, tag=b"another"
    )
    rx = Receiver(epoch=1)
    hear(rx, [framing.build_burst(header, bytes(400), range(3))])
    answer = rx.feedback()
    assert answer.blocks_passed == 3
    assert not answer.held.any()
    assert rx.payload(5) is None


def test_an_unreadable_burst_is_answered_with_its_preamble_snr():
    tx, rx = sender(snr_db=float("nan")), Receiver(epoch=1)
    (burst,) = tx.window(ALL)
    damaged = burst.iq.copy()
    damaged[1200:] = np.random.default_rng(85).permutation(damaged[1200:])
    hear(rx, [damaged], snr_db=8.0)
    answer = rx.feedback()
    assert rx.bursts_unreadable == 1
    assert not answer.data_aided
    assert answer.snr_db == pytest.approx(8.0, abs=4 * answer.snr_std_db)
    assert tx.on_feedback(answer.pack())
    assert tx.held.sum() == 0


def test_a_receiver_that_heard_nothing_says_nothing():
    rx = Receiver(epoch=1)
    rx.feed(Awgn(10.0)(np.zeros(5000, np.complex64), np.random.default_rng(86)), RATE_HZ)
    rx.flush(RATE_HZ)
    assert rx.feedback() is None


def test_a_receiver_refuses_unsound_samples():
    rx = Receiver(epoch=1)
    with pytest.raises(DeviceError, match="at least one"):
        rx.feed(np.zeros(0, np.complex64), RATE_HZ)
    with pytest.raises(DeviceError, match="not finite"):
        rx.feed(np.array([1, np.nan], np.complex64), RATE_HZ)


def test_bursts_shrink_to_the_air_that_is_left():
    for limit in (framing.HEAD_SAMPLES + 3 * 288 - 1, framing.HEAD_SAMPLES + 30 * 288, 200_000):
        lengths = [len(b.iq) for b in sender().window(limit)]
        assert sum(lengths) <= limit
        assert bool(lengths) == (limit >= framing.HEAD_SAMPLES + 3 * 288)
    assert list(sender(snr_db=float("nan")).window(framing.HEAD_SAMPLES - 1)) == []


def test_far_below_the_threshold_only_a_probe_is_sent():
    (probe,) = sender(snr_db=3.0).window(ALL)
    assert probe.header.block_count == 8


def test_a_payload_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="split"):
        sender(bytes(framing.MAX_PAYLOAD_BYTES + 1))


def test_answers_survive_the_wire():
    tx, rx = sender(), Receiver(epoch=7)
    hear(rx, tx.window(ALL))
    answer = rx.feedback()
    assert answer.epoch == 7
    assert Feedback.unpack(answer.pack()).held.sum() == 290
