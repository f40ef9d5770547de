"""The edge's bars on a random model of the default size, with room for a loaded machine."""

import pytest

from hil.benchmarks.edge import bench
from hil.contract import ModelError


def test_edge_keeps_to_its_bars(small_gguf):
    figures = bench(small_gguf.parent / "hf", n_swaps=30, n_questions=16)
    assert figures["client_requests_lost"] == 0
    assert figures["client_requests"] > 30
    assert figures["swap_median_ms"] <= 30
    assert figures["child_memory_bytes"] <= 100e6
    assert figures["score_single_token_speedup"] >= 3.5
    assert figures["score_shared_prefix_speedup"] >= 2.5
    assert figures["adapter_sentences_per_s"] > 0


def test_bench_of_nothing_says_what_it_wants(tmp_path):
    with pytest.raises(ModelError, match="neither an edge bundle"):
        bench(tmp_path)
