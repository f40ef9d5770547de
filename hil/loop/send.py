"""`hil send`: an adapter that PEFT made, across the radio and scored on the edge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from cloud.finetuning.directions import Directions, cut_update
from cloud.finetuning.given_adapter import adapter_directions
from cloud.model.base_model import BaseModel, open_base_model
from cloud.policies.allocator import allocate
from cloud.text.loading import load_domains
from edge_device.acceptance import Limits, validate
from hil import codec
from hil.contract import BaseSpec, ConfigError, LinkReport, RankPlan, Receipt, ScoreSet
from hil.loop.provision import cached_bundle
from hil.loop.rounds import Bench, whole_bench
from hil.reporting.text_table import TextTable
from hil.settings import Settings
from hil.system.waits import waiting_for
from radio.link import Sounding
from radio.modem.framing import MAX_PAYLOAD_BYTES

MAX_RANK: Final = 255
"""Largest rank of a module in a payload."""
WHOLE_BITS: Final = 8
"""Bits of a coefficient where nothing has to be saved."""
_PATIENCE: Final = 4.0
"""A delivery may take so many times its expected airtime, and a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of an adapter.

    Attributes:
        ranks: module → rank that was sent.
        whole: module → rank of the adapter itself.
        coefficient_bits: bits of a coefficient.
        report: how it crossed the radio.
        receipts: the edge's word, one a score set.
    """

    ranks: Mapping[str, int]
    whole: Mapping[str, int]
    coefficient_bits: int
    report: LinkReport
    receipts: tuple[Receipt, ...]

    @property
    def installed(self) -> bool:
        """The edge answers with it."""
        return all(receipt.status == "installed" for receipt in self.receipts)

    def as_json(self) -> dict[str, object]:
        """All of it as JSON values."""
        return {**asdict(self), "receipts": [asdict(receipt) for receipt in self.receipts]}


def send(settings: Settings, folder: Path, budget_bits: int | None = None) -> Sent:
    """Send an adapter over the radio of the settings, and have the edge score it.

    The bench is the one of a run with both ends in this process. The airtime budget does not count,
    and the deadline is as long as the payload needs; edge.max_rank rises to the adapter's rank.

    Args:
        settings: the experiment; [model], [text], [radio], [codec], [control] and [edge] count.
        folder: the adapter's folder.
        budget_bits: bits of the payload; None: all directions, at 8 bits a coefficient.
    Raises:
        ModelError: no adapter that the edge can take.
        ConfigError: nothing of it fits the budget, or it is too large for a payload.
        HilError: the bench is broken.
    """
    waiting_for(f"opening base model {settings.model.base} and the text")
    base = open_base_model(settings.model.base)
    found = directions_of(folder, base, settings.edge.max_frobenius)
    bits = WHOLE_BITS if budget_bits is None else settings.codec.coefficient_bits
    target = codec.CodecTarget(coefficient_bits=bits)
    ranks = whole = {module: d.rank for module, d in found.items()}
    if budget_bits is not None:
        ranks = fitting_ranks(found, base.spec, target, budget_bits)
    payload = _payload(found, ranks, base, target, folder)
    limit = base.token_limit(settings.finetune.max_tokens)
    domains, _ = load_domains(settings.text, settings.run.seed, limit)
    score_sets = [domain.score_set for domain in domains.values()]
    settings = _for_one_round(settings, max(ranks.values()))
    _check_as_the_edge(payload, base, score_sets, settings)
    with TemporaryDirectory() as state, ExitStack() as stack:
        bench = whole_bench(settings, Path(state), base, score_sets, stack)
        same = ScoreSet.digest_of_all(score_sets)
        bench.edge.connect({"base_identity": base.spec.identity, "score_sets": same})
        report, receipts = _deliver(bench, payload, [each.name for each in score_sets])
    sent = {module: rank for module, rank in ranks.items() if rank}
    return Sent(ranks=sent, whole=whole, coefficient_bits=bits, report=report, receipts=receipts)


def directions_of(folder: Path, base: BaseModel, max_frobenius: float) -> dict[str, Directions]:
    """Singular directions of each module that an adapter changes.

    Raises:
        ModelError: no adapter that the edge can take.
        ConfigError: one that changes nothing, or more than the edge takes.
    """
    found = adapter_directions(folder, base)
    for module, d in found.items():
        norm = float(np.linalg.norm(d.s))
        if not norm <= max_frobenius:
            raise ConfigError(
                f"adapter '{folder}': its update of '{module}' has norm {norm:.3g}, "
                f"edge.max_frobenius is {max_frobenius:g}; raise that, or train with a smaller "
                "alpha"
            )
    return found


def fitting_ranks(
    found: Mapping[str, Directions], base: BaseSpec, target: codec.CodecTarget, budget_bits: int
) -> dict[str, int]:
    """Module → rank, such that the payload fits and the least energy of the update is missing.

    Raises:
        ConfigError: not one direction fits.
    """
    most = min(MAX_RANK, max(d.rank for d in found.values()))
    missing = np.full((1, len(found), most + 2), np.inf)
    for i, d in enumerate(found.values()):
        energy = np.append(np.cumsum(d.s[::-1] ** 2)[::-1], 0.0)[: most + 1]
        missing[0, i, : len(energy)] = energy
    each = codec.bits_per_direction(base, target)
    bits = codec.bits_by_rank([each[module] for module in found], most)
    bits = np.pad(bits, ((0, 0), (0, 1)))  # the last option, to keep what is held, is not to be had
    fixed = codec.overhead_bits(base, target)
    ranks = allocate(missing, bits, fixed, budget_bits)[0]
    chosen = {module: int(r) if r <= most else 0 for module, r in zip(found, ranks, strict=True)}
    if not any(chosen.values()):
        least = fixed + int(bits[:, 1].min())
        raise ConfigError(
            f"--budget-bits {budget_bits}: not one direction fits; give at least {least}"
        )
    return chosen


def _payload(
    found: Mapping[str, Directions],
    ranks: Mapping[str, int],
    base: BaseModel,
    target: codec.CodecTarget,
    folder: Path,
) -> bytes:
    over = {module: rank for module, rank in ranks.items() if rank > MAX_RANK}
    if over:
        module, rank = next(iter(over.items()))
        raise ConfigError(
            f"adapter '{folder}' has rank {rank} at '{module}', a payload takes {MAX_RANK}; cut it "
            "with --budget-bits"
        )
    identity = base.spec.identity
    plan = RankPlan(ranks=ranks)
    update = cut_update(found, plan, round_id=0, identity=identity, held_digest="")
    payload = codec.encode(update, target, base=base.spec)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigError(
            f"adapter '{folder}' makes a payload of {len(payload)} bytes, the link takes "
            f"{MAX_PAYLOAD_BYTES}; cut it with --budget-bits {8 * MAX_PAYLOAD_BYTES}"
        )
    return payload


def _for_one_round(settings: Settings, largest_rank: int) -> Settings:
    """Settings of a run of one round, on an edge that takes this rank."""
    edge = {"max_rank": max(settings.edge.max_rank, largest_rank)}
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"rounds": 1}),
            "edge": settings.edge.model_copy(update=edge),
        }
    )


def _check_as_the_edge(
    payload: bytes, base: BaseModel, score_sets: list[ScoreSet], settings: Settings
) -> None:
    """Refuse here what the edge would refuse after the air was spent."""
    edge = settings.edge
    model = cached_bundle(base, score_sets, edge).model
    limits = Limits(max_rank=edge.max_rank, max_frobenius=edge.max_frobenius)
    validate(codec.decode(payload, base.spec), model, limits)


def _deliver(
    bench: Bench, payload: bytes, score_sets: list[str]
) -> tuple[LinkReport, tuple[Receipt, ...]]:
    """How the payload crossed, and the edge's receipt for each score set."""
    radio, edge = bench.radio, bench.edge
    radio.start_round(0)
    waiting_for("measuring the channel")
    sounding = radio.sound()
    if sounding.reason and not math.isnan(sounding.snr_db):
        report, session, failure = sounding.as_report(), 0, f"link unusable: {sounding.reason}"
    else:
        _allow_time(bench, payload, sounding)
        waiting_for(f"sending {len(payload)} bytes")
        session, failure = radio.next_session, ""
        report = radio.deliver(payload, sounding)
    digest = codec.digest(payload) if report.blocks_sent else ""
    failure = "" if digest else failure or report.reason
    waiting_for("installing and scoring on the edge")
    receipts = [
        edge.offer(i, session, digest, name, failure=failure) for i, name in enumerate(score_sets)
    ]
    return report, tuple(receipts)


def _allow_time(bench: Bench, payload: bytes, sounding: Sounding) -> None:
    """A deadline that fits the payload, if the one of [radio] is shorter."""
    radio, limits = bench.radio, bench.radio.limits
    expected_s = radio.predicted_airtime_s(payload, sounding) or 0.0
    longer_s = max(0.0, _PATIENCE * expected_s + 1 - limits.airtime_s)
    radio.limits = replace(
        limits,
        airtime_s=limits.airtime_s + longer_s,
        elapsed_s=limits.elapsed_s + _PATIENCE * longer_s,
    )


def summary(sent: Sent) -> list[str]:
    """The update and its way, a line each."""
    ranks, whole, report = sent.ranks.values(), sum(sent.whole.values()), sent.report
    crossed = "delivered" if report.delivered else f"not delivered ({report.reason})"
    return [
        f"update: {len(ranks)} modules, ranks {min(ranks)} to {max(ranks)}, {sum(ranks)} of "
        f"{whole} directions, {sent.coefficient_bits} bits a coefficient, "
        f"{report.payload_bytes} bytes",
        f"radio: {crossed}, {report.airtime_s:.3f} s of air, SNR {report.snr_db:.1f} dB",
    ]


def score_table(sent: Sent) -> TextTable:
    """The edge's scores with the adapter and without, a line for each score set."""
    rows = []
    for r in sent.receipts:
        labels = not math.isnan(r.score)
        scale, form, unit = (100.0, ".1f", " %") if labels else (1.0, ".3f", " nats")
        base, score = (
            (r.base_score, r.score)
            if labels
            else (r.base_loss_nats_per_token, r.loss_nats_per_token)
        )
        gain = f"{scale * r.gain:+{form}} ± {scale * r.gain_std_error:{form}}"
        bare, with_it = (f"{scale * value:{form}}{unit}" for value in (base, score))
        rows.append((r.score_set, r.status, bare, with_it, gain))
    heads = ("score set", "update", "without", "with it", "gain")
    refused = [f"Refused: {r.reason}." for r in sent.receipts[:1] if r.reason]
    return TextTable(heads=heads, rows=rows, text_columns=heads[:2], notes=refused)
