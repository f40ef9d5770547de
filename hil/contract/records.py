"""The records that cross a package boundary: frozen, with their units in the fields' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hil.contract.arrays import Floats, Floats32

Keep = Literal["keep"]
KEEP: Final[Keep] = "keep"
"""A rank plan's word for: leave this module as the edge holds it."""


# --------------------------------------------------------------------------------- the base model


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    """The base model as both halves must know it to speak of an update.

    Attributes:
        identity: SHA-256 (64 hex digits) over canonical f16 tensors, configuration and tokenizer.
        module_shapes: every projection that may be adapted, in canonical order (layer by layer; q,
            k, v, o, gate, up, down), as (d_out, d_in). Names are those of Hugging Face without
            ".weight", for example "model.layers.0.self_attn.q_proj".
    """

    identity: str
    module_shapes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankFactors:
    """One module's update ΔW = b @ a, every scaling folded into b.

    Attributes:
        a: float32[r, d_in].
        b: float32[d_out, r]. Directions come in falling order of singular value.
    """

    a: Floats32
    b: Floats32

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraUpdate:
    """The total low-rank update since the base model: module by module a full replacement.

    Attributes:
        round_id: the round that made it, ≥ 0.
        base_identity: the base model it belongs to (BaseSpec.identity).
        factors: modules with rank ≥ 1. A module in neither `factors` nor `kept` has no update.
        kept: modules that stay as the edge holds them.
        kept_from: digest (64 hex digits) of the update that the kept modules are taken from; None
            iff `kept` is empty.
    """

    round_id: int
    base_identity: str
    factors: Mapping[str, LowRankFactors]
    kept: frozenset[str] = frozenset()
    kept_from: str | None = None


# --------------------------------------------------------------------------- what the policy sees


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """The link as it was last measured; nothing here comes from a simulator's settings.

    Attributes:
        snr_db: Es/N0 per used subcarrier, measured from received bursts; NaN, like the next two,
            before the first measurement. Where a round's sounding goes unanswered, an earlier
            round's stands here.
        snr_std_db: one sigma of snr_db.
        age_s: time since that measurement.
        cfo_hz: carrier frequency offset, positive when the received carrier lies above the local
            oscillator.
        bandwidth_hz: occupied bandwidth of this round.
        airtime_share: share of the airtime budget that this link may use this round, 0..1.
        block_error_rate: share of blocks lost, latest round, 0..1.
        goodput_bps: payload bits per second of air, latest round; NaN before the first.
    """

    snr_db: float
    snr_std_db: float
    age_s: float
    cfo_hz: float
    bandwidth_hz: float
    airtime_share: float
    block_error_rate: float
    goodput_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TextState:
    """How hard this round's text is.

    Attributes:
        domain: name of the domain.
        lexical_entropy_bits: Shannon entropy of the batch's word distribution, bits per word.
        lexical_entropy: the same divided by log2 of the number of words in the batch, 0..1.
        oov_rate: share of words outside the base model's lexicon, 0..1.
        pieces_per_word: tokenizer pieces per word, ≥ 1.
    """

    domain: str
    lexical_entropy_bits: float
    lexical_entropy: float
    oov_rate: float
    pieces_per_word: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Airtime and bits that may be spent now.

    Attributes:
        airtime_s: airtime that is left.
        bits: payload bits that the link expects to deliver in it at the SNR last measured, before
            the first measurement at the lowest that it is made for; a larger plan is not sent.
        rounds: rounds that it must last for, this one included.
        pooled: True where later rounds get what a round leaves over; False where every round has
            a budget of its own.
    """

    airtime_s: float
    bits: int
    rounds: int = 1
    pooled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """What the edge would lack of the trained update, module by module, in one measure.

    Attributes:
        missing_if_sent: module → float32[r_max + 1]: what is missing when its leading r directions
            are sent, r = 0..r_max; it never rises. Empty: not measured.
        missing_if_kept: module → what is missing when it stays as the edge holds it. Absent: the
            edge holds nothing of it, so it lacks missing_if_sent[module][0].
    """

    missing_if_sent: Mapping[str, Floats32] = field(default_factory=dict)
    missing_if_kept: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoss:
    """A rising line from expected to measured loss, through the plans that were tried on the
    round's own text.

    It begins at the whole update; beyond its last point it goes on with its last slope.

    Attributes:
        missing: float64[K], nats expected to be missing by kfac, summed over the modules; 0 first,
            never falling.
        excess: float64[K], loss above that of the whole update, nats per token; ≥ 0, never falling.
    """

    missing: Floats
    excess: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """One past round, as a policy may remember it."""

    round_id: int
    domain: str
    ranks: Mapping[str, int]
    payload_bits: int
    airtime_s: float
    score: float
    loss_nats_per_token: float
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundObservation:
    """All that a rank policy may look at.

    Attributes:
        round_id: this round, ≥ 0.
        channel, text, budget: see their classes.
        module_shapes: adapted modules in canonical order, as (d_out, d_in).
        r_max: largest rank of a plan, ≥ 1.
        bits_per_direction: module → payload bits that one more direction costs, from the codec as
            it is.
        overhead_bits: payload bits of an update whatever its ranks are (headers, checks).
        bits_per_module: payload bits that a module with rank ≥ 1 costs beside its directions.
        spectra: module → float32[r_max], singular values of the trained update, falling.
        energy: residuals as the squared Frobenius norm of the missing part of ΔW.
        kfac: residuals as the loss that they are expected to cost, in nats per counted token, from
            the curvature of the loss around the trained update (Kronecker-factored;
            cloud/finetuning/importance.py).
        measured: the loss that was measured where kfac expects so much; None: not measured.
        held: module → rank that the edge has confirmed to hold; absent modules hold nothing.
        history: past rounds, oldest first.
    """

    round_id: int
    channel: ChannelState
    text: TextState
    budget: Budget
    module_shapes: Mapping[str, tuple[int, int]]
    r_max: int
    bits_per_direction: Mapping[str, int]
    overhead_bits: int
    bits_per_module: int
    spectra: Mapping[str, Floats32]
    energy: Residuals = Residuals()
    kfac: Residuals = Residuals()
    measured: MeasuredLoss | None = None
    held: Mapping[str, int]
    history: tuple[RoundSummary, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """How many directions of each module are sent.

    Attributes:
        ranks: module → r in 0..r_max (0 = the module gets no update), or KEEP. A plan in which
            every module is KEEP sends nothing.
    """

    ranks: Mapping[str, int | Keep]

    @property
    def sends_nothing(self) -> bool:
        """True when every module stays as the edge holds it."""
        return all(rank == KEEP for rank in self.ranks.values())


# --------------------------------------------------------------------------------- what comes back


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReport:
    """How one payload crossed the radio.

    Attributes:
        delivered: the receiver holds the whole payload.
        reason: why not, else "".
        payload_bytes: length of the payload.
        airtime_s: transmitted samples / sample rate, sounding included.
        elapsed_s: airtime plus waiting for feedback, on the link's clock.
        bits_on_air: modulated bits of all data blocks sent, retransmissions included (= blocks_sent
            × block size).
        header_bits_on_air: modulated bits of all burst headers sent.
        bursts_sent, bursts_lost: bursts transmitted, and those of them that the receiver never
            found.
        blocks_sent, blocks_lost: data blocks transmitted, and those of them that did not pass their
            CRC.
        blocks_by_mcs: MCS name → data blocks sent with it.
        snr_db, snr_std_db: measured at the receiver over the session; NaN if nothing was ever
            received.
        evm_rms: error vector magnitude after equalisation, relative to rms symbol amplitude; NaN
            likewise.
        cfo_hz: measured carrier frequency offset; NaN likewise.
        feedback_bytes: bytes that the receiver sent back.
        prefix_bytes: length of the payload's beginning that the receiver holds without a gap.
    """

    delivered: bool
    reason: str
    payload_bytes: int
    airtime_s: float
    elapsed_s: float
    bits_on_air: int
    header_bits_on_air: int
    bursts_sent: int
    bursts_lost: int
    blocks_sent: int
    blocks_lost: int
    blocks_by_mcs: Mapping[str, int] = field(default_factory=dict)
    snr_db: float
    snr_std_db: float
    evm_rms: float
    cfo_hz: float
    feedback_bytes: int
    prefix_bytes: int = 0

    @property
    def goodput_bps(self) -> float:
        """Delivered payload bits per second of air; 0 when nothing was delivered."""
        return (
            8 * self.payload_bytes / self.airtime_s
            if self.delivered and self.airtime_s > 0
            else 0.0
        )

    @property
    def block_error_rate(self) -> float:
        """Share of data blocks that did not pass their CRC, 0..1; 0 when none was sent."""
        return self.blocks_lost / self.blocks_sent if self.blocks_sent else 0.0


ReceiptStatus = Literal["installed", "kept", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The edge's word on one round.

    Attributes:
        round_id: the round it answers.
        status: "installed": the new update is active; "kept": nothing was to be installed;
            "refused": the update was turned down or never arrived, and the one before stays.
        reason: why it was refused, else "".
        held_digest: SHA-256 (hex) of the payload whose update is active; "" for the bare base
            model.
        score_set: name of the score set that was scored.
        n_scored: label questions, or text chunks of a language-model set.
        score: share of label questions answered right, 0..1; NaN for a language-model set.
        loss_nats_per_token: cross-entropy of the label word, or of every token of a language-model
            set.
        base_score, base_loss_nats_per_token: the same for the untouched quantised model.
        gain: improvement over the bare base model, positive is better: score - base_score with
            labels, else base loss - loss.
        gain_std_error: standard error of `gain` from the paired differences item by item.
        swap_ms: time during which requests were held up by the swap; a wall-clock figure.
    """

    round_id: int
    status: ReceiptStatus
    reason: str
    held_digest: str
    score_set: str
    n_scored: int
    score: float
    loss_nats_per_token: float
    base_score: float
    base_loss_nats_per_token: float
    gain: float
    gain_std_error: float
    swap_ms: float

    @property
    def accepted(self) -> bool:
        """True unless the update was refused."""
        return self.status != "refused"
