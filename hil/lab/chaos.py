"""Radio faults by the hundred, each session of deliveries in a process of its own, and what the
link made of them."""

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

RESUME_LIMIT_S: Final = 10.0
_FAULTS_PER_SESSION: Final = 4
_SESSION_DEADLINE_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOutcome:
    """All sessions.

    Attributes:
        asked: faults that were to come.
        sessions: what became of them.
        crashed: how processes that did not end by themselves ended.
    """

    asked: int
    sessions: list[SessionOutcome]
    crashed: list[str]

    @property
    def faults(self) -> list[FaultOutcome]:
        """Faults that came and were got over."""
        return [fault for session in self.sessions for fault in session.faults]

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be; empty if all is well."""
        late = [f for f in self.faults if f.resumed_s > RESUME_LIMIT_S]
        counts = {
            "process(es) crashed": len(self.crashed),
            "fault(s) not got over": self.asked - len(self.faults),
            f"fault(s) after which it took longer than {RESUME_LIMIT_S:g} s": len(late),
            "payload(s) not delivered whole": sum(s.payloads - s.delivered for s in self.sessions),
            "block(s) sent although shown as held": sum(s.repeated_blocks for s in self.sessions),
            "payload(s) delivered twice": sum(s.double_deliveries for s in self.sessions),
            "process(es) left behind": sum(s.children_left for s in self.sessions),
        }
        errors = sorted({session.error for session in self.sessions if session.error})
        return [f"{n} {what}" for what, n in counts.items() if n] + self.crashed + errors


def run_chaos(
    n_faults: int, seed: int, on_progress: Callable[[int, int, str], None]
) -> ChaosOutcome:
    """Provoke faults of all kinds, at both nodes in turn, at moments drawn from the seed.

    Args:
        n_faults: ≥ 1.
        seed: of moments, payloads and air.
        on_progress: called with faults done, faults in all, and how the last session went.
    """
    faults = [_fault(k) for k in range(n_faults)]
    sessions: list[SessionOutcome] = []
    crashed: list[str] = []
    for first in range(0, n_faults, _FAULTS_PER_SESSION):
        plan = faults[first : first + _FAULTS_PER_SESSION]
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
    """Kinds of faults: how many, and the time from the radio's return to the link's."""
    rows = []
    for kind, node in sorted({(fault.kind, fault.node) for fault in outcome.faults}):
        resumed_s = [f.resumed_s for f in outcome.faults if (f.kind, f.node) == (kind, node)]
        figures = (np.median(resumed_s), np.quantile(resumed_s, 0.9), max(resumed_s))
        rows.append((kind, node, str(len(resumed_s)), *(f"{figure:.1f} s" for figure in figures)))
    return TextTable(
        title=f"{len(outcome.faults)} of {outcome.asked} radio faults were recovered from",
        heads=("fault", "at", "n", "resumed after: median", "90 %", "longest"),
        rows=rows,
        text_columns=("fault", "at"),
    )
