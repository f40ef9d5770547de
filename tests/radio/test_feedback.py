import dataclasses
import struct
import zlib

import numpy as np
import pytest

from radio.feedback import Feedback

EXAMPLE = Feedback(
    epoch=1,
    sequence=2,
    session=3,
    tag=bytes(range(7)),
    bursts_found=4,
    blocks_passed=5,
    snr_db=12.5,
    snr_std_db=0.25,
    data_aided=True,
    evm_rms=0.125,
    cfo_hz=-1000.0,
    block_error_rate=0.5,
    held=np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], np.bool_),
)
VECTOR = bytes.fromhex(
    "0100000001000000020100000003000102030405060000000400000005414800003e8000003e000000c47a00003f0000000009b180c0cf9504"
)


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
        {"snr_std_db": float("inf")},
        {"cfo_hz": float("inf")},
        {"evm_rms": -0.1},
        {"block_error_rate": 1.5},
    ],
)
def test_values_that_cannot_be_are_refused(change):
    assert Feedback.unpack(dataclasses.replace(EXAMPLE, **change).pack()) is None


def test_a_bitmap_of_the_wrong_length_and_another_version_are_refused():
    def sealed(body):
        return body + struct.pack(">I", zlib.crc32(body))

    body = VECTOR[:-4]
    assert Feedback.unpack(sealed(body)) is not None
    assert Feedback.unpack(sealed(body + b"\0")) is None
    assert Feedback.unpack(sealed(b"\2" + body[1:])) is None


def test_evm_may_be_unknown():
    assert np.isnan(Feedback.unpack(dataclasses.replace(EXAMPLE, evm_rms=float("nan")).pack()).evm_rms)
