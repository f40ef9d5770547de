"""The process that runs llama.cpp: a malformed model or adapter may end it, and nothing else.

Started by `edge_device.runtime` as `python -m edge_device.child`; answers one request after another
from stdin on stdout. The only file that imports llama_cpp to run a model.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

from edge_device.batching import (
    Piece,
    Question,
    Tokens,
    any_constant,
    groups,
    log_softmax,
    n_shared,
    normalised,
    pack,
    slices,
)
from hil.system.pipe import Header, Pipe

_LOG_LEVEL_ERROR = 4  # GGML_LOG_LEVEL_ERROR of ggml.h
# floats of logits held at once: 16 MB, so that large vocabularies do not fill the memory
_MAX_LOGITS = 4_000_000


class RefusalError(Exception):
    """A request that cannot be answered, and why, in one line; the process lives on."""


class Batch:
    """llama.cpp's batch over numpy arrays, so that filling it costs no Python loop over tokens.

    Args:
        capacity: largest number of tokens of one decode.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._n_seq = np.ones(capacity, np.int32)
        # seq_id is an array of pointers: the i-th points at the i-th element of _seq.
        self._seq_pointers = (self._seq.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)

    def fill(
        self,
        token: NDArray[np.int32],
        pos: NDArray[np.int32],
        seq: NDArray[np.int32],
        wanted: NDArray[np.int8],
    ) -> Any:
        """The structure that llama_decode takes; valid until the next fill."""
        n = len(token)
        self._token[:n], self._pos[:n], self._seq[:n], self._wanted[:n] = token, pos, seq, wanted
        int32_pointer = ctypes.POINTER(ctypes.c_int32)
        return lib.llama_batch(
            n_tokens=n,
            token=self._token.ctypes.data_as(int32_pointer),
            pos=self._pos.ctypes.data_as(int32_pointer),
            n_seq_id=self._n_seq.ctypes.data_as(int32_pointer),
            seq_id=self._seq_pointers.ctypes.data_as(ctypes.POINTER(int32_pointer)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


class Engine:
    """A loaded model and its adapters by name; one of them, or none, is set at a time.

    Args:
        model_path: GGUF file; memory-mapped.
        n_ctx: key-value cells, shared by all sequences of a decode.
        n_batch: most tokens of one decode.
        n_seq: most sequences of one decode.
        threads: threads of every computation.
    """

    def __init__(
        self, model_path: str, *, n_ctx: int, n_batch: int, n_seq: int, threads: int
    ) -> None:
        self._log = _Log()
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.load_mode = lib.LLAMA_LOAD_MODE_MMAP
        model_params.use_extra_bufts = (
            False  # repacked weights would be a second copy beside the mapped file
        )
        self._model = lib.llama_model_load_from_file(os.fsencode(model_path), model_params)
        if not self._model:
            raise RefusalError(f"llama.cpp cannot load the model {model_path}: {self._log.cause()}")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._normalizer = self._metadata("hil.normalizer")
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self.n_ctx = n_ctx
        # beyond the GGUF's length llama.cpp may compute something else
        self.n_text = min(n_ctx, int(lib.llama_model_n_ctx_train(self._model)))
        self.n_seq = n_seq
        self.n_outputs = min(n_batch, max(n_seq, _MAX_LOGITS // self.n_vocab))
        self._context = self._new_context(n_batch, threads)
        self._memory = lib.llama_get_memory(self._context)
        self._batch = Batch(n_batch)
        self._limits = (n_batch, n_ctx, n_seq)  # tokens, cells and sequences of one decode
        self._adapters: dict[str, Any] = {}
        self._active: str | None = None

    def _metadata(self, key: str) -> str:
        """A text from the GGUF's metadata; empty when there is none of that name."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def _new_context(self, n_batch: int, threads: int) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = self.n_seq
        params.n_outputs_max = self.n_outputs
        params.n_outputs_max_per_seq = 0
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = (
            True  # one pool of cells: llama_memory_seq_cp then shares cells instead of copying them
        )
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise RefusalError(
                f"llama.cpp cannot make a context of {self.n_ctx} tokens: {self._log.cause()}"
            )
        return context

    # --------------------------------------------------------------------------------------------
    # adapters

    def load_adapter(self, name: str, path: str) -> None:
        """Load an adapter file beside those already loaded."""
        if name in self._adapters:
            raise RefusalError(f"adapter {name} is already loaded")
        adapter = lib.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:  # a null pointer object: falsy, but not None
            raise RefusalError(f"llama.cpp cannot load the adapter {path}: {self._log.cause()}")
        self._adapters[name] = adapter

    def free_adapter(self, name: str) -> None:
        """Free an adapter; taken out of the context first, because freeing one that is set ends the
        process."""
        if name not in self._adapters:
            raise RefusalError(f"adapter {name} is not loaded")
        if self._active == name:
            self.use(None)
        lib.llama_adapter_lora_free(self._adapters.pop(name))

    def use(self, name: str | None) -> None:
        """Compute with this adapter from now on, or with the bare base model.

        The key-value cells of the adapter before are gone by then: every request begins with an
        empty cache.
        """
        if name == self._active:
            return
        if name is None:
            failed = lib.llama_set_adapters_lora(self._context, None, 0, None)
        elif name in self._adapters:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(self._adapters[name])
            failed = lib.llama_set_adapters_lora(
                self._context, adapters, 1, (ctypes.c_float * 1)(1.0)
            )
        else:
            raise RefusalError(f"adapter {name} is not loaded")
        if failed:
            raise RefusalError(f"llama.cpp cannot set the adapter {name}: {self._log.cause()}")
        self._active = name

    # --------------------------------------------------------------------------------------------
    # decoding

    def _decode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Logits at the wanted positions of all pieces in order, float32[n, n_vocab].

        Raises:
            RefusalError: llama.cpp fails, or the logits are not finite or all alike (on a quantised
                base, a NaN in an adapter comes out as logits that are all exactly zero).
        """
        token, pos, seq, wanted = pack(pieces)
        rows = [np.zeros((0, self.n_vocab), np.float32)]
        for part in slices(wanted, self._batch.capacity, self.n_outputs):
            code = lib.llama_decode(
                self._context, self._batch.fill(token[part], pos[part], seq[part], wanted[part])
            )
            if code:
                raise self._wiped(f"llama_decode fails with code {code}: {self._log.cause()}")
            if n_rows := int(wanted[part].sum()):
                pointer = lib.llama_get_logits(self._context)
                rows.append(np.ctypeslib.as_array(pointer, (n_rows, self.n_vocab)).copy())
        logits = np.concatenate(rows)
        sick = (
            "not finite"
            if not np.isfinite(logits).all()
            else "all alike"
            if any_constant(logits)
            else ""
        )
        if sick:
            raise self._wiped(f"the logits are {sick}")
        return logits

    def _wiped(self, why: str) -> RefusalError:
        """The refusal of a decode, after the cache was wiped with its data.

        A NaN that stays in an empty cell still poisons the sum over values (0 · NaN).
        """
        lib.llama_memory_clear(self._memory, True)
        return RefusalError(why)

    def logits(self, tokens: Tokens) -> NDArray[np.float32]:
        """Logits after every token of one sequence, float32[n, n_vocab]."""
        self._check_length(len(tokens))
        lib.llama_memory_clear(self._memory, False)
        return self._decode([Piece(0, tokens, 0, len(tokens))])

    def score_questions(self, questions: Iterable[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """Log-probability, over the full vocabulary, of each label behind its prompt; one list a
        question, in nats."""
        scores: list[list[float]] = []
        prepared = [self._question(prompt, labels) for prompt, labels in questions]
        needs = [(len(q.prefix), q.cells, 1 + len(q.branches)) for q in prepared]
        for group in groups(prepared, needs, self._limits):
            scores += self._score_group(group)
        return scores

    def _question(self, prompt: str, labels: Sequence[str]) -> Question:
        # Prompt and label are tokenised as one text: a tokenizer may merge across the seam or put a
        # blank in front.
        prompt_tokens = self.tokenize(prompt)
        answers = [self.tokenize(prompt + label) for label in labels]
        shared = n_shared([prompt_tokens, *answers])
        question = Question(prompt_tokens[:shared], [answer[shared:] for answer in answers])
        if not shared or not all(question.tails):
            raise RefusalError(
                f"a question needs a prompt and labels of at least one token each: {prompt!r} "
                f"{list(labels)}"
            )
        self._check_length(question.cells)
        if 1 + len(question.branches) > self.n_seq:
            raise RefusalError(
                f"{len(labels)} labels of several tokens, but at most {self.n_seq - 1} fit: use "
                "shorter words"
            )
        return question

    def _score_group(self, group: Sequence[Question]) -> list[list[float]]:
        lib.llama_memory_clear(self._memory, False)
        first = log_softmax(
            self._decode([Piece(seq, q.prefix, 0, 1) for seq, q in enumerate(group)])
        )
        scores = [
            [float(row[tail[0]]) for tail in q.tails] for q, row in zip(group, first, strict=True)
        ]
        branches: list[tuple[int, int]] = []
        for seq, q in enumerate(group):
            branches += ((seq, i) for i in q.branches)
        pieces = []
        for branch, (seq, i) in enumerate(branches, start=len(group)):
            prefix, tail = group[seq].prefix, group[seq].tails[i]
            lib.llama_memory_seq_cp(self._memory, seq, branch, -1, -1)
            pieces.append(Piece(branch, tail[:-1], len(prefix), len(tail) - 1))
        if pieces:
            rows = iter(log_softmax(self._decode(pieces)))
            for seq, i in branches:
                scores[seq][i] += sum(float(next(rows)[token]) for token in group[seq].tails[i][1:])
        return scores

    def score_chunks(self, chunks: Iterable[str]) -> list[tuple[float, int]]:
        """Cross-entropy in nats summed over every token of a text after its first, and the number
        of those tokens."""
        texts = [self.tokenize(chunk) for chunk in chunks]
        for tokens in texts:
            if len(tokens) < 2:
                raise RefusalError("a text chunk has fewer than two tokens: join it with the next")
            self._check_length(len(tokens))
        scores = []
        needs = [(len(tokens), len(tokens), 1) for tokens in texts]
        for group in groups(texts, needs, self._limits):
            lib.llama_memory_clear(self._memory, False)
            pieces = [
                Piece(seq, tokens[:-1], 0, len(tokens) - 1) for seq, tokens in enumerate(group)
            ]
            logits = self._decode(pieces)
            targets = np.concatenate([tokens[1:] for tokens in group])
            nats = -log_softmax(logits)[np.arange(len(targets)), targets]
            ends = np.cumsum([len(tokens) - 1 for tokens in group])
            scores += [(float(part.sum()), len(part)) for part in np.split(nats, ends[:-1])]
        return scores

    def generate(self, prompt: str, n_tokens: int) -> str:
        """At most n_tokens of greedy continuation; ends early at an end-of-text token."""
        tokens = self.tokenize(prompt)
        self._check_length(len(tokens) + n_tokens)
        lib.llama_memory_clear(self._memory, False)
        text = b""
        start = 0
        for _ in range(n_tokens):
            row = self._decode([Piece(0, tokens[start:], start, 1)])[0]
            start = len(tokens)
            tokens.append(int(row.argmax()))
            if lib.llama_vocab_is_eog(self._vocab, tokens[-1]):
                break
            text += self._piece(tokens[-1])
        return text.decode(errors="replace")

    # ---------------------------------------------------------------------------------------------
    # tokens

    def tokenize(self, text: str) -> Tokens:
        """Tokens of a text; special tokens are added as the model asks, never read from the
        text."""
        data = normalised(text, self._normalizer).encode()
        buffer = (
            lib.llama_token * (len(data) + 8)
        )()  # no token is shorter than a byte; some room for added ones
        n = lib.llama_tokenize(self._vocab, data, len(data), buffer, len(buffer), True, False)
        if n < 0:
            raise RefusalError(
                f"a text of {len(data)} bytes becomes {-n} tokens, more than {len(buffer)}"
            )
        return list(buffer[:n])

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        n = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(0, n)]

    def _check_length(self, n_tokens: int) -> None:
        if not 1 <= n_tokens <= self.n_text:
            raise RefusalError(
                f"a text needs {n_tokens} tokens of context, 1 to {self.n_text} fit: shorten it"
            )


class _Log:
    """Keeps the first error since it was last asked: llama.cpp names causes only in its log,
    general failure last."""

    def __init__(self) -> None:
        self._first = ""
        self._callback = lib.llama_log_callback(
            self._write
        )  # kept: llama.cpp holds no reference to it
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def cause(self) -> str:
        """The first error since the last call."""
        first, self._first = self._first or "no reason given", ""
        return first

    def _write(self, level: int, text: bytes | None, _user_data: object) -> None:
        if level == _LOG_LEVEL_ERROR and text and not self._first:
            self._first = " ".join(text.decode(errors="replace").split())


# ------------------------------------------------------------------------------------------------
# requests


def answer(engine: Engine | None, request: Header) -> tuple[Engine, Header, bytes]:
    """Do what one request asks: the engine to go on with, the reply's header, and raw bytes."""
    op = request["op"]
    reply: Header = {}
    blob = b""
    if op == "load":
        return Engine(request["model"], **request["settings"]), {}, b""
    if engine is None:
        raise RefusalError("no model is loaded")
    if "adapter" in request:
        engine.use(request["adapter"])
    match op:
        case "ping":
            pass
        case "warm":
            engine.logits([0])
        case "load_adapter":
            engine.load_adapter(request["name"], request["path"])
        case "free_adapter":
            engine.free_adapter(request["name"])
        case "score_questions":
            reply = {"scores": engine.score_questions(request["questions"])}
        case "score_chunks":
            reply = {"scores": engine.score_chunks(request["chunks"])}
        case "generate":
            reply = {"text": engine.generate(request["prompt"], request["n_tokens"])}
        case "tokenize":
            reply = {"tokens": engine.tokenize(request["text"])}
        case "logits":
            logits = engine.logits(request["tokens"])
            reply, blob = {"shape": logits.shape}, logits.tobytes()
        case _:
            raise RefusalError(f"unknown request {op!r}")
    return engine, reply, blob


def serve(pipe: Pipe) -> None:
    """Answer requests until the other end closes its pipe."""
    engine: Engine | None = None
    while True:
        try:
            request, _ = pipe.receive()
        except EOFError:
            return
        try:
            engine, reply, blob = answer(engine, request)
        except RefusalError as refusal:
            reply, blob = {"refused": str(refusal)}, b""
        pipe.send(reply, blob)


def _end_with(parent: int) -> None:
    # The pipe's end is not enough while a computation runs. PR_SET_PDEATHSIG would fire at the
    # death of the thread that started this process, not of the process.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Serve on stdin and stdout; whatever native code prints goes to stderr instead."""
    replies_fd = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        serve(Pipe(0, replies_fd))
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
