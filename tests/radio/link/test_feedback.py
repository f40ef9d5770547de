import dataclasses
import struct
import zlib

import numpy as np
import pytest

from radio.link.feedback import Feedback

EXAMPLE = Feedback(
    epoch=1,
    sequence=2,
    session=3,
    tag=bytes(range(6)),
    last_burst=260,
    bursts_found=4,
    blocks_passed=5,
    snr_db=12.5,
    snr_std_db=0.25,
    flat_snr_db=11.5,
    data_aided=True,
    evm_rms=0.125,
    cfo_hz=-1000.0,
    clock_offset_ppm=-2.5,
    block_error_rate=0.5,
    wanted=3,
    held=np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], np.bool_),
)
VECTOR = bytes.fromhex(
    "030100000001000000020000000300010203040501040000000400000005414800003e800000413800003e000000c47a0000c020"
    "00003f00000000030009b1800000000000000000000000000000000095fa8a8d"
)


def sealed(body):
    return body + struct.pack(">I", zlib.crc32(body))


def test_bytes_are_the_committed_vector_and_come_back():
    assert EXAMPLE.pack() == VECTOR
    back = Feedback.unpack(VECTOR)
    np.testing.assert_array_equal(back.held, EXAMPLE.held)
    assert dataclasses.replace(back, held=EXAMPLE.held) == EXAMPLE


def test_every_flipped_bit_and_every_length_is_refused():
    for i in range(8 * len(VECTOR)):
        damaged = bytearray(VECTOR)
        damaged[i // 8] ^= 1 << i % 8
        assert Feedback.unpack(bytes(damaged)) is None
    for n in range(len(VECTOR)):
        assert Feedback.unpack(VECTOR[:n]) is None
    assert Feedback.unpack(VECTOR + b"\0") is None


@pytest.mark.parametrize(
    "change",
    [
        {"snr_db": float("nan")},
        {"snr_db": 1e6},
        {"snr_std_db": -1.0},
        {"flat_snr_db": float("nan")},
        {"snr_std_db": float("inf")},
        {"cfo_hz": float("inf")},
        {"clock_offset_ppm": float("inf")},
        {"evm_rms": -0.1},
        {"block_error_rate": 1.5},
        {"wanted": 5},  # four are missing
        {"wanted": 0},
        {"held": np.ones(9, np.bool_)},  # none is missing, three are wanted
    ],
)
def test_values_that_cannot_be_are_refused(change):
    assert Feedback.unpack(dataclasses.replace(EXAMPLE, **change).pack()) is None


def test_a_wrong_bitmap_another_version_and_a_used_reserve_are_refused():
    body = VECTOR[:-4]
    assert Feedback.unpack(sealed(body)) is not None
    assert Feedback.unpack(sealed(body + b"\0")) is None
    assert Feedback.unpack(sealed(b"\2" + body[1:])) is None
    for place in range(1, 17):
        assert (
            Feedback.unpack(sealed(body[:-place] + b"\1" + body[len(body) - place + 1 :])) is None
        )


def test_what_needs_a_header_may_be_unknown():
    unknown = dataclasses.replace(EXAMPLE, evm_rms=float("nan"), clock_offset_ppm=float("nan"))
    back = Feedback.unpack(unknown.pack())
    assert np.isnan(back.evm_rms)
    assert np.isnan(back.clock_offset_ppm)


def test_the_bitmap_of_two_megabytes_fits_in_350_bytes():
    whole = dataclasses.replace(EXAMPLE, held=np.ones(2030, np.bool_), wanted=0)
    assert len(whole.pack()) <= 350
