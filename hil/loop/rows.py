"""A finished round, and the flat row that rounds.jsonl keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from cloud.agent import Trained
from hil import codec
from hil.contract import KEEP, LinkReport, RankPlan, Receipt, RoundObservation
from hil.reporting.run_folder import Value

Row = dict[str, Value | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The inputs and results of one round.

    Attributes:
        obs: the observation that the policy was given.
        plan: the policy's plan.
        trained: the update at r_max that the plan was cut from.
        payload: the encoded update; empty when nothing was sent.
        predicted_airtime_s: airtime that the link model expected; None when nothing was sent.
        report: how the payload crossed the radio.
        receipt: the edge's receipt.
        policy_name: the policy's name.
        true_snr_db, true_cfo_hz: the simulator's settings; NaN for real radios.
        control_bytes: bytes of all messages of the round, both directions.
    """

    obs: RoundObservation
    plan: RankPlan
    trained: Trained
    payload: bytes
    predicted_airtime_s: float | None
    report: LinkReport
    receipt: Receipt
    policy_name: str
    true_snr_db: float
    true_cfo_hz: float
    control_bytes: int

    @property
    def parameters(self) -> int:
        """Σ r (d_in + d_out) of what was sent."""
        shapes = self.obs.module_shapes
        return sum(
            rank * sum(shapes[module]) for module, rank in self.plan.ranks.items() if rank != KEEP
        )


def to_row(done: Round) -> Row:
    """Dotted keys with units; what each means stands in the README's glossary."""
    edge = _named("edge", done.receipt)
    swap_ms = edge.pop("edge.swap_ms")
    del edge["edge.round_id"]
    link = _named("link", done.report)
    del link["link.blocks_by_mcs"]
    return {
        "round.id": done.obs.round_id,
        **_named("text", done.obs.text),
        "finetune.steps": done.trained.steps,
        "finetune.loss_nats": done.trained.loss_nats,
        **_named("channel", done.obs.channel),
        "truth.snr_db": done.true_snr_db,
        "truth.cfo_hz": done.true_cfo_hz,
        **_named("budget", done.obs.budget),
        "policy.name": done.policy_name,
        **{f"plan.rank.{module}": rank for module, rank in done.plan.ranks.items()},
        "payload.bytes": len(done.payload),
        "payload.sha256": codec.digest(done.payload) if done.payload else "",
        "payload.parameters": done.parameters,
        "payload.predicted_airtime_s": done.predicted_airtime_s,
        **link,
        **{
            f"link.blocks_by_mcs.{name}": blocks
            for name, blocks in done.report.blocks_by_mcs.items()
        },
        "link.goodput_bps": done.report.goodput_bps,
        "link.block_error_rate": done.report.block_error_rate,
        **edge,
        "control.bytes": done.control_bytes,
        "timing.swap_ms": swap_ms,
    }


def _named(prefix: str, record: Any) -> Row:
    """The fields of a flat record as "prefix.field"."""
    return {f"{prefix}.{f.name}": getattr(record, f.name) for f in fields(record)}
