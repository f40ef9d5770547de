"""How fast and how small the edge is: swaps under load, scoring three ways, memory."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from edge_device.adapter import write_adapter
from edge_device.bundle import load_bundle
from edge_device.gguf_conversion import convert, quantise
from edge_device.gguf_model import GgufModel, inspect
from edge_device.runtime import BASE, Runtime, RuntimeSettings
from hil.contract import LabelQuestion, LoraUpdate, LowRankFactors, ModelError, ScoreSet
from hil.system.waits import waiting_for

_PROMPT: Final = (
    "Shares of the carrier rose after the company said that profits were above the forecast. It was"
)
_WORDS: Final = (" a", " the", " of", " in", " to", " and", " is", "1", "2", "3", "4")
_N_LABELS: Final = 4


def bench(
    path: Path,
    *,
    quant: str = "Q4_K_M",
    rank: int = 8,
    n_swaps: int = 200,
    n_questions: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Wall-clock and memory figures of the edge; names carry their units.

    Args:
        path: an edge bundle, or a model folder that is first converted.
        quant: quantisation of a model folder.
        rank: rank of every projection in the two random adapters that are swapped.
        n_swaps: number of swaps, ≥ 1.
        n_questions: questions scored at a time, ≥ 8.
        seed: seed of the adapters.
    Raises:
        ModelError: neither a bundle nor a model folder that the edge can serve.
    """
    with tempfile.TemporaryDirectory(prefix="hil-bench-") as scratch:
        model_path = _model(path, Path(scratch), quant)
        model = inspect(model_path)
        adapters = _random_adapters(model, Path(scratch), rank, np.random.default_rng(seed))
        with Runtime(model_path, settings=RuntimeSettings()) as runtime:
            waiting_for("measuring scores and changes of the update, about a minute")
            figures = _scoring(runtime, n_questions) | _sentences(runtime, adapters[0], n_questions)
            figures |= _swaps(runtime, adapters, n_swaps)
            return figures | {"child_memory_bytes": float(runtime.memory_bytes)}


def _model(path: Path, scratch: Path, quant: str) -> Path:
    if (path / "manifest.json").is_file():
        return load_bundle(path).model_path
    if not (path / "config.json").is_file():
        raise ModelError(
            f"'{path}' is neither an edge bundle (manifest.json) nor a model folder (config.json)"
        )
    convert(path, scratch / "f16.gguf")
    quantise(scratch / "f16.gguf", scratch / "model.gguf", quant)
    return scratch / "model.gguf"


def _random_adapters(
    model: GgufModel, scratch: Path, rank: int, rng: np.random.Generator
) -> list[Path]:
    paths = [scratch / "one.gguf", scratch / "other.gguf"]
    for path in paths:
        factors = {
            module: LowRankFactors(
                a=rng.standard_normal((rank, d_in), dtype=np.float32),
                b=rng.standard_normal((d_out, rank), dtype=np.float32)
                * np.float32(0.1 / (d_in * rank) ** 0.5),
            )
            for module, (d_out, d_in) in model.spec.module_shapes.items()
        }
        write_adapter(
            LoraUpdate(round_id=0, base_identity=model.spec.identity, factors=factors), model, path
        )
    return paths


# ------------------------------------------------------------------------------------------ scoring


def _questions(runtime: Runtime, n: int) -> tuple[ScoreSet, ScoreSet]:
    """The same prompts with four labels of one token, and with four labels of two."""
    prompt_tokens = len(runtime.tokenize(_PROMPT))
    single = [word for word in _WORDS if len(runtime.tokenize(_PROMPT + word)) == prompt_tokens + 1]
    if len(single) < _N_LABELS:
        raise ModelError(
            f"the tokenizer has fewer than {_N_LABELS} short words as one token: bench another "
            "model"
        )
    labels = tuple(single[:_N_LABELS])
    pairs = tuple(f"{label}," for label in labels)

    def score_set(answers: tuple[str, ...]) -> ScoreSet:
        questions = (
            LabelQuestion(prompt=_PROMPT, labels=answers, answer=i % _N_LABELS) for i in range(n)
        )
        return ScoreSet(name="bench", questions=tuple(questions))

    return score_set(labels), score_set(pairs)


def _scoring(runtime: Runtime, n: int) -> dict[str, float]:
    """Milliseconds a question: one position, shared prefix, and the plain way: every option, all
    logits, alone."""
    single, pairs = _questions(runtime, n)
    n_plain = n // 8

    def plain_ms(questions: ScoreSet) -> float:
        options = []
        for q in questions.questions[:n_plain]:
            texts = [q.prompt + label for label in q.labels]
            options += [ScoreSet(name="option", chunks=(text,)) for text in texts]
        return _median_ms(lambda: [runtime.score(option) for option in options]) / n_plain

    single_ms = _median_ms(lambda: runtime.score(single)) / n
    shared_ms = _median_ms(lambda: runtime.score(pairs)) / n
    plain_single_ms, plain_pairs_ms = plain_ms(single), plain_ms(pairs)
    return {
        "score_single_token_ms": single_ms,
        "score_shared_prefix_ms": shared_ms,
        "score_logits_all_ms": plain_single_ms,
        "score_single_token_speedup": plain_single_ms / single_ms,
        "score_shared_prefix_speedup": plain_pairs_ms / shared_ms,
    }


def _sentences(runtime: Runtime, adapter: Path, n: int) -> dict[str, float]:
    """Classified sentences a second, with the bare base and with an adapter."""
    single, _ = _questions(runtime, n)
    base_ms = _median_ms(lambda: runtime.score(single, adapter=BASE))
    runtime.swap(adapter)
    adapter_ms = _median_ms(lambda: runtime.score(single))
    runtime.swap(None)
    return {
        "base_sentences_per_s": 1000 * n / base_ms,
        "adapter_sentences_per_s": 1000 * n / adapter_ms,
    }


def _median_ms(work: Callable[[], object], repeats: int = 5) -> float:
    work()
    times_ms = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        work()
        times_ms.append(1000 * (time.perf_counter() - start_s))
    return float(np.median(times_ms))


# -------------------------------------------------------------------------------------------- swaps


def _swaps(runtime: Runtime, adapters: list[Path], n_swaps: int) -> dict[str, float]:
    """Swaps while a client asks without a pause; what each held up, and what became of the client's
    requests."""
    single, _ = _questions(runtime, 1)
    waits_ms: list[float] = []
    asked = [0]
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            asked[0] += 1
            start_s = time.perf_counter()
            runtime.score(single)
            waits_ms.append(1000 * (time.perf_counter() - start_s))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        swaps_ms = [runtime.swap(adapters[i % 2]) for i in range(n_swaps)]
    finally:
        done.set()
        thread.join()
    return {
        "swaps": float(n_swaps),
        "swap_median_ms": float(np.median(swaps_ms)),
        "swap_max_ms": max(swaps_ms),
        "client_requests": float(asked[0]),
        "client_requests_lost": float(asked[0] - len(waits_ms)),
        "client_wait_median_ms": float(np.median(waits_ms)),
        "client_wait_max_ms": max(waits_ms),
    }
