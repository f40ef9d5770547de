"""What the edge answers to hellos and offers, and what the cloud makes of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.model.base_model import open_base_model
from cloud.text.loading import load_domains
from edge_device.bundle import Bundle
from edge_device.runtime import LoadedAdapter
from hil import codec
from hil.contract import ControlError, LoraUpdate, LowRankFactors, ScoreSet
from hil.control.bus import InProcessBus
from hil.control.messages import HelloMessage, OfferMessage, ReceiptMessage, StatusMessage
from hil.loop.edge_client import EdgeClient
from hil.loop.edge_server import READY, EdgeServer
from hil.loop.provision import cached_bundle
from hil.settings import Settings, load_settings

ROOT = Path(__file__).parents[3]
RUN = "00c0ffee"


@pytest.fixture(scope="module")
def settings(
    small_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    overrides = [*small_overrides(tmp_path_factory.mktemp("runs")), "text.stream=['jargon40']"]
    return load_settings(ROOT / "hil.toml", overrides)


@pytest.fixture(scope="module")
def bundle(settings: Settings) -> Bundle:
    base = open_base_model("default")
    domains, _ = load_domains(settings.text, 0, base.token_limit(64))
    return cached_bundle(base, [domain.score_set for domain in domains.values()], settings.edge)


@pytest.fixture(scope="module")
def payload() -> bytes:
    """A small random update."""
    base = open_base_model("default").spec
    name, (d_out, d_in) = next(iter(base.module_shapes.items()))
    rng = np.random.default_rng(0)
    factors = LowRankFactors(
        a=rng.standard_normal((2, d_in)).astype(np.float32),
        b=0.01 * rng.standard_normal((d_out, 2)).astype(np.float32),
    )
    update = LoraUpdate(round_id=0, base_identity=base.identity, factors={name: factors})
    return codec.encode(update, codec.CodecTarget(coefficient_bits=8), base=base)


class Bench:
    """An edge in this process, what the radio brought it, and the cloud's end."""

    def __init__(self, bundle: Bundle, state: Path, settings: Settings) -> None:
        self.radio: dict[int, bytes] = {}
        self.cloud, self.edge = InProcessBus.pair()
        self.server = EdgeServer(
            bundle, state, self.edge, self.radio.get, settings.edge, rate_hz=1e6, lo_hz=2e9
        )

    def say(
        self, message: HelloMessage | OfferMessage
    ) -> tuple[StatusMessage | None, ReceiptMessage | None]:
        self.cloud.publish(message)
        assert self.server.answer_next(0.0)
        return self.cloud.receive(StatusMessage, timeout_s=0), self.cloud.receive(
            ReceiptMessage, timeout_s=0
        )


@pytest.fixture(scope="module")
def bare(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> Iterator[Bench]:
    """Shared by tests that install nothing."""
    made = Bench(bundle, tmp_path_factory.mktemp("bare") / "updates", settings)
    with made.server:
        yield made


@pytest.fixture
def bench(bundle: Bundle, tmp_path: Path, settings: Settings) -> Iterator[Bench]:
    made = Bench(bundle, tmp_path / "updates", settings)
    with made.server:
        yield made


def offer(
    payload: bytes = b"", *, round_id: int = 0, session_id: int = 5, **changes: Any
) -> OfferMessage:
    digest = codec.digest(payload) if payload else ""
    facts = {"run": RUN, "payload_sha256": digest, "score_set": "jargon40", **changes}
    return OfferMessage(round_id=round_id, session_id=session_id, **facts)


@pytest.mark.slow
def test_a_hello_is_answered_with_what_is_held(bare: Bench, bundle: Bundle) -> None:
    status, receipt = bare.say(HelloMessage(run=RUN))
    assert receipt is None
    assert status == StatusMessage(
        run=RUN,
        base_identity=bundle.model.spec.identity,
        held_digest="",
        held_ranks={},
        quant="Q4_K_M",
        tensor_types=dict(bundle.model.types.tensors),
        score_sets=ScoreSet.digest_of_all(bundle.score_sets.values()),
        state=READY,
        rate_hz=1e6,
        lo_hz=2e9,
    )
    assert not bare.server.answer_next(0.0)


@pytest.mark.slow
def test_a_repeated_offer_gets_the_same_receipt_and_installs_nothing_again(
    bench: Bench, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.radio[5] = payload
    installs: list[Path] = []
    load = bench.server.agent.runtime.load

    def counted_load(adapter: Path) -> LoadedAdapter:
        installs.append(adapter)
        return load(adapter)

    monkeypatch.setattr(bench.server.agent.runtime, "load", counted_load)
    _, first = bench.say(offer(payload))
    status, again = bench.say(offer(payload))
    assert first == again
    assert first is not None
    assert first.status == "installed"
    assert status is not None
    assert status.held_digest == codec.digest(payload)
    assert len(installs) == 1
    _, next_round = bench.say(
        offer(payload, round_id=1, session_id=7)
    )  # the radio has nothing under 7
    assert next_round is not None
    assert (next_round.round_id, next_round.status) == (1, "installed")
    assert len(installs) == 1


@pytest.mark.slow
def test_an_edge_that_was_restarted_knows_what_it_installed(
    bundle: Bundle, payload: bytes, tmp_path: Path, settings: Settings
) -> None:
    for arrived in ({5: payload}, {}):
        bench = Bench(bundle, tmp_path, settings)
        bench.radio.update(arrived)
        with bench.server:
            _, receipt = bench.say(offer(payload))
        assert receipt is not None
        assert (receipt.status, receipt.held_digest) == ("installed", codec.digest(payload))


@pytest.mark.slow
def test_what_is_not_whole_or_not_what_was_offered_is_refused(bare: Bench, payload: bytes) -> None:
    bare.radio[6] = b"another payload"
    cases = [
        (offer(payload, round_id=0, session_id=5), "refused", "the update did not arrive"),
        (
            offer(payload, round_id=1, session_id=6),
            "refused",
            "what arrived is not what the cloud offered",
        ),
        (offer(round_id=2, session_id=0, failure="link unusable"), "refused", "link unusable"),
        (offer(round_id=3, session_id=0), "kept", ""),
    ]
    for message, status, reason in cases:
        _, receipt = bare.say(message)
        assert receipt is not None
        assert (receipt.round_id, receipt.status, receipt.reason) == (
            message.round_id,
            status,
            reason,
        )
        assert receipt.held_digest == ""


@pytest.mark.slow
def test_an_unknown_score_set_ends_nothing(bench: Bench, payload: bytes) -> None:
    bench.radio[5] = payload
    status, receipt = bench.say(offer(payload, score_set="poems"))
    assert receipt is None
    assert status is not None
    assert "no score set 'poems'" in status.state
    _, receipt = bench.say(offer(payload))
    assert receipt is not None


@pytest.mark.slow
def test_an_answer_that_nobody_takes_is_only_logged(
    bare: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(message: Any, **_: Any) -> None:
        raise ControlError("nobody listens")

    bare.cloud.publish(HelloMessage(run=RUN))
    monkeypatch.setattr(bare.edge, "publish", refuse)
    with caplog.at_level(logging.WARNING, "hil.loop.edge_server"):
        assert bare.server.answer_next(0.0)
    assert "the status is not confirmed: nobody listens" in caplog.text


# ------------------------------------------------------------------------------------------------
# the cloud's side


@pytest.mark.slow
def test_the_cloud_repeats_itself_and_takes_only_answers_to_its_own_run(
    bench: Bench, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hil.loop.edge_client._REPEAT_S", 0.01)
    bench.radio[5] = payload
    of_another_run = StatusMessage(
        run=RUN,
        base_identity="",
        held_digest="",
        held_ranks={},
        quant="",
        tensor_types={},
        state="of another run",
    )
    turns = 0

    def give_turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:  # the hello is lost, and an earlier run's answer comes late
            assert bench.edge.receive(HelloMessage, timeout_s=0) is not None
            bench.edge.publish(of_another_run)
        else:
            bench.server.answer_next(0.0)

    client = EdgeClient(bench.cloud, 10.0, give_turn)
    client.connect({"rate_hz": 1e6})
    assert turns == 2
    assert client.status.state == READY
    receipt = client.offer(0, 5, codec.digest(payload), "jargon40")
    assert receipt.status == "installed"
    assert client.status.held_digest == codec.digest(payload)
    assert client.control_bytes > 0
    with pytest.raises(
        ControlError,
        match=r"radio\.lo_hz: the edge has 2000000000\.0, the cloud 1\.0; set the same",
    ):
        client.connect({"lo_hz": 1.0})


def test_a_silent_edge_is_an_error_that_says_what_to_look_at() -> None:
    cloud, _ = InProcessBus.pair()
    with pytest.raises(ControlError, match=r"to a hello within 0\.05 s; is hil edge running"):
        EdgeClient(cloud, 0.05).connect({})
