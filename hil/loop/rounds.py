"""One round of the closed loop, and many.

observe → train at r_max → SVD → plan → cut → encode → send → install → score → receipt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cloud.agent import CloudHalf, Trained
from cloud.model.base_model import BaseModel, open_base_model
from cloud.policies import keep_all
from cloud.text.loading import load_domains, notes_of
from hil import codec
from hil.contract import (
    Budget,
    ChannelState,
    ConfigError,
    LinkReport,
    RankPlan,
    Receipt,
    RoundObservation,
    RoundSummary,
    ScoreSet,
)
from hil.control.messages import StatusMessage
from hil.control.opening import open_buses
from hil.loop.edge_client import EdgeClient
from hil.loop.rows import Round, Row, to_row
from hil.radio_kinds.round_radio import RoundRadio
from hil.reporting.run_folder import RunLog
from hil.settings import Settings, to_toml
from hil.system.waits import waiting_for
from radio.link import Sounding


@dataclass(slots=True)
class Watcher:
    """Functions by which a user interface hears of a run.

    Attributes:
        on_start: called with the run's folder, before the bench is opened.
        on_text_note: called with what was left out or cut of the text, a phrase each.
        on_stage: called with a round's number and the name of the stage that begins.
        on_step: called after each training step.
        on_round: called with the finished row of each round.
    """

    on_start: Callable[[Path], None] = lambda folder: None
    on_text_note: Callable[[str], None] = lambda note: None
    on_stage: Callable[[int, str], None] = lambda round_id, stage: None
    on_step: Callable[[], None] = lambda: None
    on_round: Callable[[Row], None] = lambda row: None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A round that has begun and waits for its plan.

    Attributes:
        sounding: this round's sounding.
        measured: the sounding that the round is planned by; an earlier round's where this one's
            went unanswered.
    """

    obs: RoundObservation
    trained: Trained
    sounding: Sounding
    measured: Sounding
    control_before: int


@dataclass(frozen=True, slots=True)
class Bench:
    """The radio and the edge that a loop works with.

    Attributes:
        radio: carries payloads to the edge.
        edge: the talk with the edge, which may be another process.
        air: what a receiver in another process must be set to: fields of the edge's status.
        on_connected: called with the status of an edge whose model, texts and radio fit.
    """

    radio: RoundRadio
    edge: EdgeClient
    air: Mapping[str, float] = field(default_factory=dict)
    on_connected: Callable[[StatusMessage], None] = lambda status: None


OpenBench = Callable[[Settings, Path, BaseModel, list[ScoreSet], ExitStack], Bench]
"""A function that opens a bench: settings, the run's folder, base model, score sets, and the stack
that closes it."""


def whole_bench(
    settings: Settings, folder: Path, base: BaseModel, score_sets: list[ScoreSet], stack: ExitStack
) -> Bench:
    """Both ends of the radio, and the edge, in this process.

    Raises:
        HilError: a part of it cannot be set up.
    """
    # The cloud half alone needs neither llama.cpp nor both radios.
    from hil.loop.edge_server import EdgeServer
    from hil.loop.provision import cached_bundle
    from hil.radio_kinds.opening import open_link_radio

    bundle = cached_bundle(base, score_sets, settings.edge)
    cloud, edge = open_buses(settings.control, stack)
    iq_dir = folder / "iq" if settings.radio.record else None
    radio = stack.enter_context(open_link_radio(settings, (cloud, edge), iq_dir))
    received = radio.link.receiver.payload
    server = EdgeServer(bundle, folder / "edge", edge, received, settings.edge)
    stack.enter_context(server)
    timeout_s = settings.control.timeout_s
    return Bench(radio, EdgeClient(cloud, timeout_s, lambda: server.answer_next(timeout_s)))


class Loop:
    """The rounds of one run: cloud, radio and edge together.

    Attributes:
        bench: radio and edge.
        text_notes: what was left out or cut of the text; see cloud.text.sources.Domain.

    Args:
        settings: the run's settings.
        folder: the run's folder; installed updates and the fine-tuning state are kept there.
        stack: closes what is opened.
        open_bench: opens radio and edge.
    Raises:
        HilError: any part of the bench cannot be set up.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        stack: ExitStack,
        open_bench: OpenBench = whole_bench,
    ) -> None:
        self._settings, self._folder = settings, folder
        waiting_for(f"opening base model {settings.model.base} and the text")
        base = open_base_model(settings.model.base)
        limit = base.token_limit(settings.finetune.max_tokens)
        domains, stream = load_domains(settings.text, settings.run.seed, limit)
        self.text_notes = notes_of(domains)
        score_sets = [domain.score_set for domain in domains.values()]
        self.bench = open_bench(settings, folder, base, score_sets, stack)
        self._radio, self._edge = self.bench.radio, self.bench.edge
        self._cloud = CloudHalf(settings, base, domains, stream)
        self._last_link: LinkReport | None = None
        self._last_answered: Sounding | None = None
        self._spent_s = 0.0
        self._opened: _Opened | None = None
        same = {
            "base_identity": base.spec.identity,
            "score_sets": ScoreSet.digest_of_all(score_sets),
        }
        waiting_for("asking the edge what it holds")
        self._edge.connect({**same, **self.bench.air})
        self.bench.on_connected(self._edge.status)

    def round(self, round_id: int, watcher: Watcher) -> Row:
        """Run a round; gives its row for rounds.jsonl."""
        obs = self.open_round(round_id, watcher)
        with self._watch("timing.plan_s"):
            plan = self._cloud.policy.plan(obs) if self.can_send else keep_all(obs)
        return {
            **to_row(self.close_round(plan, watcher)),
            **self._radio.disturbances,
            **self._radio.health,
            **self._watch.row(),
        }

    def open_round(self, round_id: int, watcher: Watcher) -> RoundObservation:
        """Begin a round with sounding and training; gives the observation for the policy."""
        self._watch = _StopWatch()
        control_before = self._edge.control_bytes
        self._radio.start_round(round_id)
        watcher.on_stage(round_id, "sounding")
        with self._watch("timing.sounding_s"):
            sounding = self._radio.sound()
        watcher.on_stage(round_id, "training")
        with self._watch("timing.finetune_s"):
            trained = self._cloud.train(round_id, watcher.on_step)
        with self._watch("timing.observe_s"):
            if not math.isnan(sounding.snr_db):
                self._last_answered = sounding
            measured = self._last_answered or sounding
            obs = self._observe(round_id, trained, measured)
        self._opened = _Opened(obs, trained, sounding, measured, control_before)
        return obs

    @property
    def can_send(self) -> bool:
        """Whether the open round may send: the last sounding that was answered found a usable link,
        or no sounding was answered yet."""
        measured = self._open.measured
        return (not measured.reason or math.isnan(measured.snr_db)) and self._settings.run.deliver

    def close_round(self, plan: RankPlan, watcher: Watcher) -> Round:
        """End the open round: cut, encode, send, install and score; gives its results.

        Args:
            plan: the ranks for open_round()'s observation; it must send nothing unless `can_send`.
            watcher: hears of the stages.
        """
        opened, self._opened = self._open, None
        round_id, trained, sounding = opened.obs.round_id, opened.trained, opened.sounding
        nothing = plan.sends_nothing
        again = self._settings.finetune.plan_steps and not nothing
        watcher.on_stage(round_id, "training within the plan" if again else "encoding")
        with self._watch("timing.encode_s"):
            held = self._edge.status.held_digest
            payload = (
                b""
                if nothing
                else self._cloud.encode(round_id, trained, plan, held, watcher.on_step)
            )
            predicted_s = self._radio.predicted_airtime_s(payload, opened.measured)
        watcher.on_stage(round_id, "sending")
        with self._watch("timing.link_s"):
            session_id = self._radio.next_session if payload else 0
            report = self._radio.deliver(payload, sounding) if payload else sounding.as_report()
        watcher.on_stage(round_id, "installing and scoring")
        with self._watch("timing.edge_s"):
            receipt = self._offer(round_id, session_id, payload, report)
        if (
            receipt.status == "installed" and not report.delivered
        ):  # the last answer was lost, the update was not
            report = replace(report, delivered=True, reason="", prefix_bytes=len(payload))
        self._last_link = report
        self._spent_s += report.airtime_s
        self._cloud.confirm(payload, self._edge.status.held_digest)
        self._remember(round_id, payload, report, receipt)
        self._cloud.save(self._folder / "finetune.safetensors")
        return Round(
            obs=opened.obs,
            plan=plan,
            trained=trained,
            payload=payload,
            predicted_airtime_s=predicted_s,
            report=report,
            receipt=receipt,
            policy_name=self._cloud.policy.name,
            true_snr_db=self._radio.snr_db,
            true_cfo_hz=self._radio.cfo_hz,
            control_bytes=self._edge.control_bytes - opened.control_before,
        )

    def full_score(self, round_id: int) -> tuple[float, float]:
        """Score and loss in nats per token of the trained model itself, unquantised, on the round's
        score set."""
        return self._cloud.full_score(round_id)

    @property
    def _open(self) -> _Opened:
        if self._opened is None:
            raise ConfigError("no round is open; call open_round() before it is planned and closed")
        return self._opened

    def _observe(self, round_id: int, trained: Trained, measured: Sounding) -> RoundObservation:
        budget = self._budget(round_id, measured)
        return self._cloud.observe(
            round_id, trained, self._channel(measured), budget, self._edge.status.held_ranks
        )

    def _budget(self, round_id: int, measured: Sounding) -> Budget:
        """This round's airtime, or what is left of all rounds', and the bits that fit into it."""
        airtime_s, rounds = self._settings.budget.airtime_s, self._settings.run.rounds
        if self._settings.budget.scope == "episode":
            left_s = max(0.0, airtime_s * rounds - self._spent_s)
            return self._radio.budget(left_s, measured, rounds=rounds - round_id, pooled=True)
        return self._radio.budget(
            airtime_s * self._radio.airtime_share, measured, rounds=1, pooled=False
        )

    def _channel(self, measured: Sounding) -> ChannelState:
        last = self._last_link
        return ChannelState(
            snr_db=measured.snr_db,
            snr_std_db=measured.snr_std_db,
            age_s=self._radio.clock.now() - measured.measured_at_s,
            cfo_hz=measured.cfo_hz,
            bandwidth_hz=self._radio.bandwidth_hz,
            airtime_share=self._radio.airtime_share,
            block_error_rate=last.block_error_rate if last else 0.0,
            goodput_bps=last.goodput_bps if last else float("nan"),
        )

    def _offer(self, round_id: int, session_id: int, payload: bytes, report: LinkReport) -> Receipt:
        """The edge's receipt for what this round sent."""
        on_air = (
            report.blocks_sent > 0
        )  # else there is nothing that could have arrived, or be held already
        unusable = report.reason and not on_air and self._settings.run.deliver
        failure = f"link unusable: {report.reason}" if unusable else ""
        digest = codec.digest(payload) if on_air else ""
        return self._edge.offer(
            round_id, session_id, digest, self._cloud.domain_of(round_id), failure=failure
        )

    def _remember(
        self, round_id: int, payload: bytes, report: LinkReport, receipt: Receipt
    ) -> None:
        self._cloud.history.append(
            RoundSummary(
                round_id=round_id,
                domain=self._cloud.domain_of(round_id),
                ranks=dict(self._edge.status.held_ranks),
                payload_bits=8 * len(payload),
                airtime_s=report.airtime_s,
                score=receipt.score,
                loss_nats_per_token=receipt.loss_nats_per_token,
                accepted=receipt.accepted,
            )
        )


def run(settings: Settings, watcher: Watcher, open_bench: OpenBench = whole_bench) -> Path:
    """Run the closed loop from the first round to the last; gives the run's folder.

    A run that is interrupted or fails leaves a folder that can be read, and no child process.

    Args:
        settings: the run's settings.
        watcher: hears of the run's progress.
        open_bench: opens radio and edge; both in this process unless told otherwise.
    Raises:
        HilError: the bench is broken.
    """
    log = RunLog.create(
        Path(settings.run.out),
        settings.run.name,
        config_toml=to_toml(settings),
        manifest=_manifest(settings),
        now_utc=datetime.now(UTC),
    )
    with log, ExitStack() as stack:
        watcher.on_start(log.folder)
        loop = Loop(settings, log.folder, stack, open_bench)
        log.describe({**asdict(loop.bench.radio.provenance), "text_notes": loop.text_notes})
        for note in loop.text_notes:
            watcher.on_text_note(note)
        for round_id in range(settings.run.rounds):
            row = loop.round(round_id, watcher)
            log.write_round(row)
            watcher.on_round(row)
    return log.folder


class _StopWatch:
    """Measures the wall-clock time of each stage."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._row: Row = {}

    @contextmanager
    def __call__(self, key: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self._row[key] = time.perf_counter() - start_s

    def row(self) -> Row:
        return {**self._row, "timing.round_s": time.perf_counter() - self._start_s}


def _manifest(settings: Settings) -> dict[str, object]:
    return {
        "policy": settings.policy.kind,
        "model": settings.model.base,
        "seeds": {"run": settings.run.seed},
    }
