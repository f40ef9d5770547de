"""The record of what was sent, and what answers say of it: no samples, no channel."""

import dataclasses

import numpy as np
import pytest

from radio.link.feedback import Feedback
from radio.link.on_air import Judged, OnAir
from radio.modem import framing
from radio.modem.mcs import MCS_TABLE

ANSWER = Feedback(
    epoch=1,
    sequence=1,
    session=5,
    tag=bytes(6),
    last_burst=0,
    bursts_found=1,
    blocks_passed=0,
    snr_db=20.0,
    snr_std_db=0.1,
    flat_snr_db=20.0,
    data_aided=True,
    evm_rms=0.1,
    cfo_hz=0.0,
    clock_offset_ppm=0.0,
    block_error_rate=0.0,
    wanted=0,
    held=np.ones(0, np.bool_),
)


def answer(**changes):
    return dataclasses.replace(ANSWER, **changes)


def burst(number, block_count):
    header = framing.BurstHeader(
        session=5,
        burst=number,
        mcs=MCS_TABLE[3],
        basis=0,
        first=0,
        block_count=block_count,
        payload_bytes=50_000,
        tag=bytes(6),
    )
    return framing.Burst(header=header, indices=(), iq=np.zeros(10, np.complex64))


def test_each_block_is_judged_once_by_what_passed_since_the_answer_before():
    judged = Judged(wanted=20)
    assert judged.take(answer(blocks_passed=8, wanted=12), 10, learn=True) == (10, 2)
    assert judged.take(answer(blocks_passed=12, wanted=8), 15, learn=True) == (5, 1)
    # an answer about an earlier burst, and one that says the same again
    assert judged.take(answer(blocks_passed=12, wanted=8), 10, learn=True) == (0, 0)
    assert judged.take(answer(blocks_passed=16, wanted=4), 20, learn=True) == (5, 1)


@pytest.mark.parametrize(("wanted", "stalled"), [(12, False), (20, True)])
def test_blocks_that_brought_nothing_new_are_a_stall(wanted, stalled):
    judged = Judged(wanted=20)
    judged.take(answer(wanted=wanted), 10, learn=True)
    assert judged.stalled == stalled
    judged.take(answer(wanted=20), 10, learn=True)  # no block more: nothing is learnt
    assert judged.stalled == stalled


def test_what_a_restarted_receiver_lost_is_no_stall():
    judged = Judged(wanted=20)
    judged.take(answer(wanted=5, blocks_passed=15), 15, learn=True)
    judged.take(answer(wanted=20), 20, learn=False)
    assert not judged.stalled
    judged.take(answer(wanted=12), 25, learn=True)
    assert not judged.stalled


def test_an_answer_covers_the_last_blocks_or_what_came_after_them():
    air = OnAir()
    for number, blocks in enumerate((0, 4, 4, 0)):
        air.add(burst(number, blocks))
    assert air.open_sounding
    covers = [air.covered_by(answer(last_burst=number)) for number in range(5)]
    assert covers == [False, False, True, True, False]
    assert not air.covered_by(answer(last_burst=2, bursts_found=0))
    assert [air.blocks_until(number) for number in range(5)] == [0, 4, 8, 8, 0]
    air.cover()
    assert not air.open
    assert (air.counts.bursts, air.counts.blocks, air.counts.samples) == (4, 8, 40)


def test_while_no_block_was_sent_any_answer_covers_all():
    air = OnAir()
    air.add(burst(0, 0))
    assert air.covered_by(answer(last_burst=7))


def test_numbers_go_on_behind_those_of_an_earlier_life_and_start_again_at_65536():
    air = OnAir()
    air.add(burst(0, 0))
    assert air.continues(answer(last_burst=9))
    assert air.next_burst == 10
    air.add(burst(10, 4))
    assert not air.continues(answer(last_burst=10))
    assert air.next_burst == 11
    air.add(burst(2**16 - 1, 4))
    assert air.next_burst == 0
