"""`hil chaos`: radio faults in mid delivery, a process for each few of them, and how the link
recovers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from hil.contract import DeviceError
from hil.lab.fault_session import KINDS, RECEIVER, FaultOutcome, Kind, SessionOutcome
from hil.reporting.text_table import TextTable

SLOW_S: Final = 10.0
"""A recovery that takes longer is remarked on: an idle machine needs about two seconds."""
_FAULTS_PER_SESSION: Final = 4
_SESSION_DEADLINE_S: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOutcome:
    """Result of all sessions.

    Attributes:
        asked: number of faults that were to come.
        sessions: the sessions that ended by themselves.
        crashed: one line for each process that crashed or hung.
    """

    asked: int
    sessions: list[SessionOutcome]
    crashed: list[str]

    @property
    def faults(self) -> list[FaultOutcome]:
        """Faults that the link recovered from."""
        found: list[FaultOutcome] = []
        for session in self.sessions:
            found += session.faults
        return found

    @property
    def complaints(self) -> list[str]:
        """Faults that the link did not survive, a sentence each; empty if it survived all."""
        counts = {
            "process(es) crashed": len(self.crashed),
            "fault(s) not recovered from": self.asked - len(self.faults),
            "payload(s) not delivered whole": sum(s.payloads - s.delivered for s in self.sessions),
            "block(s) sent although shown as held": sum(s.repeated_blocks for s in self.sessions),
            "payload(s) delivered twice": sum(s.double_deliveries for s in self.sessions),
            "process(es) left behind": sum(s.children_left for s in self.sessions),
        }
        errors = sorted({session.error for session in self.sessions if session.error})
        return [f"{n} {what}" for what, n in counts.items() if n] + self.crashed + errors

    @property
    def remarks(self) -> list[str]:
        """Facts that a reader should know and that no verdict depends on."""
        slow = [f for f in self.faults if f.resumed_s > SLOW_S]
        if not slow:
            return []
        return [
            f"{len(slow)} of {len(self.faults)} recoveries took longer than {SLOW_S:g} s; a busy "
            "machine does that, an idle one should not"
        ]


def run_chaos(
    n_faults: int, seed: int, on_progress: Callable[[int, int, str], None]
) -> ChaosOutcome:
    """Provoke faults of all kinds, at both nodes in turn, at random moments.

    Args:
        n_faults: number of faults, ≥ 1.
        seed: seed of moments, payloads and air.
        on_progress: called before and after each session with (faults done, faults in all, what
            runs or how it went).
    """
    faults = [_fault(k) for k in range(n_faults)]
    sessions: list[SessionOutcome] = []
    crashed: list[str] = []
    for first in range(0, n_faults, _FAULTS_PER_SESSION):
        plan = faults[first : first + _FAULTS_PER_SESSION]
        on_progress(first, n_faults, f"provoking {', '.join(kind for kind, _ in plan)}")
        try:
            sessions.append(_session(seed * 100_003 + first, plan))
            last = sessions[-1].error or ", ".join(
                f"{f.kind} {f.resumed_s:.1f} s" for f in sessions[-1].faults
            )
        except DeviceError as error:
            crashed.append(str(error))
            last = crashed[-1]
        on_progress(first + len(plan), n_faults, last)
    return ChaosOutcome(asked=n_faults, sessions=sessions, crashed=crashed)


def _fault(k: int) -> tuple[Kind, int]:
    """The k-th kind and node; only what is received can be lost on its way to the computer."""
    kind = KINDS[k % len(KINDS)]
    return kind, RECEIVER if kind == "lost block" else k // len(KINDS) % 2


def _session(seed: int, plan: list[tuple[Kind, int]]) -> SessionOutcome:
    """One process. Raises DeviceError if it crashed or hung."""
    command = [
        sys.executable,
        "-m",
        "hil.lab.fault_session",
        json.dumps({"seed": seed, "plan": plan}),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SESSION_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"session {seed}: still running after {_SESSION_DEADLINE_S:g} s; killed"
        ) from None
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise DeviceError(
            f"session {seed}: ended with status {done.returncode}: "
            f"{words[-1] if words else 'no words'}"
        )
    fields = json.loads(done.stdout)
    return SessionOutcome(
        **{**fields, "faults": [FaultOutcome(**fault) for fault in fields["faults"]]}
    )


def table_of(outcome: ChaosOutcome) -> TextTable:
    """Recovery times by kind of fault: from the radio's return to the first block held again."""
    rows = []
    for kind, node in sorted({(fault.kind, fault.node) for fault in outcome.faults}):
        resumed_s = [f.resumed_s for f in outcome.faults if (f.kind, f.node) == (kind, node)]
        figures = (np.median(resumed_s), np.quantile(resumed_s, 0.9), max(resumed_s))
        rows.append((kind, node, str(len(resumed_s)), *(f"{figure:.1f}" for figure in figures)))
    return TextTable(
        title=f"{len(outcome.faults)} of {outcome.asked} radio faults were recovered from",
        heads=("fault", "radio", "n", "resumed after s, median", "90 %", "longest"),
        rows=rows,
        text_columns=("fault", "radio"),
    )
