"""Encoder and decoder against Sionna's, an independent implementation of the same standard."""

import warnings

import numpy as np
import pytest

from radio import ldpc
from radio.ldpc.tables import LIFTING_SETS, lifted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    reason = "Sionna is the oracle: pip install sionna-no-rt"
    torch = pytest.importorskip("torch", reason=reason)
    sionna = pytest.importorskip("sionna.phy.fec.ldpc", reason=reason)


@pytest.mark.parametrize("lifting_size", [max(sizes) for sizes in LIFTING_SETS])
@pytest.mark.parametrize("base_graph", [1, 2])
def test_every_edge_of_both_tables(base_graph, lifting_size):
    columns = {1: 22, 2: 10}[base_graph]
    encoder = sionna.LDPC5GEncoder(
        columns * lifting_size, 3 * columns * lifting_size, bg=f"bg{base_graph}"
    )
    assert encoder.z == lifting_size
    first_of_each_row = encoder.pcm[::lifting_size].tocoo()
    expected = {
        (int(row), int(column) // lifting_size, int(column) % lifting_size)
        for row, column in zip(first_of_each_row.row, first_of_each_row.col, strict=True)
    }
    graph = lifted(base_graph, lifting_size)
    rows = np.repeat(np.arange(graph.row_start.size - 1), np.diff(graph.row_start))
    assert (
        set(zip(rows.tolist(), graph.column.tolist(), graph.shift.tolist(), strict=True))
        == expected
    )


@pytest.mark.parametrize(
    ("info_bits", "base_graph", "n_coded", "bits_per_symbol"),
    [
        (8448, 1, 25344, 2),
        (8448, 1, 9900, 6),
        (8448, 1, 12672, 8),
        (5000, 1, 10000, 4),
        (1280, 2, 2560, 2),
        (192, 2, 960, 2),
        (1000, 2, 3200, 4),
        (3840, 2, 5760, 8),
        (600, 2, 1500, 6),
    ],
)
def test_bits_on_the_air(info_bits, base_graph, n_coded, bits_per_symbol):
    code = ldpc.code_for(info_bits, base_graph)
    info = np.random.default_rng(n_coded).integers(0, 2, (2, info_bits), np.uint8)
    encoder = sionna.LDPC5GEncoder(
        info_bits, n_coded, num_bits_per_symbol=bits_per_symbol, bg=f"bg{base_graph}"
    )
    expected = encoder(torch.from_numpy(info.astype(np.float32)), rv=[0, 1, 2, 3]).numpy()
    buffer = ldpc.encode(code, info)
    for rv in range(4):
        np.testing.assert_array_equal(
            ldpc.rate_match(code, buffer, n_coded, bits_per_symbol, rv), expected[:, rv]
        )


@pytest.mark.slow
def test_blocks_lost_are_no_more_than_those_of_belief_propagation():
    snr_db = 1.2
    code, n_coded, n_blocks = ldpc.code_for(1280, 2), 2560, 60
    rng = np.random.default_rng(31)
    info = rng.integers(0, 2, (n_blocks, 1280), np.uint8)
    sent = ldpc.rate_match(code, ldpc.encode(code, info), n_coded, 2)
    noise = rng.standard_normal(sent.shape)

    def llr(es_n0_db):
        snr = 10 ** (es_n0_db / 10)
        return (2 * snr * (1 - 2.0 * sent + noise / snr**0.5)).astype(np.float32)

    encoder = sionna.LDPC5GEncoder(1280, n_coded, num_bits_per_symbol=2, bg="bg2")
    propagation = sionna.LDPC5GDecoder(encoder, num_iter=20, cn_update="boxplus-phi")
    ours = (ldpc.decode(code, ldpc.rate_recover(code, llr(snr_db), 2)).bits != info).any(axis=1)
    # its LLR speak for bit 1
    theirs = (propagation(torch.from_numpy(-llr(snr_db - 0.3))).numpy() != info).any(axis=1)
    assert 0 < theirs.sum() < n_blocks
    discordant = np.count_nonzero(ours != theirs)
    assert ours.sum() <= theirs.sum() + 2 * discordant**0.5
