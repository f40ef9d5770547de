"""One round of the closed loop, and many.

observe → train at r_max → SVD → plan → cut → encode → send → install → score → receipt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloud.base_model import open_base_model
from cloud.policies import keep_all
from cloud.text import load_domains
from hil import codec
from hil.config import Settings, to_toml
from hil.contract import (
    Budget,
    ChannelState,
    ConfigError,
    ControlError,
    LinkReport,
    RankPlan,
    Receipt,
    RoundObservation,
    RoundSummary,
)
from hil.control import Bus
from hil.halves import CloudHalf, EdgeHalf, Trained, open_buses
from hil.messages import OfferMessage, ReceiptMessage, StatusMessage
from hil.provision import cached_bundle
from hil.rows import Round, Row, to_row
from hil.runlog import RunLog
from hil.simulated_radio import SimulatedRadio
from radio.link import Sounding

READY = "ready"
"""The edge's first status of a run."""


@dataclass(slots=True)
class Watcher:
    """What a user interface wants to hear of a run.

    Attributes:
        on_stage: called with a round's number and the name of the stage that begins.
        on_step: called after each training step.
        on_round: called with the finished row of each round.
    """

    on_stage: Callable[[int, str], None] = lambda round_id, stage: None
    on_step: Callable[[], None] = lambda: None
    on_round: Callable[[Row], None] = lambda row: None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A round between its two halves."""

    obs: RoundObservation
    trained: Trained
    sounding: Sounding
    control_before: int


class Loop:
    """Cloud half, radio and edge half, and what the cloud knows of the edge.

    Args:
        settings: of the run.
        folder: the run's; installed updates and the fine-tuning state are kept there.
        stack: closes what is opened.
    Raises:
        HilError: any part of the bench cannot be set up.
    """

    def __init__(self, settings: Settings, folder: Path, stack: ExitStack) -> None:
        self._settings, self._folder = settings, folder
        seed = settings.run.seed
        base = open_base_model(settings.model.base)
        domains, stream = load_domains(settings.text, seed)
        bundle = cached_bundle(base, [d.score_set for d in domains.values()], settings.edge)
        self._cloud_bus, self._edge_bus = open_buses(settings.control, stack)
        buses = self._cloud_bus, self._edge_bus
        iq_dir = folder / "iq" if settings.radio.record else None
        self._radio = SimulatedRadio(settings.radio, settings.run.rounds, seed, buses, iq_dir)
        stack.callback(self._radio.link.end)
        self._edge = stack.enter_context(EdgeHalf(bundle, folder / "edge", self._edge_bus, settings))
        self._cloud = CloudHalf(settings, base, domains, stream)
        self._last_link: LinkReport | None = None
        self._spent_s = 0.0
        self._opened: _Opened | None = None
        self._edge.report_status(READY)
        self._status = self._expect(self._cloud_bus, StatusMessage)
        while self._status.state != READY:  # a broker may first hand over what an earlier run left there
            self._status = self._expect(self._cloud_bus, StatusMessage)
        if self._status.base_identity != base.spec.identity:
            raise ControlError(
                f"the edge holds base model {self._status.base_identity[:12]}…, the cloud {base.spec.identity[:12]}…; "
                "provision it again"
            )

    def round(self, round_id: int, watcher: Watcher) -> Row:
        """One round, and its row for rounds.jsonl."""
        obs = self.open_round(round_id, watcher)
        with self._watch("timing.plan_s"):
            plan = self._cloud.policy.plan(obs) if self.can_send else keep_all(obs)
        return to_row(self.close_round(plan, watcher)) | self._watch.row()

    def open_round(self, round_id: int, watcher: Watcher) -> RoundObservation:
        """The first half of a round, up to what a policy may look at: sounding and training."""
        self._watch = _StopWatch()
        control_before = self._control_bytes()
        self._radio.start_round(round_id)
        watcher.on_stage(round_id, "sounding")
        with self._watch("timing.sounding_s"):
            sounding = self._radio.link.sound(self._radio.limits)
        watcher.on_stage(round_id, "training")
        with self._watch("timing.finetune_s"):
            trained = self._cloud.train(round_id, watcher.on_step)
        with self._watch("timing.observe_s"):
            obs = self._observe(round_id, trained, sounding)
        self._opened = _Opened(obs, trained, sounding, control_before)
        return obs

    @property
    def can_send(self) -> bool:
        """The round that is open has a link: without an answer to the sounding there is none to plan for."""
        return not self._open.sounding.reason and self._settings.run.deliver

    def close_round(self, plan: RankPlan, watcher: Watcher) -> Round:
        """The second half of the round that is open: cut, encode, send, install and score.

        Args:
            plan: for the observation of open_round(); one that sends nothing unless `can_send`.
            watcher: hears of the stages.
        """
        opened, self._opened = self._open, None
        round_id, trained, sounding = opened.obs.round_id, opened.trained, opened.sounding
        with self._watch("timing.encode_s"):
            held = self._status.held_digest
            payload = b"" if plan.sends_nothing else self._cloud.encode(round_id, trained, plan, held)
            predicted_s = self._radio.predicted_airtime_s(payload, sounding)
        watcher.on_stage(round_id, "sending")
        with self._watch("timing.link_s"):
            self._offer(round_id, payload, sounding)
            report, received = self._send(payload, sounding)
        watcher.on_stage(round_id, "installing and scoring")
        with self._watch("timing.edge_s"):
            receipt = self._install(received)
        self._last_link = report
        self._spent_s += report.airtime_s
        self._cloud.confirm(payload, self._status.held_digest)
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
            control_bytes=self._control_bytes() - opened.control_before,
        )

    def full_score(self, round_id: int) -> tuple[float, float]:
        """Score and loss in nats per token of the trained model itself, unquantised, on the round's score set."""
        return self._cloud.full_score(round_id)

    @property
    def _open(self) -> _Opened:
        if self._opened is None:
            raise ConfigError("no round is open; call open_round() before it is planned and closed")
        return self._opened

    def _observe(self, round_id: int, trained: Trained, sounding: Sounding) -> RoundObservation:
        budget = self._budget(round_id, sounding)
        return self._cloud.observe(round_id, trained, self._channel(sounding), budget, self._status.held_ranks)

    def _budget(self, round_id: int, sounding: Sounding) -> Budget:
        """This round's share of its airtime, or what is left of the airtime of all rounds."""
        airtime_s, rounds = self._settings.budget.airtime_s, self._settings.run.rounds
        if self._settings.budget.scope == "episode":
            left_s = max(0.0, airtime_s * rounds - self._spent_s)
            return self._radio.budget(left_s, sounding, rounds=rounds - round_id)
        return self._radio.budget(airtime_s * self._radio.airtime_share, sounding, rounds=1)

    def _channel(self, sounding: Sounding) -> ChannelState:
        last = self._last_link
        return ChannelState(
            snr_db=sounding.snr_db,
            snr_std_db=sounding.snr_std_db,
            age_s=self._radio.clock.now() - sounding.measured_at_s,
            cfo_hz=sounding.cfo_hz,
            bandwidth_hz=self._radio.link.bandwidth_hz,
            airtime_share=self._radio.airtime_share,
            block_error_rate=last.block_error_rate if last else 0.0,
            goodput_bps=last.goodput_bps if last else float("nan"),
        )

    def _send(self, payload: bytes, sounding: Sounding) -> tuple[LinkReport, bytes | None]:
        if payload:
            return self._radio.link.deliver(payload, self._radio.limits, sounding=sounding)
        return sounding.as_report(), None

    def _offer(self, round_id: int, payload: bytes, sounding: Sounding) -> None:
        """Tell the edge what this round brings, before it crosses the radio."""
        failure = f"link unusable: {sounding.reason}" if sounding.reason and self._settings.run.deliver else ""
        self._cloud_bus.publish(
            OfferMessage(
                round_id=round_id,
                session_id=self._radio.link.next_session,
                payload_sha256=codec.digest(payload) if payload else "",
                score_set=self._cloud.domain_of(round_id),
                failure=failure,
            )
        )

    def _install(self, received: bytes | None) -> Receipt:
        """The edge's answer to what arrived; what it holds now is noted."""
        self._edge.answer_offer(received)
        self._status = self._expect(self._cloud_bus, StatusMessage)
        receipt: Receipt = self._expect(self._cloud_bus, ReceiptMessage).receipt()
        return receipt

    def _remember(self, round_id: int, payload: bytes, report: LinkReport, receipt: Receipt) -> None:
        self._cloud.history.append(
            RoundSummary(
                round_id=round_id,
                domain=self._cloud.domain_of(round_id),
                ranks=dict(self._status.held_ranks),
                payload_bits=8 * len(payload),
                airtime_s=report.airtime_s,
                score=receipt.score,
                loss_nats_per_token=receipt.loss_nats_per_token,
                accepted=receipt.accepted,
            )
        )

    def _expect(self, bus: Bus, kind: type[Any]) -> Any:
        """The next message of a kind. Raises ControlError when none comes within the deadline."""
        timeout_s = self._settings.control.timeout_s
        message = bus.receive(kind, timeout_s=timeout_s)
        if message is None:
            raise ControlError(f"no {kind.__name__} from the edge within {timeout_s:g} s; is it connected?")
        return message

    def _control_bytes(self) -> int:
        return self._cloud_bus.counters.control_bytes_sent + self._edge_bus.counters.control_bytes_sent


def run(settings: Settings, watcher: Watcher) -> Path:
    """The closed loop from the first round to the last; the run's folder.

    A run that is interrupted or fails leaves a folder that can be read, and no child process.

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
        loop = Loop(settings, log.folder, stack)
        for round_id in range(settings.run.rounds):
            row = loop.round(round_id, watcher)
            log.write_round(row)
            watcher.on_round(row)
    return log.folder


class _StopWatch:
    """Wall-clock time by stage."""

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
        "simulated": [
            f"radio: a seeded channel ({settings.radio.channel.preset}) stands in for transmitter, air and receiver",
            "time on the link: virtual, counted in samples and feedback delay",
        ],
        "emulated": [],
    }
