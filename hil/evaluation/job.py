"""One job of an evaluation: a stream trained from one seed, with everything that is run on it.

It runs in a worker process, which imports this module and nothing that only the report needs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cloud.policies.registry import make_policy
from hil.contract import KEEP, HilError, RoundObservation
from hil.evaluation.grid import Channel, Contestant, Scope, cell_settings
from hil.evaluation.trained_stream import Anchors, Bench, OpenBench, ScoreOn
from hil.learning.runners import RoundResult, RoundRunner
from hil.settings import Settings
from hil.settings.policy import AnyPolicy, Method
from hil.system.whole_file import written_whole

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One (stream, training seed), and what is to be run on it.

    Attributes:
        parts: the contestants whose rows are missing, and the Parquet file that they go to.
        open_bench: makes the bench.
    """

    settings: Settings
    stream: int
    train_seed: int
    channels: tuple[Channel, ...]
    scopes: tuple[Scope, ...]
    score_on: ScoreOn
    parts: tuple[tuple[Contestant, Path], ...]
    open_bench: OpenBench


def work(job: Job) -> None:
    """Every missing contestant on one stream; each one's rows are on the disk before the next
    begins."""
    with closing(_open(job, "lora", None)) as reference:
        for contestant, path in job.parts:
            method, rank = contestant.training
            if method == "lora":
                rows = _contestant_rows(job, contestant, reference, reference.anchors)
            else:
                with closing(_open(job, method, rank)) as own:
                    rows = _contestant_rows(job, contestant, own, reference.anchors)
            _save(pa.Table.from_pylist(rows), path)


def _open(job: Job, method: Method, rank: int | None) -> Bench:
    return job.open_bench(job.settings, job.stream, job.train_seed, method, rank, job.score_on)


def _contestant_rows(
    job: Job, contestant: Contestant, bench: Bench, anchors: Sequence[Anchors]
) -> list[Row]:
    rows: list[Row] = []
    for channel in job.channels:
        for scope in job.scopes:
            runner = bench.runner(cell_settings(job.settings, channel, scope))
            where = {
                "channel": channel.name,
                "scope": scope,
                "stream": job.stream,
                "train_seed": job.train_seed,
            }
            for policy_seed, member in enumerate(contestant.members):
                head = {"policy": contestant.name, "policy_seed": policy_seed, **where}
                with named(
                    contestant.name,
                    f" on {channel.name}, stream {job.stream}, seed {job.train_seed}",
                ):
                    results = _episode(
                        runner, member, trace_seed(job.stream, job.train_seed, channel.name)
                    )
                rows += [{**head, **_row(result, anchors[result.round_id])} for result in results]
    return rows


def trace_seed(stream: int, train_seed: int, channel: str) -> int:
    """Seed of the air of one stream on one channel, the same for every policy and scope."""
    digest = hashlib.sha256(f"{stream} {train_seed} {channel}".encode()).digest()
    return int.from_bytes(digest[:6])


@contextmanager
def named(policy: str, where: str) -> Iterator[None]:
    """Errors in here carry the policy's name, and where it was."""
    try:
        yield
    except HilError as error:
        raise type(error)(f"policy {policy!r}{where}: {error}") from error
    except Exception as error:
        error.add_note(f"raised by policy {policy!r}{where}")
        raise


def _episode(runner: RoundRunner, member: AnyPolicy, seed: int) -> list[RoundResult]:
    """One episode with a policy made for it alone, so that nothing is remembered from the one
    before."""
    policy = make_policy(member)
    results = []
    observation: RoundObservation | None = runner.reset(seed)
    while observation is not None:
        results.append(runner.run(policy.plan(observation)))
        observation = runner.observation
    return results


def _row(result: RoundResult, anchors: Anchors) -> Row:
    """One round, flat; what a plan that was not sent would have cost is in plan_bits alone."""
    sent = {
        module: 0 if rank == KEEP or not result.feasible else rank
        for module, rank in result.ranks.items()
    }
    return {
        "round": result.round_id,
        "domain": result.domain,
        "snr_db": result.snr_db,
        "plan_bits": result.payload_bits,
        "payload_bits": result.sent_bits,
        "parameters": result.parameters if result.feasible else 0,
        "airtime_s": result.airtime_s,
        "budget_bits": result.budget_bits,
        "feasible": result.feasible,
        "delivered": result.delivered,
        "score": result.score,
        "loss_nats": result.loss_nats,
        **dataclasses.asdict(anchors),
        "excess_nats": result.loss_nats - anchors.full_loss_nats,
        "total_rank": sum(sent.values()),
        "kept_modules": list(result.ranks.values()).count(KEEP),
        **{rank_column(module): rank for module, rank in sent.items()},
    }


def rank_column(module: str) -> str:
    """Column of a module's rank: "rank.LAYER.KIND", for example "rank.0.q"."""
    layer = re.search(r"\blayers\.(\d+)\.", module)
    return (
        f"rank.{layer.group(1) if layer else 0}.{module.rpartition('.')[2].removesuffix('_proj')}"
    )


def _save(table: pa.Table, path: Path) -> None:
    with written_whole(path) as temporary:
        pq.write_table(table, temporary)
