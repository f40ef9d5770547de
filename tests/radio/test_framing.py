import dataclasses

import numpy as np
import pytest

from radio import framing, mcs, ofdm, pn

HEADER = framing.BurstHeader(
    session=0x01020304,
    burst=0x0506,
    mcs=1,
    first_block=7,
    block_count=9,
    payload_bytes=10_000,
    tag=bytes(range(1, 8)),
)
VECTOR = bytes.fromhex("110102030405060007000900002710010203040506078547")


def noisy(rng, grid, snr_db):
    sigma = 10 ** (-snr_db / 20) / 2**0.5
    return (grid + sigma * (rng.standard_normal(grid.shape) + 1j * rng.standard_normal(grid.shape))).astype(
        np.complex64
    )


def flat(variance):
    return np.full(ofdm.N_DATA, variance, np.float32)


def test_header_bytes_are_the_committed_vector():
    assert HEADER.pack() == VECTOR
    assert framing.BurstHeader.unpack(VECTOR) == HEADER


def test_pseudo_random_bits_start_as_the_standard_says():
    # ETSI EN 300 421 §4.4.1
    assert "".join(map(str, pn.pn_bits(16))) == "0000001111110110"
    bits = pn.pn_bits(3 * 32767)
    np.testing.assert_array_equal(bits[:32767], bits[32767:65534])
    assert bits[:32767].sum() == 16384


def test_a_header_with_one_or_two_flipped_bits_is_refused():
    bits = np.unpackbits(np.frombuffer(VECTOR, np.uint8))
    for i in range(len(bits)):
        for j in (i, (i + 17) % len(bits)):
            flipped = bits.copy()
            flipped[i] ^= 1
            flipped[j] ^= i != j
            assert framing.BurstHeader.unpack(np.packbits(flipped).tobytes()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"mcs": len(mcs.MCS_TABLE)},
        {"block_count": framing.MAX_BLOCKS_PER_BURST + 1},
        {"payload_bytes": framing.MAX_PAYLOAD_BYTES + 1},
        {"first_block": 73},
    ],
)
def test_headers_that_say_what_no_sender_says_are_refused(change):
    assert framing.BurstHeader.unpack(dataclasses.replace(HEADER, **change).pack()) is None


def test_header_survives_well_below_the_slowest_scheme():
    rng = np.random.default_rng(31)
    sent = framing.modulated_header(HEADER)
    got = [framing.read_header(noisy(rng, sent, 1.0), flat(0.8)) for _ in range(200)]
    assert sum(header == HEADER for header in got) >= 196
    assert mcs.MCS_TABLE[0].threshold_db > 10.0


def test_header_copies_lie_on_different_subcarriers():
    # half of the band missing must not hurt
    sent = framing.modulated_header(HEADER)
    variance = flat(0.1)
    damaged = sent.copy()
    damaged[:, 96:] = 0
    variance[96:] = 1e9
    assert framing.read_header(damaged, variance) == HEADER


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("indices", [[0], [72], [3, 4, 5], [70, 2, 33, 8, 72], list(range(0, 73, 3))])
def test_any_set_of_blocks_crosses_in_one_burst(scheme, indices):
    payload = np.random.default_rng(32).bytes(10_000)
    header = dataclasses.replace(HEADER, mcs=scheme, first_block=indices[0], block_count=len(indices))
    symbols = framing.modulated_data(framing.pack_blocks(payload, indices, header.tag), mcs.MCS_TABLE[scheme])
    assert len(symbols) == framing.data_symbols(len(indices), mcs.MCS_TABLE[scheme])
    section = framing.read_blocks(symbols, flat(0.01), header)
    assert section.passed.all()
    assert list(section.blocks) == indices
    for index, block in section.blocks.items():
        own = payload[index * 138 : (index + 1) * 138]
        assert block == own + bytes(138 - len(own))
    again, known = framing.known_data(section, header)
    np.testing.assert_array_equal(again, symbols)
    assert known.sum() == len(indices) * framing.BLOCK_BITS // mcs.MCS_TABLE[scheme].bits_per_symbol


def test_blocks_of_another_payload_never_pass():
    payload = bytes(10_000)
    symbols = framing.modulated_data(framing.pack_blocks(payload, range(9), bytes(7)), mcs.MCS_TABLE[1])
    assert framing.read_blocks(symbols, flat(0.01), HEADER).blocks == {}


def test_a_cut_burst_gives_its_whole_blocks_and_a_damaged_block_is_alone():
    payload = np.random.default_rng(33).bytes(10_000)
    symbols = framing.modulated_data(framing.pack_blocks(payload, range(9), HEADER.tag), mcs.MCS_TABLE[1])
    assert list(framing.read_blocks(symbols[:6], flat(0.01), HEADER).blocks) == [0, 1, 2, 3]
    assert framing.read_blocks(symbols[:0], flat(0.01), HEADER).blocks == {}
    symbols[4] *= -1  # symbol 4 carries the end of block 2 and the start of block 3
    section = framing.read_blocks(symbols, flat(0.01), HEADER)
    assert list(section.blocks) == [0, 1, 4, 5, 6, 7, 8]
    _, known = framing.known_data(section, HEADER)
    assert not known[4].any()


def test_a_block_is_spread_over_the_whole_band():
    payload = np.random.default_rng(34).bytes(10_000)
    packed = framing.pack_blocks(payload, [0, 1], HEADER.tag)
    other = packed.copy()
    other[0] ^= 0xFF
    one, two = (framing.modulated_data(p, mcs.MCS_TABLE[1]) for p in (packed, other))
    touched = np.flatnonzero(one[1] != two[1])  # half of this symbol belongs to block 0
    assert len(touched) == ofdm.N_DATA // 2
    thirds = np.histogram(touched, bins=3, range=(0, ofdm.N_DATA))[0]
    assert thirds.min() >= 24
