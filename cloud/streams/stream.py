"""Streams: rounds that are trained once at r_max and kept, to train and compare rank policies on.

The cloud trains at r_max whatever is sent, so its rounds do not depend on a policy: only what the
edge holds does. A stream keeps every round's factors as they come out of the codec, what would be
missing for every rank of them, and the set that the round is scored on.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloud.finetuning.directions import Directions, nothing, spectra
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.importance import (
    Curvature,
    curvature_of,
    held_curve,
    inner_products,
    joined,
    sent_curve,
)
from cloud.finetuning.trial import TRIALS, measure_plans, trial_examples
from cloud.model.base_model import BaseModel, open_base_model
from cloud.streams.scorer import MergedModel, StreamScorer
from cloud.streams.stream_file import FORMAT, SCORES, Stream, read_stream, write_stream
from cloud.text.lexicon import measure_text
from cloud.text.loading import TEXT_RULES, load_domains, only_domain
from cloud.text.sources import Domain, DomainSampler, Example, default_domain
from hil.codec import CodecTarget, bits_by_rank, bits_per_direction, decode, encode
from hil.contract import BaseSpec, LoraUpdate, LowRankFactors, ScoreSet, TextError, TextState
from hil.settings import DefaultText, FileText, FinetuneSettings, Settings
from hil.settings.policy import Method
from hil.system.whole_file import file_sha256

__all__ = [
    "RoundText",
    "Stream",
    "cached_stream",
    "round_texts",
    "stream_domains",
    "stream_finetune",
    "stream_key",
    "train_stream",
]

METHOD_VERSION: Final = 2
"""Version of what "adalora" and "eva" do; raised when that changes."""


def stream_domains(settings: Settings, seed: int) -> list[str]:
    """The domain of each round: streams.domains in a random order, each for streams.dwell rounds.

    Every domain comes once before one comes again, and none twice in a row if there are two or
    more. A text of one domain (text.kind "file" or "hub") is repeated.
    """
    rounds, dwell = settings.streams.rounds, settings.streams.dwell
    if not isinstance(settings.text, DefaultText):
        return [only_domain(settings.text)] * rounds
    names = list(dict.fromkeys(settings.streams.domains))
    rng = np.random.default_rng([seed, *b"domains"])
    visits: list[str] = []
    while len(visits) * dwell < rounds:
        order = [names[i] for i in rng.permutation(len(names))]
        if visits and order[0] == visits[-1]:
            order.append(order.pop(0))
        visits += order
    return [visits[i // dwell] for i in range(rounds)]


# ------------------------------------------------------------------------------------------
# training


def train_stream(
    settings: Settings,
    *,
    text_seed: int,
    train_seed: int,
    domains: Sequence[str],
    method: Method = "lora",
    target_rank: int | None = None,
    on_step: Callable[[], None] = lambda: None,
    base: BaseModel | None = None,
) -> Stream:
    """A stream, trained now; equal arguments give equal bits on one machine.

    Args:
        settings: text, model, finetune (streams.steps and streams.batch in place of its own),
            codec, streams.
        text_seed: seed of the words and of what is held out for scoring.
        train_seed: seed of LoRA's initial values and of the order of examples.
        domains: one name a round.
        method, target_rank: see FineTuner.
        on_step: called after every step of training.
        base: the base model where it is already open.
    Raises:
        ModelError, TextError: as for a run.
    """
    base = base or open_base_model(settings.model.base)
    finetune = stream_finetune(settings)
    tuner = FineTuner(
        base, settings.model, finetune, train_seed, method=method, target_rank=target_rank
    )
    rounds = _Rounds(base.spec, tuner.module_shapes, settings, len(domains))
    texts = round_texts(
        settings, base, domains, text_seed=text_seed, train_seed=train_seed, tried=method == "lora"
    )
    states = [_train_round(tuner, text, rounds, base, on_step) for text in texts]
    stream = Stream(
        digest=stream_key(
            settings,
            base,
            text_seed=text_seed,
            train_seed=train_seed,
            domains=domains,
            method=method,
            target_rank=target_rank,
        ),
        spec=base.spec,
        module_shapes=tuner.module_shapes,
        r_max=settings.model.r_max,
        max_tokens=finetune.max_tokens,
        method=method,
        target_rank=target_rank,
        domains=tuple(domains),
        texts=tuple(states),
        score_sets=tuple(_limited(text.domain.score_set, settings.streams.items) for text in texts),
        **rounds.arrays(),
        **dict.fromkeys(SCORES, np.full(len(domains), np.nan)),
        payloads=tuple(rounds.payloads),
    )
    return _with_scores(stream, base)


@dataclass(frozen=True, slots=True)
class RoundText:
    """What a round is trained on, and its plans are tried on.

    Attributes:
        domain: the round's domain.
        examples: in the order they are learnt.
        trial: the next ones; none where no plan is tried.
    """

    domain: Domain
    examples: Sequence[Example]
    trial: Sequence[Example]


def stream_finetune(settings: Settings) -> FinetuneSettings:
    """[finetune] with the steps and the batch of [streams]."""
    return settings.finetune.model_copy(
        update={
            "steps": settings.streams.steps,
            "batch": settings.streams.batch,
            "threads": 1,
            "resume_from": "",
            "start_from": "",
        }
    )


def round_texts(
    settings: Settings,
    base: BaseModel,
    domains: Sequence[str],
    *,
    text_seed: int,
    train_seed: int,
    tried: bool,
) -> list[RoundText]:
    """The text of every round of a stream; arguments as for train_stream.

    Args:
        settings, base, domains, text_seed, train_seed: what the stream is trained from.
        tried: its plans are tried on examples of their own.
    """
    texts = _domains(settings, base, domains, text_seed)
    samplers = {name: DomainSampler(domain, train_seed) for name, domain in texts.items()}
    n = settings.streams.steps * settings.streams.batch
    return [
        RoundText(
            texts[name], samplers[name].draw(n), trial_examples(samplers[name]) if tried else ()
        )
        for name in domains
    ]


def _train_round(
    tuner: FineTuner, text: RoundText, rounds: _Rounds, base: BaseModel, on_step: Callable[[], None]
) -> TextState:
    """One round more in `rounds`, with plans tried or without; what its text is like."""
    texts, name = (e.text for e in text.examples), text.domain.name
    state = measure_text(texts, domain=name, lexicon=base.lexicon, count_pieces=base.count_pieces)
    tuner.train(text.examples, on_step)
    curvature = curvature_of(tuner.model, text.examples, seed=tuner.steps_done)
    rounds.add(tuner.model.directions(), curvature)
    if text.trial:
        rounds.add_trial(tuner, text.trial)
    return state


def _domains(
    settings: Settings, base: BaseModel, names: Sequence[str], text_seed: int
) -> dict[str, Domain]:
    if isinstance(settings.text, DefaultText):
        return {
            name: default_domain(name, settings.text, text_seed) for name in dict.fromkeys(names)
        }
    limit = base.token_limit(settings.finetune.max_tokens)
    loaded, [only] = load_domains(settings.text, text_seed, limit)
    if set(names) != {only}:
        raise TextError(
            f"stream of {', '.join(sorted(set(names)))}: this text has one domain, {only}"
        )
    return loaded


def _limited(score_set: ScoreSet, items: int) -> ScoreSet:
    """The first `items` questions, or half as many chunks: a chunk has many tokens that count."""
    return replace(
        score_set,
        questions=score_set.questions[:items],
        chunks=score_set.chunks[: max(1, items // 2)],
    )


class _Rounds:
    """What is kept of each round: payload, spectra, residuals and trials."""

    def __init__(
        self, spec: BaseSpec, shapes: Mapping[str, tuple[int, int]], settings: Settings, n: int
    ) -> None:
        self._spec, self._shapes = spec, shapes
        self._target = CodecTarget(coefficient_bits=settings.codec.coefficient_bits)
        self._r_max = r_max = settings.model.r_max
        m = len(shapes)
        self.payloads: list[bytes] = []
        self._held: dict[str, list[LowRankFactors]] = {name: [] for name in shapes}
        self._spectra = np.zeros((n, m, r_max), np.float32)
        self._sent = {kind: np.zeros((n, m, r_max + 1), np.float32) for kind in ("energy", "kfac")}
        self._kept = {
            kind: np.full((n, m, r_max + 1, n), np.nan, np.float32) for kind in ("energy", "kfac")
        }
        price = bits_per_direction(spec, self._target)
        self._bits = bits_by_rank([price[name] for name in shapes], r_max)
        self._trials = {key: np.zeros((n, TRIALS)) for key in ("missing", "excess")}

    def add(self, found: Mapping[str, Directions], curvature: Mapping[str, Curvature]) -> None:
        """One more round."""
        t = len(self.payloads)
        whole = {n: d.cut(self._r_max) for n, d in found.items() if d.rank}
        update = LoraUpdate(round_id=t, base_identity=self._spec.identity, factors=whole)
        self.payloads.append(encode(update, self._target, base=self._spec))
        received = decode(self.payloads[-1], self._spec).factors
        self._spectra[t] = list(spectra(found, self._r_max).values())
        for m, (name, shape) in enumerate(self._shapes.items()):
            self._held[name].append(received.get(name, nothing(*shape)))
            self._add_module(t, m, "energy", inner_products(joined(self._held[name]), None), name)
            self._add_module(
                t, m, "kfac", inner_products(joined(self._held[name]), curvature.get(name)), name
            )
        for line in self._trials.values():
            line[t] = np.linspace(0.0, self._sent["kfac"][t, :, 0].sum(dtype=np.float64), TRIALS)

    def add_trial(self, tuner: FineTuner, examples: Sequence[Example]) -> None:
        """Plans of the round that was added last, as they come out on these examples."""
        t = len(self.payloads) - 1
        delivered = [held[t] for held in self._held.values()]
        measured = measure_plans(
            tuner, delivered, self._sent["kfac"][t].astype(np.float64), self._bits, examples
        )
        self._trials["missing"][t], self._trials["excess"][t] = measured.missing, measured.excess

    def _add_module(self, t: int, m: int, kind: str, inner: NDArray[np.float64], name: str) -> None:
        """The curves of one module out of the inner products of all rounds' directions."""
        ends = np.cumsum([0, *(factors.rank for factors in self._held[name])])
        of_round = [np.arange(ends[s], ends[s + 1]) for s in range(t + 1)]
        now = of_round[t]
        self._sent[kind][t, m] = sent_curve(inner[np.ix_(now, now)], self._r_max)
        for s in range(t):
            pair = np.concatenate([of_round[s], now])
            self._kept[kind][s, m, :, t] = held_curve(
                inner[np.ix_(pair, pair)], len(of_round[s]), self._r_max
            )
        self._kept[kind][t, m, :, t] = self._sent[kind][t, m]

    def arrays(self) -> dict[str, Any]:
        """The arrays of a Stream."""
        return {
            "spectra": self._spectra,
            **{f"sent_{kind}": curves for kind, curves in self._sent.items()},
            **{f"kept_{kind}": curves for kind, curves in self._kept.items()},
            **{f"trial_{key}": line for key, line in self._trials.items()},
        }


def _with_scores(stream: Stream, base: BaseModel) -> Stream:
    scorer = StreamScorer(MergedModel(base, max_tokens=stream.max_tokens), stream)
    m = len(stream.modules)
    none, everything = np.zeros(m, np.int64), np.full(m, stream.r_max)
    bare = [scorer.score(t, none, none) for t in range(stream.n_rounds)]
    full = [scorer.score(t, np.full(m, t), everything) for t in range(stream.n_rounds)]
    return replace(
        stream,
        base_scores=np.array([score for score, _ in bare]),
        base_losses=np.array([loss for _, loss in bare]),
        full_scores=np.array([score for score, _ in full]),
        full_losses=np.array([loss for _, loss in full]),
    )


# ---------------------------------------------------------------------------------------------
# cache


def stream_key(
    settings: Settings,
    base: BaseModel,
    *,
    text_seed: int,
    train_seed: int,
    domains: Sequence[str],
    method: Method,
    target_rank: int | None,
) -> str:
    """SHA-256 (hex) over all that decides a stream's bits, apart from the machine."""
    text = settings.text.model_dump(exclude={"stream", "dwell"})
    if isinstance(settings.text, DefaultText):
        text["python"] = platform.python_version()  # whose library the prose is from
    else:
        text["rules"] = TEXT_RULES
    if isinstance(settings.text, FileText):
        for key in ("path", "score_path"):
            if text[key]:
                text[key] = _file_digest(Path(text[key]))
    decides = {
        "format": FORMAT,
        "base": base.spec.identity,
        "text": text,
        "finetune": settings.finetune.model_dump(
            include={"learning_rate", "alpha", "max_tokens", "device"}
        ),
        "model": settings.model.model_dump(include={"r_max", "target_modules"}),
        "codec": settings.codec.model_dump(),
        "streams": settings.streams.model_dump(include={"steps", "batch", "items"}),
        "seeds": [text_seed, train_seed],
        "domains": list(domains),
        "method": [method, target_rank]
        if method == "lora"
        else [method, target_rank, METHOD_VERSION],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise TextError(
            f"text file {path}: {error.strerror}; set text.path to a TSV, CSV or JSONL file"
        ) from error


def cached_stream(
    settings: Settings,
    *,
    text_seed: int,
    train_seed: int,
    domains: Sequence[str],
    method: Method = "lora",
    target_rank: int | None = None,
    on_step: Callable[[], None] = lambda: None,
    base: BaseModel | None = None,
) -> Stream:
    """The stream of train_stream, read from streams.cache where it has been trained before.

    A file is written whole under another name and renamed, so several processes may share a cache.
    One that cannot be read is trained and written anew.
    """
    base = base or open_base_model(settings.model.base)
    digest = stream_key(
        settings,
        base,
        text_seed=text_seed,
        train_seed=train_seed,
        domains=domains,
        method=method,
        target_rank=target_rank,
    )
    path = settings.streams.cache_folder / f"{digest[:32]}.npz"
    stream = read_stream(path, base.spec, digest)
    if stream is None:
        stream = train_stream(
            settings,
            text_seed=text_seed,
            train_seed=train_seed,
            domains=domains,
            method=method,
            target_rank=target_rank,
            on_step=on_step,
            base=base,
        )
        write_stream(path, stream)
    return stream
