"""Radio faults: what counts as got over, what is complained about, and one real session in a
process of its own."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hil.contract import DeviceError
from hil.lab import chaos
from hil.lab.chaos import ChaosOutcome, table_of
from hil.lab.fault_session import KINDS, FaultOutcome, SessionOutcome, Watch
from radio.link.sending_end import AnswerTaken, BurstSent


class Recorded:
    """Faults that are only written down."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return lambda *arguments: self.asked.append((name, *arguments))


@pytest.fixture
def nodes():
    return Recorded(), Recorded()


def burst(*indices, session=1, at_s=None):
    return BurstSent(
        session=session, burst=0, indices=indices, at_s=time.monotonic() if at_s is None else at_s
    )


def answer(*held, session=1, n=10, at_s=None):
    bitmap = np.isin(np.arange(n), held)
    at_s = time.monotonic() if at_s is None else at_s
    return AnswerTaken(session=session, epoch=1, sequence=1, held=bitmap, at_s=at_s)


def watch_of(plan, nodes):
    rng = SimpleNamespace(integers=lambda low, high: 1)  # the fault comes with the next data burst
    return Watch(plan, nodes, rng)


def test_a_block_that_was_shown_as_held_counts_when_it_is_sent_again(nodes):
    watch = watch_of([], nodes)
    for event in (burst(0, 1, 2), answer(0, 2), burst(1, 3), burst(2, 4), burst(0, session=2)):
        watch(event)
    assert watch.repeated_blocks == 1


def test_a_receiver_that_lost_its_blocks_may_be_sent_them_again(nodes):
    watch = watch_of([], nodes)
    for event in (burst(0, 1), answer(0, 1), answer(), burst(0, 1)):
        watch(event)
    assert watch.repeated_blocks == 0


def test_a_fault_is_over_only_when_a_block_arrives_that_went_out_after_the_return(nodes):
    watch = watch_of([("away for 5 s", 1)], nodes)
    watch(burst(0, 1))
    assert nodes[1].asked == [("vanish", 5.0)]
    assert nodes[0].asked == []
    now_s = time.monotonic()
    watch(burst(2, at_s=now_s + 1))  # into the absence
    watch(answer(0, 1, 2, at_s=now_s + 6))  # what was heard before
    assert not watch.done
    watch(burst(3, at_s=now_s + 6))
    watch(answer(0, 1, 2, 3, at_s=now_s + 7))
    assert watch.done
    (outcome,) = watch.outcomes
    assert (outcome.kind, outcome.node) == ("away for 5 s", "receiver")
    assert outcome.resumed_s == pytest.approx(2.0, abs=0.1)


def test_soundings_provoke_nothing(nodes):
    watch = watch_of([("timeout", 0)], nodes)
    watch(burst())
    assert nodes[0].asked == []
    watch(burst(0))
    assert nodes[0].asked == [("timeout", 1)]


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("dropped connection", [("drop_connection",)]),
        ("timeout", [("timeout", 1)]),
        ("busy", [("busy", 2), ("drop_connection",)]),  # else no buffer is opened that is refused
        ("lost block", [("lose_block", 1)]),
        ("away for 5 s", [("vanish", 5.0)]),
    ],
)
def test_each_kind_of_fault_is_provoked_at_its_radio(nodes, kind, asked):
    watch = watch_of([(kind, 0)], nodes)
    watch(burst(0))
    assert nodes[0].asked == asked
    assert nodes[1].asked == []


def fault(resumed_s=1.0):
    return FaultOutcome(kind="timeout", node="receiver", resumed_s=resumed_s)


def test_no_complaint_where_all_is_well():
    session = SessionOutcome(seed=0, faults=[fault(), fault()], payloads=2, delivered=2)
    assert ChaosOutcome(asked=2, sessions=[session], crashed=[]).complaints == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"faults": [fault()]}, "1 fault(s) not recovered from"),
        ({"delivered": 1}, "1 payload(s) not delivered whole"),
        ({"repeated_blocks": 3}, "3 block(s) sent although shown as held"),
        ({"double_deliveries": 1}, "1 payload(s) delivered twice"),
        ({"children_left": 2}, "2 process(es) left behind"),
        ({"error": "the radio stayed away"}, "the radio stayed away"),
    ],
)
def test_every_shortcoming_is_named(change, complaint):
    fields = {"seed": 0, "faults": [fault(), fault()], "payloads": 2, "delivered": 2} | change
    assert ChaosOutcome(asked=2, sessions=[SessionOutcome(**fields)], crashed=[]).complaints == [
        complaint
    ]


def test_a_slow_recovery_is_a_remark_and_no_complaint():
    session = SessionOutcome(seed=0, faults=[fault(), fault(10.5)], payloads=1, delivered=1)
    outcome = ChaosOutcome(asked=2, sessions=[session], crashed=[])
    assert outcome.complaints == []
    assert outcome.remarks[0].startswith("1 of 2 recoveries took longer than 10 s")


def test_the_table_groups_by_kind_and_radio_and_fits_eighty_columns():
    faults = [fault(1.0), fault(3.0), FaultOutcome(kind="busy", node="transmitter", resumed_s=2.0)]
    session = SessionOutcome(seed=0, faults=faults, payloads=3, delivered=3)
    lines = table_of(ChaosOutcome(asked=4, sessions=[session], crashed=[])).lines(80)
    assert "3 of 4" in lines[0]
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[-2:]] == [
        ["busy", "transmitter", "1", "2.0", "2.0", "2.0"],
        ["timeout", "receiver", "2", "2.0", "2.8", "3.0"],
    ]


def test_sessions_that_crash_are_named_and_all_faults_are_asked_for(monkeypatch):
    def run(seed, plan):
        plans.append(plan)
        if len(plans) == 2:
            raise DeviceError(f"session {seed}: ended with status 1: out of memory")
        faults = [FaultOutcome(kind=kind, node="receiver", resumed_s=1.0) for kind, _ in plan]
        return SessionOutcome(seed=seed, faults=faults, payloads=1, delivered=1)

    plans, steps = [], []
    monkeypatch.setattr(chaos, "_session", run)
    outcome = chaos.run_chaos(10, 3, lambda *step: steps.append(step))
    assert [len(plan) for plan in plans] == [4, 4, 2]
    kinds = [kind for plan in plans for kind, _ in plan]
    assert kinds == [*KINDS, *KINDS]
    assert [plan[-1] for plan in plans][-1] == ("away for 5 s", 1)
    assert outcome.complaints == [
        "1 process(es) crashed",
        "4 fault(s) not recovered from",
        "session 300013: ended with status 1: out of memory",
    ]
    assert [step[0] for step in steps] == [0, 4, 4, 8, 8, 10]
    assert steps[0][2] == "provoking dropped connection, timeout, busy, lost block"


@pytest.mark.slow
@pytest.mark.usefixtures("libiio")
def test_a_dropped_connection_in_a_process_of_its_own():
    options = json.dumps({"seed": 11, "plan": [["dropped connection", 1]]})
    command = [sys.executable, "-m", "hil.lab.fault_session", options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert [(f["kind"], f["node"]) for f in outcome["faults"]] == [
        ("dropped connection", "receiver")
    ]
    assert outcome["outages"] >= 1
    assert outcome["delivered"] == outcome["payloads"] >= 1
    assert (outcome["repeated_blocks"], outcome["double_deliveries"], outcome["children_left"]) == (
        0,
        0,
        0,
    )
    assert outcome["error"] == ""
