"""The supervised model process: right answers, swaps without trace or loss, and no way to die of
it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from gguf import GGUFWriter
from tokenizers import Tokenizer

from edge_device.adapter import write_adapter
from edge_device.runtime import BASE, Runtime, RuntimeSettings
from hil.contract import (
    ConfigError,
    DeviceError,
    LabelQuestion,
    LoraUpdate,
    LowRankFactors,
    ModelError,
    ScoreSet,
)

TEXT = "the station reported a weak signal"
V0 = "model.layers.0.self_attn.v_proj"


@pytest.fixture(scope="module")
def runtime(tiny_gguf):
    """Shared by tests that leave it with the bare base and alive."""
    with Runtime(tiny_gguf) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def adapters(tiny_model, make_update, tmp_path_factory) -> list[Path]:
    """Two different adapter files."""
    paths = [tmp_path_factory.mktemp("adapters") / f"{seed}.gguf" for seed in (1, 2)]
    for seed, path in enumerate(paths, start=1):
        write_adapter(make_update(tiny_model.spec, seed=seed), tiny_model, path)
    return paths


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def gone(pid: int, within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


# ----------------------------------------------------------------------------------------------
# answers


def label_nats(runtime: Runtime, question: LabelQuestion) -> list[float]:
    """Cross-entropy of each label behind the prompt, from the logits of the whole text."""
    nats = []
    prompt = runtime.tokenize(question.prompt)
    for label in question.labels:
        text = runtime.tokenize(question.prompt + label)
        assert text[: len(prompt)] == prompt
        rows = log_softmax(runtime.logits(text))
        nats.append(-sum(rows[i - 1, text[i]] for i in range(len(prompt), len(text))))
    return nats


@pytest.mark.slow
def test_labels_score_as_the_whole_text_does_and_the_most_probable_one_counts(runtime, label_set):
    scores = runtime.score(label_set)
    for i, question in enumerate(label_set.questions[:8]):
        expected = label_nats(runtime, question)
        # another batch and an f16 cache
        assert scores.nats[i] == pytest.approx(expected[question.answer], rel=2e-3)
        assert scores.correct[i] == (np.argmin(expected) == question.answer)
    assert scores.tokens.tolist() == [1] * 40


@pytest.mark.slow
def test_some_labels_have_several_tokens_and_some_one(runtime, label_set):
    lengths = {len(runtime.tokenize(label)) for label in label_set.questions[0].labels}
    assert 1 in lengths
    assert max(lengths) > 1


@pytest.mark.slow
def test_text_chunks_score_every_token_after_the_first(runtime, text_set):
    scores = runtime.score(text_set)
    for chunk, nats, n_tokens in zip(text_set.chunks, scores.nats, scores.tokens, strict=True):
        tokens = runtime.tokenize(chunk)
        rows = log_softmax(runtime.logits(tokens))
        assert n_tokens == len(tokens) - 1
        assert nats == pytest.approx(-sum(rows[i, t] for i, t in enumerate(tokens[1:])), rel=2e-3)


@pytest.mark.slow
def test_text_longer_than_a_batch(tiny_gguf, runtime):
    text = " ".join([TEXT] * 12)
    one_batch = runtime.score(ScoreSet(name="long", chunks=(text,)))
    with Runtime(tiny_gguf, settings=RuntimeSettings(n_batch=16, n_seq=8)) as narrow:
        many = narrow.score(ScoreSet(name="long", chunks=(text,)))
    assert many.tokens == one_batch.tokens > 64
    assert many.nats == pytest.approx(one_batch.nats, rel=2e-3)


@pytest.mark.slow
def test_generation_takes_the_most_probable_token(runtime, tiny_gguf):
    tokens = runtime.tokenize(TEXT)
    n_prompt = len(tokens)
    for _ in range(6):
        tokens.append(int(runtime.logits(tokens)[-1].argmax()))
    tokenizer = Tokenizer.from_file(str(tiny_gguf.parent / "hf" / "tokenizer.json"))
    assert runtime.generate(TEXT, 6) == tokenizer.decode(tokens[n_prompt:])


@pytest.mark.slow
def test_refused_requests_name_the_limit(runtime):
    with pytest.raises(ModelError, match=r"1 to 512 fit"):
        runtime.score(ScoreSet(name="long", chunks=("signal " * 2000,)))
    with pytest.raises(ModelError, match="at least one token"):
        runtime.score(
            ScoreSet(name="x", questions=(LabelQuestion(prompt=TEXT, labels=("", " a"), answer=0),))
        )
    with pytest.raises(ModelError, match="neither questions nor chunks"):
        runtime.score(ScoreSet(name="empty"))
    assert runtime.ping() > 0


@pytest.mark.parametrize(
    "sizes", [{"threads": 0}, {"n_seq": 1}, {"n_seq": 300}, {"n_batch": 32}, {"n_ctx": 128}]
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ConfigError, match="n_seq ≤ n_batch ≤ n_ctx"):
        RuntimeSettings(**sizes)


# ------------------------------------------------------------------------------------------------
# swaps


@pytest.mark.slow
def test_swap_there_and_back_leaves_no_trace(runtime, adapters, label_set):
    tokens = runtime.tokenize(TEXT)
    before, scores = runtime.logits(tokens), runtime.score(label_set)
    assert runtime.swap(adapters[0]) > 0
    first = runtime.logits(tokens)
    runtime.swap(adapters[1])
    second = runtime.logits(tokens)
    runtime.swap(adapters[0])
    np.testing.assert_array_equal(runtime.logits(tokens), first)
    runtime.swap(None)
    np.testing.assert_array_equal(runtime.logits(tokens), before)
    np.testing.assert_array_equal(runtime.score(label_set).nats, scores.nats)
    assert np.abs(first - before).max() > 0.1
    assert np.abs(second - first).max() > 0.1


@pytest.mark.slow
def test_swapped_model_answers_as_one_started_with_the_adapter(tiny_gguf, runtime, adapters):
    tokens = runtime.tokenize(TEXT)
    runtime.generate(TEXT, 20)  # fills the cache
    runtime.swap(adapters[1])
    swapped = runtime.logits(tokens)
    runtime.swap(None)
    with Runtime(tiny_gguf) as fresh:
        fresh.swap(adapters[1])
        np.testing.assert_array_equal(fresh.logits(tokens), swapped)


@pytest.mark.slow
def test_requests_choose_their_adapter(runtime, adapters):
    tokens = runtime.tokenize(TEXT)
    base = runtime.logits(tokens)
    runtime.swap(adapters[0])
    active = runtime.logits(tokens)
    trial = runtime.load(adapters[1])
    on_trial = runtime.logits(tokens, adapter=trial.name)
    np.testing.assert_array_equal(runtime.logits(tokens), active)
    np.testing.assert_array_equal(runtime.logits(tokens, adapter=BASE), base)
    runtime.discard(trial)
    with pytest.raises(ModelError, match="not loaded"):
        runtime.logits(tokens, adapter=trial.name)
    runtime.swap(adapters[1])
    np.testing.assert_array_equal(runtime.logits(tokens), on_trial)
    runtime.swap(None)


@pytest.mark.slow
def test_clients_lose_nothing_during_swaps(runtime, adapters):
    tokens = runtime.tokenize(TEXT)
    known = [runtime.logits(tokens)]
    for path in adapters:
        runtime.swap(path)
        known.append(runtime.logits(tokens))
    answers: list[list[np.ndarray]] = [[], []]
    done = threading.Event()

    def client(mine: list[np.ndarray]) -> None:
        while not done.is_set():
            mine.append(runtime.logits(tokens))

    threads = [threading.Thread(target=client, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    for i in range(60):
        runtime.swap([*adapters, None][i % 3])
    done.set()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    runtime.swap(None)
    for mine in answers:
        kinds = {
            next(k for k, logits in enumerate(known) if np.array_equal(logits, answer))
            for answer in mine
        }
        assert len(mine) > 60  # clients and swaps take turns
        assert kinds == {0, 1, 2}


@pytest.mark.slow
def test_a_thousand_swaps_do_not_grow(runtime, adapters):
    tokens = runtime.tokenize(TEXT)

    def swap(times: int) -> int:
        for i in range(times):
            runtime.swap(adapters[i % 2])
            runtime.logits(tokens)
        return runtime.memory_bytes

    before = swap(100)
    grown = swap(1000) - before
    runtime.swap(None)
    adapter_bytes = adapters[0].stat().st_size
    assert 1000 * adapter_bytes > 20_000_000
    assert grown < 5_000_000, f"{grown / 1e6:.2f} MB"  # the allocator's breathing is 2 MB


# -------------------------------------------------------------------------------------------- bad
# files


@pytest.mark.slow
def test_truncated_model_is_one_line(tiny_gguf, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="cannot load the model") as error:
        Runtime(broken)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_truncated_adapter_changes_nothing(runtime, adapters, tmp_path):
    tokens = runtime.tokenize(TEXT)
    before, restarts = runtime.logits(tokens), runtime.restarts
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(adapters[0].read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot load the adapter"):
        runtime.swap(broken)
    np.testing.assert_array_equal(runtime.logits(tokens), before)
    assert runtime.restarts == restarts


@pytest.mark.slow
def test_not_a_number_is_caught_and_leaves_no_trace(runtime, tiny_model, make_update, tmp_path):
    tokens = runtime.tokenize(TEXT)
    before = runtime.logits(tokens)
    update = make_update(tiny_model.spec)
    next(iter(update.factors.values())).b[0, 0] = np.nan
    write_adapter(update, tiny_model, tmp_path / "nan.gguf")
    with pytest.raises(ModelError, match=r"not finite|all alike"):
        runtime.swap(tmp_path / "nan.gguf")
    assert runtime.active_adapter is None
    np.testing.assert_array_equal(runtime.logits(tokens), before)


@pytest.mark.slow
def test_a_text_that_overflows_leaves_nothing_in_the_cache(runtime, tiny_model, tmp_path):
    """Infinite values in unused cells reach a later text of 64 tokens or more, which llama.cpp
    attends to in tiles: 0 · inf."""
    some, many = list(range(5, 75)), list(range(2, 390))
    before = runtime.logits(some)
    d_out, d_in = tiny_model.spec.module_shapes[V0]
    a, b = np.zeros((1, d_in), np.float32), np.full((d_out, 1), 2.0**15, np.float32)
    a[0, 0] = 1.0
    write_adapter(
        LoraUpdate(
            round_id=0,
            base_identity=tiny_model.spec.identity,
            factors={V0: LowRankFactors(a=a, b=b)},
        ),
        tiny_model,
        tmp_path / "large.gguf",
    )
    runtime.swap(tmp_path / "large.gguf")  # the cache holds f16: not every token overflows
    with pytest.raises(ModelError, match="not finite"):
        runtime.logits(many)
    runtime.swap(None)
    np.testing.assert_array_equal(runtime.logits(some), before)


@pytest.mark.slow
def test_deadly_adapter_kills_only_the_child(tiny_gguf, tiny_model, adapters, tmp_path):
    deadly = tmp_path / "deadly.gguf"
    writer = GGUFWriter(deadly, tiny_model.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_string("adapter.lora.alpha", "high")  # a text where llama.cpp asserts a number
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((1, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((64, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Runtime(tiny_gguf) as runtime:
        runtime.swap(adapters[0])
        tokens = runtime.tokenize(TEXT)
        before = runtime.logits(tokens)
        with pytest.raises(DeviceError, match="SIGABRT") as error:
            runtime.swap(deadly)
        assert "\n" not in str(error.value)
        np.testing.assert_array_equal(runtime.logits(tokens), before)
        assert runtime.active_adapter == adapters[0]
        assert runtime.restarts == 1


# ------------------------------------------------------------------------------------------- life
# and death


@pytest.mark.slow
def test_child_killed_over_a_request_is_replaced(tiny_gguf, adapters):
    with Runtime(tiny_gguf) as runtime:
        runtime.swap(adapters[0])
        tokens = runtime.tokenize(TEXT)
        before, pid = runtime.logits(tokens), runtime.pid
        os.kill(pid, signal.SIGSTOP)
        answers: list[np.ndarray] = []
        client = threading.Thread(target=lambda: answers.append(runtime.logits(tokens)))
        client.start()
        time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        client.join(timeout=20)
        np.testing.assert_array_equal(answers[0], before)
        assert runtime.pid != pid
        assert runtime.restarts == 1


@pytest.mark.slow
def test_hung_child_is_killed_within_its_deadline(tiny_gguf):
    with Runtime(tiny_gguf, settings=RuntimeSettings(request_s=0.5)) as runtime:
        pid = runtime.pid
        os.kill(pid, signal.SIGSTOP)
        start_s = time.monotonic()
        assert runtime.tokenize(TEXT)
        assert time.monotonic() - start_s < 60  # the request itself has no other end
        assert gone(pid, 5)


@pytest.mark.slow
def test_request_that_hangs_twice_fails_and_the_next_is_served(tiny_gguf, text_set):
    with Runtime(tiny_gguf, settings=RuntimeSettings(request_s=0.02)) as runtime:
        with pytest.raises(DeviceError, match=r"hung over 'score_chunks' for 0\.02 s"):
            runtime.score(
                ScoreSet(name="much", chunks=tuple(" ".join([TEXT] * 39) for _ in range(16)))
            )
        assert runtime.restarts == 2
        assert runtime.ping() > 0


@pytest.mark.slow
def test_adapter_that_no_child_starts_with_is_given_up(tiny_gguf, adapters, tmp_path):
    with Runtime(tiny_gguf) as runtime:
        tokens = runtime.tokenize(TEXT)
        base = runtime.logits(tokens)
        lost = tmp_path / "lost.gguf"
        lost.write_bytes(adapters[0].read_bytes())
        runtime.swap(lost)
        lost.unlink()
        os.kill(runtime.pid, signal.SIGKILL)
        np.testing.assert_array_equal(runtime.logits(tokens), base)
        assert runtime.active_adapter is None


@pytest.mark.slow
def test_close_leaves_no_process_and_answers_no_more(tiny_gguf):
    runtime = Runtime(tiny_gguf)
    pid = runtime.pid
    runtime.close()
    assert gone(pid, 0.1)
    with pytest.raises(DeviceError, match="closed"):
        runtime.ping()


@pytest.mark.slow
def test_child_does_not_outlive_its_parent(tiny_gguf):
    script = (
        "import os, signal, sys; from pathlib import Path; from edge_device.runtime import "
        "Runtime\n"
        "runtime = Runtime(Path(sys.argv[1])); print(runtime.pid, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_gguf)],
        cwd=root,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout), 3)
