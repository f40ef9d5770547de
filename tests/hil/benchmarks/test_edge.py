"""The edge's bench on a random model of the default size."""

import pytest

from hil.benchmarks.edge import bench
from hil.contract import ModelError
from tests.edge_device.conftest import small_gguf  # noqa: F401 - a fixture


@pytest.mark.slow
def test_swaps_lose_no_request_and_the_model_stays_small(small_gguf):  # noqa: F811
    figures = bench(small_gguf.parent / "hf", n_swaps=30, n_questions=16)
    assert figures["client_requests_lost"] == 0
    assert figures["client_requests"] > 30
    assert figures["child_memory_bytes"] <= 100e6
    # How fast it is, is asked of an idle machine: hil bench edge.
    for name in ("swap_median_ms", "score_single_token_speedup", "adapter_sentences_per_s"):
        assert figures[name] > 0


def test_bench_of_nothing_says_what_it_wants(tmp_path):
    with pytest.raises(ModelError, match="neither an edge bundle"):
        bench(tmp_path)
