import dataclasses

import numpy as np
import pytest

from radio import ldpc
from radio.modem import framing, mcs, ofdm, pn, preamble
from radio.modem.equaliser import Symbols

HEADER = framing.BurstHeader(
    session=0x01020304,
    burst=0x0506,
    mcs=mcs.MCS_TABLE[7],
    basis=0x0708,
    first=4,
    block_count=3,
    payload_bytes=10_000,
    tag=bytes(range(1, 7)),
)
VECTOR = bytes.fromhex("47010203040506070800040300002710010203040506")
QPSK_HALF = 4


def over_noise(rng, grid, snr_db):
    """Symbols as a perfect equaliser would give them."""
    n0 = 10 ** (-snr_db / 10)
    noise = (n0 / 2) ** 0.5 * (
        rng.standard_normal(grid.shape) + 1j * rng.standard_normal(grid.shape)
    )
    return symbols((grid + noise).astype(np.complex64), n0)


def symbols(data, n0=0.01):
    return Symbols(
        data=data.astype(np.complex64),
        noise_variance=np.full(data.shape, n0, np.float32),
        gain=np.ones(data.shape, np.complex64),
        excess=np.zeros(len(data), np.float32),
        n_reference=1000,
        residual_cfo=0.0,
        clock_offset_ppm=0.0,
    )


def sent_grid(header, blocks, indices):
    """Data subcarriers that a burst puts on the air."""
    assert len(framing.build_burst(header, blocks, indices).iq) == header.n_samples
    return framing.burst_grid(header, blocks, indices)


def random_payload(n_bytes, seed=32):
    return np.random.default_rng(seed).bytes(n_bytes)


def test_header_bytes_are_the_committed_vector():
    packed = HEADER.pack()
    assert packed[:-2] == VECTOR
    # CRC-16/IBM-3740, bit by bit
    register = 0xFFFF
    for bit in np.unpackbits(np.frombuffer(VECTOR, np.uint8)):
        register = (register << 1 ^ (0x1021 if (register >> 15) ^ int(bit) else 0)) & 0xFFFF
    assert packed[-2:] == register.to_bytes(2, "big")
    assert framing.BurstHeader.unpack(packed) == HEADER


def test_pseudo_random_bits_start_as_the_standard_says():
    # ETSI EN 300 421 §4.4.1
    assert "".join(map(str, pn.pn_bits(16))) == "0000001111110110"
    bits = pn.pn_bits(3 * 32767)
    np.testing.assert_array_equal(bits[:32767], bits[32767:65534])
    assert bits[:32767].sum() == 16384


def test_a_header_with_one_or_two_flipped_bits_is_refused():
    bits = np.unpackbits(np.frombuffer(HEADER.pack(), np.uint8))
    for i in range(len(bits)):
        for j in (i, (i + 17) % len(bits)):
            flipped = bits.copy()
            flipped[i] ^= 1
            flipped[j] ^= i != j
            assert framing.BurstHeader.unpack(np.packbits(flipped).tobytes()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"mcs": dataclasses.replace(mcs.MCS_TABLE[0], place=len(mcs.MCS_TABLE))},
        {"payload_bytes": framing.MAX_PAYLOAD_BYTES + 1},
        {"first": 10 + framing.MAX_REPAIR_BLOCKS - 2},
        {"payload_bytes": 0},
        {"mcs": mcs.MCS_TABLE[0], "block_count": 20},  # longer than any burst may be
    ],
)
def test_headers_that_say_what_no_sender_says_are_refused(change):
    assert framing.BurstHeader.unpack(dataclasses.replace(HEADER, **change).pack()) is None


@pytest.mark.parametrize("robust", [False, True])
def test_header_survives_below_the_slowest_scheme_behind_the_same_preamble(robust):
    rng = np.random.default_rng(31)
    header = dataclasses.replace(HEADER, block_count=0, first=0, robust=robust)
    grid = sent_grid(header, np.zeros((0, 1), np.uint8), [])
    slowest = mcs.slowest(robust=robust)
    read = [
        framing.read_header(over_noise(rng, grid, slowest.threshold_db - 1), robust=robust)
        for _ in range(100)
    ]
    assert sum(got == header for got in read) >= 98


def test_half_of_the_band_is_enough_for_a_header():
    header = dataclasses.replace(HEADER, block_count=0, first=0)
    grid = sent_grid(header, np.zeros((0, 1), np.uint8), [])
    damaged = symbols(grid, 0.1)
    damaged.data[:, 96:] = 0
    damaged.noise_variance[:, 96:] = 1e9
    assert framing.read_header(damaged, robust=False) == header
    assert framing.read_header(symbols(grid[:3]), robust=False) is None


@pytest.mark.parametrize("place", range(len(mcs.MCS_TABLE)))
@pytest.mark.parametrize("n_bytes", [100, 5_000])
def test_blocks_cross_with_every_scheme_at_its_threshold_and_some(place, n_bytes):
    rng = np.random.default_rng(33)
    payload = random_payload(n_bytes)
    blocks = framing.split(payload)
    count = min(2, len(blocks))
    robust = mcs.MCS_TABLE[place].robust
    header = dataclasses.replace(
        HEADER,
        mcs=mcs.MCS_TABLE[place],
        first=0,
        block_count=count,
        payload_bytes=n_bytes,
        robust=robust,
    )
    grid = sent_grid(header, blocks[:count], range(count))
    assert len(grid) == header.n_symbols
    margin_db = 2.0 if n_bytes > 1000 else 4.0  # short codewords need more
    decoded = framing.decode_blocks(
        framing.soft_blocks(over_noise(rng, grid, header.mcs.threshold_db + margin_db), header),
        header,
    )
    assert decoded.passed.all()
    np.testing.assert_array_equal(decoded.index, range(count))
    np.testing.assert_array_equal(decoded.payload, blocks[:count])
    sent, known = framing.known_symbols(header, decoded, len(grid))
    np.testing.assert_array_equal(sent[known], grid[known])
    per_block = header.layout.coded_bits(header.mcs) // header.mcs.bits_per_symbol
    assert known.sum() == framing.header_symbols(robust) * ofdm.N_DATA + count * per_block


@pytest.mark.slow
def test_any_set_of_blocks_crosses_and_a_cut_burst_gives_the_whole_ones():
    payload = random_payload(10_000)
    blocks = framing.split(payload)
    indices = [7, 2, 9]
    grid = sent_grid(HEADER, blocks[indices], indices)
    decoded = framing.decode_blocks(framing.soft_blocks(symbols(grid), HEADER), HEADER)
    assert decoded.passed.all()
    np.testing.assert_array_equal(decoded.index, indices)
    cut = framing.soft_blocks(symbols(grid[:-1]), HEADER)
    np.testing.assert_array_equal(framing.decode_blocks(cut, HEADER).index, indices[:2])
    assert len(framing.soft_blocks(symbols(grid[: framing.header_symbols(False)]), HEADER)) == 0


def test_a_damaged_block_is_alone_and_not_among_the_known_symbols():
    blocks = framing.split(random_payload(10_000))
    grid = sent_grid(HEADER, blocks[:3], range(3)).copy()
    per_block = HEADER.layout.coded_bits(HEADER.mcs) / HEADER.mcs.bits_per_symbol / ofdm.N_DATA
    middle = slice(4 + int(1.2 * per_block), 4 + int(1.8 * per_block))
    grid[middle] *= -1
    decoded = framing.decode_blocks(framing.soft_blocks(symbols(grid), HEADER), HEADER)
    np.testing.assert_array_equal(decoded.passed, [True, False, True])
    _, known = framing.known_symbols(HEADER, decoded, len(grid))
    assert not known[middle].any()


def test_blocks_of_another_payload_never_pass():
    blocks = framing.split(bytes(10_000))
    other = dataclasses.replace(HEADER, tag=bytes(6))
    grid = sent_grid(other, blocks[:3], range(3))
    assert not framing.decode_blocks(
        framing.soft_blocks(symbols(grid), HEADER), HEADER
    ).passed.any()
    silence = np.full(
        (3, HEADER.layout.code.n_buffer), 1000, np.int16
    )  # the all-zero codeword, very sure of itself
    assert not framing.decode_blocks(silence, other).passed.any()


def test_two_copies_that_fail_alone_pass_together():
    rng = np.random.default_rng(34)
    header = dataclasses.replace(HEADER, mcs=mcs.MCS_TABLE[QPSK_HALF])
    blocks = framing.split(random_payload(10_000))
    grid = sent_grid(header, blocks[:3], range(3))
    copies = [
        framing.soft_blocks(over_noise(rng, grid, header.mcs.threshold_db - 2), header)
        for _ in range(2)
    ]
    assert not any(framing.decode_blocks(copy, header).passed.any() for copy in copies)
    assert framing.decode_blocks(ldpc.combine(*copies), header).passed.all()


def test_a_block_is_spread_over_the_whole_band():
    blocks = framing.split(random_payload(10_000))
    other = blocks.copy()
    other[0] ^= 0xFF
    header = dataclasses.replace(HEADER, mcs=mcs.MCS_TABLE[17])
    one, two = (sent_grid(header, b[:3], range(3)) for b in (blocks, other))
    per_block = header.layout.coded_bits(header.mcs) / 8 / ofdm.N_DATA
    row = framing.header_symbols(False) + int(per_block)  # shared by blocks 0 and 1
    touched = np.flatnonzero(one[row] != two[row])
    assert 10 < len(touched) < 190
    gaps = np.diff(np.concatenate([[-1], touched, [ofdm.N_DATA]]))
    assert gaps.max() < 5 * ofdm.N_DATA / len(touched)


def test_lengths_are_those_of_the_layout():
    assert framing.LONG.block_payload_bytes == 1035
    assert framing.SHORT.block_payload_bytes == 139
    assert framing.block_count_of(2_000_000) == 1933
    assert framing.layout_of(834) is framing.SHORT
    assert framing.layout_of(835) is framing.LONG
    sounding = dataclasses.replace(HEADER, block_count=0, first=0)
    assert sounding.n_samples == len(preamble.PLAIN.iq) + 4 * ofdm.SYMBOL_SAMPLES
    assert bytes(framing.split(b"abc")[0][:4]) == b"abc\0"
