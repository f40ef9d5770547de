"""Codes, encoder and rate matching against the parity-check matrix, laid out here once more, and
known words."""

import csv
from importlib.resources import files

import numpy as np
import pytest

from hil.contract import ConfigError
from radio import ldpc

ODD_PARTS = [
    1,
    3,
    5,
    7,
    9,
    11,
    13,
    15,
]  # of the eight sets of lifting sizes, in the standard's order


def edges_of(code):
    """(row, column, shift) of each edge, read from the table and lifted as TS 38.212 §5.3.2 has
    it."""
    odd = code.lifting_size
    while odd % 2 == 0:
        odd //= 2
    text = files("radio.ldpc").joinpath(f"base_graph_{code.base_graph}.csv").read_text()
    table = [[int(field) for field in line] for line in list(csv.reader(text.splitlines()))[1:]]
    return [
        (line[0], line[1], line[2 + ODD_PARTS.index(odd)] % code.lifting_size) for line in table
    ]


def syndrome(code, info, buffer):
    """H c^T mod 2, one row of Z checks after another; the codeword's punctured start is taken from
    the information."""
    size = code.lifting_size
    codeword = np.concatenate([info[: 2 * size], buffer]).reshape(-1, size)
    checks = {}
    for row, column, shift in edges_of(code):
        checks[row] = checks.get(row, 0) ^ np.roll(codeword[column], -shift)
    return np.concatenate(list(checks.values()))


CODES = [
    (8448, 1),
    (22 * 256, 1),
    (22 * 320, 1),
    (22 * 224, 1),
    (22 * 288, 1),
    (22 * 352, 1),
    (22 * 208, 1),
    (22 * 240, 1),
    (44, 1),
    (5000, 1),
    (3840, 2),
    (2560, 2),
    (3200, 2),
    (2240, 2),
    (2880, 2),
    (3520, 2),
    (2080, 2),
    (2400, 2),
    (192, 2),
    (1280, 2),
    (600, 2),
    (300, 2),
    (100, 2),
    (24, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("info_bits", "base_graph"), CODES)
def test_codewords_satisfy_every_check_and_are_systematic(info_bits, base_graph):
    code = ldpc.code_for(info_bits, base_graph)
    rng = np.random.default_rng(info_bits)
    info = rng.integers(0, 2, (3, info_bits), np.uint8)
    buffers = ldpc.encode(code, info)
    assert buffers.shape == (3, code.n_buffer)
    for block, buffer in zip(info, buffers, strict=True):
        assert not syndrome(code, block, buffer).any()
        np.testing.assert_array_equal(buffer[: code.filler_start], block[2 * code.lifting_size :])
        assert not buffer[code.filler_start : code.filler_start + code.n_fillers].any()


def test_a_flipped_bit_is_seen_by_the_checks():
    code = ldpc.code_for(192, 2)
    info = np.ones((1, 192), np.uint8)
    buffer = ldpc.encode(code, info)[0]
    buffer[700] ^= 1
    assert syndrome(code, info[0], buffer).any()


@pytest.mark.parametrize(
    ("info_bits", "base_graph", "lifting_size", "n_buffer"),
    # smallest Z of table 5.3.2-1 with Z * Kb >= K; Kb = 22 for graph 1, and 10, 9, 8 or 6 by length
    # for graph 2
    [
        (8448, 1, 384, 25344),
        (7745, 1, 384, 25344),
        (7744, 1, 352, 23232),
        (192, 2, 32, 1600),
        (193, 2, 26, 1300),
        (560, 2, 72, 3600),
        (561, 2, 64, 3200),
        (640, 2, 72, 3600),
        (641, 2, 72, 3600),
        (1280, 2, 128, 6400),
    ],
)
def test_lifting_size_follows_the_standard(info_bits, base_graph, lifting_size, n_buffer):
    code = ldpc.code_for(info_bits, base_graph)
    assert (code.lifting_size, code.n_buffer) == (lifting_size, n_buffer)
    assert code is ldpc.code_for(info_bits, base_graph)


def words(text):
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[None]


@pytest.mark.parametrize(
    ("base_graph", "info", "n_coded", "bits_per_symbol", "rv", "coded"),
    [
        (2, "0123456789abcdef", 160, 4, 0, "5d2ac73aaef623e75e9592a78b8b32ed39cfc4bf"),
        (2, "0123456789abcdef", 160, 2, 2, "a745a521543124d92a219ea79857c5fadb3e7041"),
        (
            1,
            "00112233445566778899aabbccddeeff",
            240,
            6,
            0,
            "3147ec21cd9231ac517cc86d7898af6eb2d27e83957ed7ed7ab76f528f93",
        ),
    ],
)
def test_words_on_the_air_stay_what_they_were(
    base_graph, info, n_coded, bits_per_symbol, rv, coded
):
    bits = words(info)
    code = ldpc.code_for(bits.size, base_graph)
    sent = ldpc.rate_match(code, ldpc.encode(code, bits), n_coded, bits_per_symbol, rv)
    assert np.packbits(sent).tobytes().hex() == coded


@pytest.mark.parametrize("bits_per_symbol", [2, 4, 6, 8])
def test_interleaver_writes_rows_and_reads_columns(bits_per_symbol):
    code = ldpc.code_for(1280, 2)
    buffer = np.random.default_rng(1).integers(0, 2, (2, code.n_buffer), np.uint8)
    plain = ldpc.rate_match(code, buffer, 2400, 1)
    sent = ldpc.rate_match(code, buffer, 2400, bits_per_symbol)
    # TS 38.212 §5.4.2.2: f[i + j Q] = e[i E / Q + j]
    for i in range(bits_per_symbol):
        for j in (0, 1, 171, 2400 // bits_per_symbol - 1):
            np.testing.assert_array_equal(
                sent[:, i + j * bits_per_symbol], plain[:, i * 2400 // bits_per_symbol + j]
            )


@pytest.mark.parametrize(
    ("base_graph", "info_bits", "starts"), [(1, 8448, (0, 17, 33, 56)), (2, 1280, (0, 13, 25, 43))]
)
def test_redundancy_versions_start_where_the_standard_says(base_graph, info_bits, starts):
    code = ldpc.code_for(info_bits, base_graph)
    buffer = np.random.default_rng(2).integers(0, 2, (1, code.n_buffer), np.uint8)
    for rv, column in enumerate(starts):
        expected = np.roll(buffer, -column * code.lifting_size, axis=1)[:, :1000]
        np.testing.assert_array_equal(ldpc.rate_match(code, buffer, 1000, 1, rv), expected)


@pytest.mark.slow
@pytest.mark.parametrize("rv", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("info_bits", "base_graph", "n_coded"), [(1100, 2, 2400), (5000, 1, 9000), (1100, 2, 15000)]
)
def test_recovery_puts_every_bit_back_and_adds_copies(info_bits, base_graph, n_coded, rv):
    code = ldpc.code_for(info_bits, base_graph)
    info = np.random.default_rng(rv).integers(0, 2, (2, info_bits), np.uint8)
    buffer = ldpc.encode(code, info)
    sent = ldpc.rate_match(code, buffer, n_coded, 6, rv)
    soft = ldpc.rate_recover(code, 1 - 2 * sent.astype(np.float32), 6, rv)
    assert soft.dtype == np.int16
    fillers = np.zeros(code.n_buffer, bool)
    fillers[code.filler_start : code.filler_start + code.n_fillers] = True
    assert (soft[:, fillers] == 32767).all()
    copies = np.abs(soft[:, ~fillers].astype(int)) // ldpc.LLR_PER_NAT
    assert (copies.sum(axis=1) == n_coded).all()
    assert copies.max() - copies.min() == 1
    heard = soft[:, ~fillers] != 0
    np.testing.assert_array_equal((soft[:, ~fillers] < 0)[heard], buffer[:, ~fillers][heard])


def test_recovery_saturates_and_a_nan_says_nothing():
    code = ldpc.code_for(192, 2)
    sendable = code.n_buffer - code.n_fillers
    llr = np.zeros((1, 2 * sendable), np.float32)  # each bit comes twice
    llr[0, :8] = [np.nan, np.inf, -np.inf, 1e9, -1e9, np.inf, 0.25, 1500]
    llr[0, sendable : sendable + 8] = [0.5, np.nan, 0, 1, -1e9, -np.inf, 0.5, 1500]
    soft = ldpc.rate_recover(code, llr, 1)[0]
    assert soft[:8].tolist() == [8, 32767, -32767, 32767, -32767, 0, 12, 32767]
    assert not soft[8 : code.filler_start].any()


def test_combining_adds_and_saturates():
    a = np.array([[100, 32767, -32767, -32767, 5]], np.int16)
    b = np.array([[-30, 32767, -1, 32767, 7]], np.int16)
    both = ldpc.combine(a, b)
    assert both.dtype == np.int16
    assert both.tolist() == [[70, 32767, -32767, 0, 12]]


def test_crc_of_the_catalogue():
    # check values of CRC-24/LTE-A and CRC-24/LTE-B in Cook's catalogue of parametrised CRC
    # algorithms
    digits = np.frombuffer(b"123456789", np.uint8)[None]
    assert ldpc.crc24a(digits).tolist() == [0xCDE703]
    assert ldpc.crc24b(digits).tolist() == [0x23EF52]


@pytest.mark.slow
def test_crc_of_a_message_with_its_crc_is_zero():
    data = np.random.default_rng(3).integers(0, 256, (5, 300), np.uint8)
    for crc in (ldpc.crc24a, ldpc.crc24b):
        tail = crc(data).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
        assert not crc(np.hstack([data, tail])).any()
        assert crc(data[:, 1:]).all()


def test_impossible_requests_are_refused_by_name():
    code = ldpc.code_for(192, 2)
    bits = np.zeros((2, 192), np.uint8)
    buffer = ldpc.encode(code, bits)
    for request, message in [
        (lambda: ldpc.code_for(192, 3), "base graph is 3"),
        (lambda: ldpc.code_for(8449, 1), "block of 8449 bits; base graph 1 takes 24 to 8448"),
        (lambda: ldpc.code_for(8, 2), "block of 8 bits"),
        (lambda: ldpc.encode(code, bits[:, :-1]), r"shape \(2, 191\)"),
        (lambda: ldpc.encode(code, bits + np.uint8(48)), "value 48"),
        (lambda: ldpc.rate_match(code, buffer[:, 1:], 400, 2), r"shape \(2, 1599\)"),
        (
            lambda: ldpc.rate_match(code, buffer, 401, 2),
            "401 coded bits; must be whole symbols of 2",
        ),
        (lambda: ldpc.rate_match(code, buffer, 400, 2, 4), "redundancy version is 4"),
        (lambda: ldpc.rate_recover(code, np.zeros(400, np.float32), 2), r"shape \(400,\)"),
        (
            lambda: ldpc.combine(buffer.astype(np.int16), np.zeros((1, 1600), np.int16)),
            "cannot be combined",
        ),
        (lambda: ldpc.decode(code, np.zeros((1, 10), np.int16)), r"shape \(1, 10\)"),
        (lambda: ldpc.decode(code, np.zeros((1, 1600), np.int16), 0), "0 iterations"),
        (lambda: ldpc.crc24a(np.zeros(9, np.uint8)), r"shape \(9,\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            request()
