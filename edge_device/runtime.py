"""llama.cpp in a supervised child process: score, generate, swap adapters; a dead or hung child is
started again."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from hil.contract import (
    MAX_LONG_LABELS,
    MAX_SCORED_TOKENS,
    ConfigError,
    DeviceError,
    ModelError,
    ScoreSet,
)
from hil.system.child_process import ChildProcess
from hil.system.pipe import Header

ACTIVE: Final = "active"
"""Adapter name: whatever is active when the request's turn comes."""
BASE: Final = "base"
"""Adapter name: none, the bare quantised model."""

_ITEMS_PER_REQUEST = 16  # of a score set; other requests take their turns in between
_STARTS_WITH_ADAPTER = 3
_GRACE_S = 0.5  # a child whose pipe is closed goes by itself; after this it is killed

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """How the child computes and how long it may take.

    Attributes:
        threads: threads of a computation: physical cores, or one where the machine is shared.
        n_ctx: key-value cells, shared by the sequences of one decode; the longest text in tokens.
        n_batch: most tokens of one decode.
        n_seq: most sequences of one decode, 2..256 and at most n_batch.
        start_s: deadline of starting the child and loading the model.
        request_s: deadline of one request; a child that misses it is killed.
    """

    threads: int = 1
    n_ctx: int = MAX_SCORED_TOKENS
    n_batch: int = 256
    n_seq: int = MAX_LONG_LABELS + 1
    start_s: float = 60.0
    request_s: float = 30.0

    def __post_init__(self) -> None:
        if (
            not 2 <= self.n_seq <= min(256, self.n_batch)
            or self.n_batch > self.n_ctx
            or self.threads < 1
        ):
            raise ConfigError(
                f"threads {self.threads}, n_seq {self.n_seq}, n_batch {self.n_batch}, n_ctx "
                f"{self.n_ctx}: needs "
                "threads ≥ 1, 2 ≤ n_seq ≤ 256 and n_seq ≤ n_batch ≤ n_ctx"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScores:
    """A score set item by item.

    Attributes:
        correct: bool[n], the right label has the highest probability; empty for text chunks.
        nats: float64[n], cross-entropy of the right label word over the full vocabulary, or of a
            chunk's tokens together.
        tokens: int64[n], tokens counted in a chunk; 1 for a label word, however many tokens it has.
    """

    correct: NDArray[np.bool_]
    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def loss_nats_per_token(self) -> float:
        """Mean cross-entropy of a label word, or of a token."""
        return float(self.nats.sum() / self.tokens.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """An adapter in the child: the name it is asked for by, its file, and how long loading kept the
    child busy."""

    name: str
    path: Path
    load_ms: float


class Runtime:
    """A GGUF model served by a child process that may die, and is then replaced.

    Requests may come from any thread; they are answered one after another in the order they came. A
    request during which the child dies is put to the next child once more before it fails.

    Args:
        model: quantised GGUF file.
        settings: see RuntimeSettings.

    Raises:
        ModelError: llama.cpp cannot load the model, or refuses what a request asks of it.
        DeviceError: the child cannot be started, or died or hung twice over one request.
    """

    def __init__(self, model: Path, *, settings: RuntimeSettings | None = None) -> None:
        self.model = model
        self.settings = settings or RuntimeSettings()
        self.restarts = 0
        self._active: LoadedAdapter | None = None
        self._names = itertools.count(1)
        self._child: _Child | None = None
        # One worker thread is the queue: first come, first served, so no client can starve a swap
        # or another client.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edge-runtime")
        try:
            self._child = self._worker.submit(self._start).result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child; requests that wait are answered first."""
        self._worker.shutdown(wait=True)
        if self._child is not None:
            self._child.end()
            self._child = None

    # -------------------------------------------------------------------------------------------
    # questions

    def score(self, score_set: ScoreSet, *, adapter: str = ACTIVE) -> ItemScores:
        """Scores of a model with an adapter: ACTIVE, BASE, or a name that `load` gave.

        Cut into requests of a few items, so that other clients are not held up; the cuts and hence
        the bits of the result are the same every time.
        """
        if score_set.questions:
            return self._score_questions(score_set, adapter)
        if not score_set.chunks:
            raise ModelError(
                f"score set {score_set.name!r} has neither questions nor chunks: fill one of the "
                "two"
            )
        scores: list[tuple[float, int]] = []
        for i in range(0, len(score_set.chunks), _ITEMS_PER_REQUEST):
            chunks = score_set.chunks[i : i + _ITEMS_PER_REQUEST]
            scores += self._ask({"op": "score_chunks", "chunks": chunks}, adapter)[0]["scores"]
        nats, tokens = zip(*scores, strict=True)
        return ItemScores(
            correct=np.zeros(0, np.bool_), nats=np.array(nats), tokens=np.array(tokens, np.int64)
        )

    def _score_questions(self, score_set: ScoreSet, adapter: str) -> ItemScores:
        log_probs: list[list[float]] = []
        for i in range(0, len(score_set.questions), _ITEMS_PER_REQUEST):
            questions = [
                (q.prompt, q.labels) for q in score_set.questions[i : i + _ITEMS_PER_REQUEST]
            ]
            log_probs += self._ask({"op": "score_questions", "questions": questions}, adapter)[0][
                "scores"
            ]
        answers = [q.answer for q in score_set.questions]
        return ItemScores(
            correct=np.array(
                [
                    int(np.argmax(row)) == answer
                    for row, answer in zip(log_probs, answers, strict=True)
                ]
            ),
            nats=np.array([-row[answer] for row, answer in zip(log_probs, answers, strict=True)]),
            tokens=np.ones(len(answers), np.int64),
        )

    def generate(self, prompt: str, n_tokens: int, *, adapter: str = ACTIVE) -> str:
        """At most n_tokens of greedy continuation."""
        reply, _ = self._ask({"op": "generate", "prompt": prompt, "n_tokens": n_tokens}, adapter)
        return str(reply["text"])

    def logits(self, tokens: Sequence[int], *, adapter: str = ACTIVE) -> NDArray[np.float32]:
        """Logits after every token, float32[n, n_vocab]."""
        reply, blob = self._ask({"op": "logits", "tokens": list(tokens)}, adapter)
        return np.frombuffer(blob, np.float32).reshape(reply["shape"])

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, with those the model adds by itself."""
        return list(self._ask({"op": "tokenize", "text": text}, None)[0]["tokens"])

    def ping(self) -> float:
        """Milliseconds until the child answers."""
        start_s = time.monotonic()
        self._ask({"op": "ping"}, None)
        return 1000 * (time.monotonic() - start_s)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        if self._child is None:
            raise DeviceError("the model process is closed: make a new Runtime")
        return self._child.process_id

    @property
    def memory_bytes(self) -> int:
        """Memory of the child: proportional set size where the system tells it (Linux), else
        resident set size."""
        info = psutil.Process(self.pid).memory_full_info()
        return int(getattr(info, "pss", info.rss))

    # --------------------------------------------------------------------------------------------
    # adapters

    @property
    def active_adapter(self) -> Path | None:
        """File of the adapter that requests are answered with; None for the bare base model."""
        return None if self._active is None else self._active.path

    def load(self, adapter: Path) -> LoadedAdapter:
        """Load an adapter file beside the active one; nothing answers with it unless asked to by
        its name."""
        return self._submit(self._load, f"adapter-{next(self._names)}", adapter)

    def discard(self, adapter: LoadedAdapter) -> None:
        """Free a loaded adapter that is not active; fine if a child that died took it along."""
        try:
            self._ask({"op": "free_adapter", "name": adapter.name}, None)
        except ModelError as error:
            if "is not loaded" not in str(error):
                raise

    def activate(self, adapter: LoadedAdapter | None) -> float:
        """Answer with this adapter (None: the bare base) from the next request on, and free the one
        before.

        Returns:
            Milliseconds that the swap kept the child busy and hence held requests up: load, first
            computation with the new adapter, freeing the old one. Scoring it on trial is a request
            among others and not counted.
        """
        return (adapter.load_ms if adapter else 0.0) + self._submit(self._activate, adapter)

    def swap(self, adapter: Path | None) -> float:
        """Load and activate an adapter file, or go back to the bare base; the milliseconds requests
        were held up."""
        return self.activate(None if adapter is None else self.load(adapter))

    def _load(self, name: str, path: Path) -> LoadedAdapter:
        start_s = time.monotonic()
        self._put({"op": "load_adapter", "name": name, "path": str(path)})
        return LoadedAdapter(name=name, path=path, load_ms=1000 * (time.monotonic() - start_s))

    def _activate(self, adapter: LoadedAdapter | None) -> float:
        start_s = time.monotonic()
        before = self._active
        self._put({"op": "warm", "adapter": adapter.name if adapter else None})
        self._active = adapter
        if before is not None:
            self._put({"op": "free_adapter", "name": before.name})
        return 1000 * (time.monotonic() - start_s)

    # ------------------------------------------------------------------------------------- the
    # child's life

    def _ask(self, request: Header, adapter: str | None) -> tuple[Header, bytes]:
        return self._submit(self._serve, request, adapter)

    def _submit(self, work: Callable[..., T], *args: Any) -> T:
        try:
            future = self._worker.submit(work, *args)
        except RuntimeError as error:
            raise DeviceError("the model process is closed: make a new Runtime") from error
        return future.result()  # every request before and including this one has its own deadline

    def _serve(self, request: Header, adapter: str | None) -> tuple[Header, bytes]:
        """One request with the adapter that is meant at this moment, on a second child if the first
        one dies."""
        try:
            return self._put(self._addressed(request, adapter))
        except _ChildDiedError:
            if adapter not in (None, ACTIVE, BASE):
                raise  # an adapter on trial died with its child
        return self._put(self._addressed(request, adapter))

    def _addressed(self, request: Header, adapter: str | None) -> Header:
        if adapter is None:
            return request
        active = self._active.name if self._active else None
        return request | {"adapter": {ACTIVE: active, BASE: None}.get(adapter, adapter)}

    def _put(self, request: Header) -> tuple[Header, bytes]:
        """One request to the child that lives; if it dies or hangs, the next one is started before
        this fails."""
        self._child = self._child or self._start()
        try:
            return self._child.ask(request, timeout_s=self.settings.request_s)
        except _ChildDiedError:
            self.restarts += 1
            self._child = None
            try:
                self._child = self._start()
            except ModelError as error:
                raise DeviceError(f"the model process does not start again: {error}") from error
            raise

    def _start(self) -> _Child:
        """A child with the model and the active adapter; with the bare base when that adapter fails
        every time."""
        for _ in range(_STARTS_WITH_ADAPTER if self._active else 0):
            try:
                return self._spawn(self._active)
            except (ModelError, _ChildDiedError):
                continue
        self._active = None
        return self._spawn(None)

    def _spawn(self, adapter: LoadedAdapter | None) -> _Child:
        child = _Child(self.settings.threads)
        sizes = {
            key: value for key, value in asdict(self.settings).items() if not key.endswith("_s")
        }
        try:
            child.ask(
                {"op": "load", "model": str(self.model), "settings": sizes},
                timeout_s=self.settings.start_s,
            )
            if adapter is not None:
                request = {"op": "load_adapter", "name": adapter.name, "path": str(adapter.path)}
                child.ask(request, timeout_s=self.settings.request_s)
        except BaseException:
            child.end()
            raise
        return child


class _ChildDiedError(DeviceError):
    """The child ended or hung over a request."""


class _Child:
    """A started `edge_device.child`."""

    def __init__(self, threads: int) -> None:
        self._child = ChildProcess(
            "edge_device.child",
            {
                "GGML_NO_BACKTRACE": "1",  # else an abort starts a debugger on the dying process
                "OMP_NUM_THREADS": str(threads),
                # Give freed adapters and logits back to the system: a third less memory for half a
                # millisecond a swap.
                "MALLOC_ARENA_MAX": "1",
                "MALLOC_TRIM_THRESHOLD_": "1000000",
            },
        )

    @property
    def process_id(self) -> int:
        """The system's number of the process."""
        return self._child.popen.pid

    def ask(self, request: Header, *, timeout_s: float) -> tuple[Header, bytes]:
        """The reply. Raises ModelError when the child refuses, _ChildDiedError when it ends or
        misses the deadline."""
        try:
            self._child.pipe.send(request, timeout_s=timeout_s)
            reply, blob = self._child.pipe.receive(timeout_s=timeout_s)
        except TimeoutError as error:
            self.end()
            raise _ChildDiedError(
                f"the model process hung over {request['op']!r} for {timeout_s:g} s"
            ) from error
        except (EOFError, BrokenPipeError) as error:
            raise _ChildDiedError(
                f"the model process ended over {request['op']!r}: {self.end()}"
            ) from error
        if "refused" in reply:
            raise ModelError(reply["refused"])
        return reply, blob

    def end(self) -> str:
        """Kill the process if it still runs, and free what belongs to it; how it ended and its last
        words."""
        if self._child.freed:
            return "ended before"
        self._child.close_pipe()
        try:
            self._child.popen.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self._child.popen.kill()
            self._child.popen.wait()
        return self._child.free()
