"""Random Qwen3 models in GGUF, and random updates for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_device.gguf_conversion import convert, quantise
from edge_device.gguf_model import GgufModel, TypesReport, inspect
from hil.contract import BaseSpec, LabelQuestion, LoraUpdate, LowRankFactors, ScoreSet
from tests.edge_device.random_updates import DOWN1, K0, Q0

MakeUpdate = Callable[..., LoraUpdate]


def _served(folder: Path, quant: str, **sizes: int) -> Path:
    from tests.edge_device.tiny_models import (
        make_model,  # imports torch: only for tests that need a model
    )

    make_model(folder / "hf", **sizes)
    convert(folder / "hf", folder / "f16.gguf")
    quantise(folder / "f16.gguf", folder / "model.gguf", quant)
    return folder / "model.gguf"


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hidden 64, 2 layers, 400 words, in Q8_0."""
    return _served(tmp_path_factory.mktemp("tiny"), "Q8_0", hidden=64)


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As large as the default model, 3 M parameters: hidden 256, 4 layers, 2048 words, in
    Q4_K_M."""
    return _served(tmp_path_factory.mktemp("small"), "Q4_K_M", hidden=256, n_layers=4, vocab=2048)


@pytest.fixture(scope="session")
def tiny_model(tiny_gguf: Path) -> GgufModel:
    """What the tiny GGUF says of itself."""
    return inspect(tiny_gguf)


@pytest.fixture(scope="session")
def make_update() -> MakeUpdate:
    """Random updates of every projection: `make_update(spec, rank=4, size=0.3, seed=1)`."""

    def make(
        spec: BaseSpec, *, rank: int = 4, size: float = 0.3, seed: int = 1, round_id: int = 0
    ) -> LoraUpdate:
        rng = np.random.default_rng(seed)
        factors = {}
        for module, (d_out, d_in) in spec.module_shapes.items():
            a = rng.standard_normal((rank, d_in), dtype=np.float32)
            b = rng.standard_normal((d_out, rank), dtype=np.float32) * np.float32(
                size / (d_in * rank) ** 0.5
            )
            factors[module] = LowRankFactors(a=a, b=b)
        return LoraUpdate(round_id=round_id, base_identity=spec.identity, factors=factors)

    return make


@pytest.fixture(scope="session")
def label_set() -> ScoreSet:
    """40 questions with labels of one and of several tokens."""
    rng = np.random.default_rng(5)
    words = (
        "the station reported a weak signal operator log receive bytes return numbers blanks "
        "line end"
    ).split()
    labels = (" a", " the station", " weak", " numbers")
    questions = tuple(
        LabelQuestion(
            prompt=" ".join(rng.choice(words, 8)) + ":", labels=labels, answer=int(rng.integers(4))
        )
        for _ in range(40)
    )
    return ScoreSet(name="labels", questions=questions)


@pytest.fixture(scope="session")
def text_set() -> ScoreSet:
    """20 chunks of text of different lengths."""
    rng = np.random.default_rng(6)
    words = (
        "the station reported a weak signal operator log receive bytes return numbers blanks "
        "line end"
    ).split()
    chunks = tuple(" ".join(rng.choice(words, rng.integers(5, 40))) for _ in range(20))
    return ScoreSet(name="text", chunks=chunks)


@pytest.fixture
def model() -> GgufModel:
    """A Qwen3 model as its GGUF describes it."""
    shapes = {Q0: (32, 16), K0: (16, 16), DOWN1: (16, 24)}
    return GgufModel(
        spec=BaseSpec(identity="ab" * 32, module_shapes=shapes),
        hf_architecture="Qwen3ForCausalLM",
        architecture="qwen3",
        n_heads=4,
        n_kv_heads=2,
        vocab_size=30,
        context_length=64,
        normalizer="",
        types=TypesReport(tensors={}, n_bytes={}, file_bytes=0),
    )
