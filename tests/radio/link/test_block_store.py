import os

import numpy as np
import pytest

from hil.contract import DeviceError
from radio.link import BlockStore
from radio.modem import framing

TAG = b"abcdef"
LENGTH = 20_000
SIZE = framing.layout_of(LENGTH).block_payload_bytes


def block(index):
    return np.random.default_rng(index).integers(0, 256, SIZE, dtype=np.uint8)


def some(*indices):
    return {index: block(index) for index in indices}


def equal(stored, *indices):
    return sorted(stored) == sorted(indices) and all((stored[k] == block(k)).all() for k in indices)


def test_blocks_come_back_in_a_store_opened_anew(tmp_path):
    store = BlockStore(tmp_path / "blocks")
    store.append(7, TAG, LENGTH, some(0, 3))
    store.append(7, TAG, LENGTH, some(19, 1))
    assert equal(BlockStore(tmp_path / "blocks").load(7, TAG, LENGTH), 0, 1, 3, 19)


def test_another_session_tag_or_length_holds_nothing(tmp_path):
    store = BlockStore(tmp_path)
    store.append(7, TAG, LENGTH, some(0))
    for session, tag, length in ((8, TAG, LENGTH), (7, b"ghijkl", LENGTH), (7, TAG, LENGTH + 1)):
        assert store.load(session, tag, length) == {}
    (file,) = tmp_path.iterdir()
    file.rename(store._path(8, TAG, LENGTH))  # the head inside still says 7
    assert store.load(8, TAG, LENGTH) == {}


@pytest.mark.parametrize("torn", [1, 500, SIZE + 5])
def test_a_torn_record_is_dropped_and_the_next_one_is_whole(tmp_path, torn):
    store = BlockStore(tmp_path)
    store.append(7, TAG, LENGTH, some(0, 1, 2))
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - torn)
    assert equal(store.load(7, TAG, LENGTH), 0, 1)
    store.append(7, TAG, LENGTH, some(5))
    assert equal(store.load(7, TAG, LENGTH), 0, 1, 5)


def test_a_damaged_record_costs_that_block_only_and_a_damaged_head_all(tmp_path):
    store = BlockStore(tmp_path)
    store.append(7, TAG, LENGTH, some(0, 1, 2))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-SIZE - 50] ^= 4  # in the middle one
    file.write_bytes(content)
    assert equal(store.load(7, TAG, LENGTH), 0, 2)
    content[0] ^= 1
    file.write_bytes(content)
    assert store.load(7, TAG, LENGTH) == {}
    store.append(7, TAG, LENGTH, some(4))
    assert equal(store.load(7, TAG, LENGTH), 4)


def test_a_file_cut_within_its_head_starts_anew(tmp_path):
    store = BlockStore(tmp_path)
    store.append(7, TAG, LENGTH, some(0))
    (file,) = tmp_path.iterdir()
    os.truncate(file, 5)
    assert store.load(7, TAG, LENGTH) == {}
    store.append(7, TAG, LENGTH, some(1))
    assert equal(store.load(7, TAG, LENGTH), 1)


def test_the_oldest_sessions_make_room(tmp_path):
    store = BlockStore(tmp_path, max_bytes=6 * (SIZE + 6))
    for session in range(4):
        store.append(session, TAG, LENGTH, some(0, 1))
        newest = store._path(session, TAG, LENGTH)
        os.utime(newest, ns=(session, session))
    assert [len(store.load(session, TAG, LENGTH)) for session in range(4)] == [0, 0, 2, 2]


def test_a_forgotten_session_is_gone(tmp_path):
    store = BlockStore(tmp_path)
    store.append(7, TAG, LENGTH, some(0))
    store.forget(7, TAG, LENGTH)
    store.forget(7, TAG, LENGTH)
    assert store.load(7, TAG, LENGTH) == {}


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="file/blocks"):
        BlockStore(tmp_path / "file" / "blocks")
