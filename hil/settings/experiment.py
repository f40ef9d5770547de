"""The tables of an experiment: hil.toml without the kinds of policy and radio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, model_validator

from hil import user_folders
from hil.contract import MAX_SCORED_TOKENS, ConfigError
from hil.settings.pluto import PlutoRadio
from hil.settings.policy import AnyPolicy, OursPolicy
from hil.settings.radio import LoopbackRadio
from hil.settings.table import Table

_Kind = Discriminator("kind")


class RunSettings(Table):
    """[run]: one experiment."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    seed: int = Field(default=0, ge=0, lt=2**63)
    rounds: int = Field(default=10, ge=1, le=100_000)
    out: str = "runs"
    deliver: bool = True
    """False: the control run. Everything happens but the transmission, so the edge keeps its
    untouched model."""


class BudgetSettings(Table):
    """[budget]: what may be spent."""

    airtime_s: float = Field(default=0.4, gt=0, le=3600)
    """Airtime of one round; with scope "episode" all rounds share this times their number."""
    scope: Literal["round", "episode"] = "round"


class DefaultText(Table):
    """[text] kind = "default": generated reports and standard-library prose, by domain."""

    kind: Literal["default"] = "default"
    stream: list[str] = Field(
        default=["jargon40", "jargon150", "jargon400", "mixed200", "email+http"], min_length=1
    )
    dwell: int = Field(default=2, ge=1)
    train_examples: int = Field(default=4000, ge=1, le=1_000_000)
    score_examples: int = Field(default=400, ge=2, le=100_000)


def _words(labels: dict[str, str]) -> dict[str, str]:
    if not all(map(str.strip, labels.values())) or len(set(labels.values())) < 2:
        raise ValueError("must have at least two different words, none of them empty")
    return labels


class _LabelColumns(Table):
    text_column: str = "text"
    label_column: str = ""
    """Column of the label; "" = language-model text without labels."""
    label_words: Annotated[dict[str, str], AfterValidator(_words)] = Field(
        default={"0": " bad", "1": " good"}, min_length=2
    )
    """Label as it stands in the column → the word that answers for it, leading blank included.
    Labels may share a word."""
    prompt: str = Field(default="report: {text}.\nverdict:", pattern=r"\{text\}")
    score_examples: int = Field(default=872, ge=2, le=1_000_000)


class FileText(_LabelColumns):
    """[text] kind = "file": a TSV, CSV or JSONL file by path."""

    kind: Literal["file"]
    path: str
    score_path: str = ""
    """File to score on; "" = a tenth of `path`, held out."""
    columns: list[str] = Field(default=[])
    """Names of the columns of a TSV or CSV without a header line; [] = the first line names
    them."""


class HubText(_LabelColumns):
    """[text] kind = "hub": a Hugging Face data set by name, where the `datasets` package is
    installed."""

    kind: Literal["hub"]
    name: str
    subset: str = ""
    split: str = "train"
    score_split: str = "validation"


Projection = Literal[
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv_proj",
    "gate_up_proj",
    "out_proj",
    "fc1",
    "fc2",
]
PROJECTIONS: list[Projection] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
]
"""Projections of most models; Phi-3 has qkv_proj, o_proj, gate_up_proj and down_proj, OPT q_proj,
k_proj, v_proj, out_proj, fc1 and fc2."""


class ModelSettings(Table):
    """[model]: the base model and where LoRA goes."""

    base: str = "default"
    """"default", a folder, or a name on the Hugging Face hub."""
    r_max: int = Field(default=16, ge=1, le=64)
    target_modules: list[Projection] = Field(default=PROJECTIONS, min_length=1)


def _threads(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= 256):
        return value
    raise ValueError("must be 'auto' or a whole number from 1 to 256")


class FinetuneSettings(Table):
    """[finetune]: what the cloud does in a round."""

    steps: int = Field(default=50, ge=1, le=100_000)
    batch: int = Field(default=32, ge=1, le=4096)
    learning_rate: float = Field(default=3e-3, gt=0, le=1)
    alpha: float = Field(default=32.0, gt=0, le=4096)
    max_tokens: int = Field(default=128, ge=8, le=MAX_SCORED_TOKENS)
    """Longer examples are cut or divided (docs/your-own-text.md); an edge has room for no more."""
    threads: Annotated[int | Literal["auto"], BeforeValidator(_threads)] = "auto"
    """Threads of torch. "auto": OMP_NUM_THREADS where it is set, else one for each core that this
    process may run on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    plan_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a round's steps, its last ones, that what is sent takes within the plan: it learns
    to do without what is not sent. The training at r_max takes them too, and goes on from there. 0
    = what is sent is cut from that."""
    resume_from: str = ""
    """A state that an earlier run left (finetune.safetensors) to go on from; "" = start from the
    base model."""

    start_from: str = ""
    """An adapter's folder of PEFT that the first round starts from; "" = start from the base
    model."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.start_from and self.resume_from:
            raise ValueError("start_from and resume_from: a training has one start, leave one out")
        return self

    @property
    def plan_steps(self) -> int:
        """Steps of a round that are taken within its plan; at least one if there is a share of
        them."""
        return max(1, round(self.plan_share * self.steps)) if self.plan_share else 0


class EnvironmentSettings(Table):
    """[environment]: what the training environment assumes of link and measurement."""

    link: Literal["shannon", "modem"] = "modem"
    """The goodput of this kit's own modem as calibrated, or a share of the channel's capacity."""
    efficiency: float = Field(default=0.55, gt=0, le=1)
    """That share; for "shannon"."""
    snr_error_db: float = Field(default=0.0, ge=-30, le=30)
    """Added to every reported SNR."""
    snr_std_db: float = Field(default=0.1, ge=0, le=10)
    """Standard deviation of the measurement."""
    snr_age_rounds: int = Field(default=0, ge=0, le=1000)
    """Rounds that the reported SNR lags behind."""
    snr_missing_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of rounds whose sounding goes unanswered: they are planned by the last one that was
    answered."""


class StreamsSettings(Table):
    """[streams]: rounds that are trained once at r_max and kept, to train and compare policies
    on."""

    rounds: int = Field(default=6, ge=2, le=64)
    dwell: int = Field(default=2, ge=1, le=64)
    """Rounds that a domain stays."""
    train: int = Field(default=20, ge=1, le=10_000)
    select: int = Field(default=5, ge=1, le=10_000)
    report: int = Field(default=10, ge=1, le=10_000)
    seeds: int = Field(default=5, ge=1, le=1000)
    """Training seeds of every stream that is reported on, and policy seeds of what is learnt."""
    items: int = Field(default=48, ge=2, le=100_000)
    """Score items of a round that a step's forward pass computes."""
    steps: int = Field(default=60, ge=1, le=100_000)
    batch: int = Field(default=16, ge=1, le=4096)
    domains: list[str] = Field(
        default=[
            "jargon40",
            "jargon150",
            "jargon400",
            "mixed100",
            "mixed200",
            "email+http",
            "logging+xml",
        ],
        min_length=1,
    )
    """Domains of the default text; each stream draws its own order from these."""
    cache: str = ""
    """Folder of trained streams; "" = the user's cache."""

    @property
    def cache_folder(self) -> Path:
        """Where trained streams are kept."""
        return Path(self.cache) if self.cache else user_folders.cache_folder() / "streams"


class CodecSettings(Table):
    """[codec]: how an update becomes bytes."""

    coefficient_bits: Literal[4, 8] = 4
    """Bits of a coefficient of a direction's vectors. With 4 the same loss takes half the payload
    that it takes with 8 (docs/results.md)."""


class ControlSettings(Table):
    """[control]: how the two halves talk beside the radio."""

    url: str = Field(default="inprocess:", pattern=r"^(inprocess:|mqtt://[^/\s]+)$")
    secrets_file: str = ""
    """File with the broker's user on the first line and the password on the second; "" =
    anonymous."""
    device: str = Field(default="edge-0", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    timeout_s: float = Field(default=60.0, gt=0, le=3600)


class EdgeSettings(Table):
    """[edge]: the quantised model and the process that serves it."""

    quant: Literal["F16", "Q8_0", "Q4_0", "Q4_K_M"] = "Q4_K_M"
    threads: int = Field(default=1, ge=1, le=256)
    cache: str = ""
    """Folder of quantised models; "" = the user's cache."""
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    max_rank: int = Field(default=64, ge=1, le=255)
    """An edge refuses an update with a larger rank in any module."""
    max_frobenius: float = Field(default=1e3, gt=0, le=1e6)
    """It refuses one whose ΔW in any module has a larger Frobenius norm."""
    max_rise_nats: float = Field(default=3.0, gt=0, le=100)
    """It refuses one with which the loss on the offered score set rises by more than this over the
    bare base model's, nats per token."""

    @property
    def cache_folder(self) -> Path:
        """Where quantised models are kept."""
        return Path(self.cache) if self.cache else user_folders.cache_folder() / "edge"


class CalibrationSettings(Table):
    """[calibration]: what was measured of this bench."""

    folder: str = ""
    """Folder of the records, by serial number of the radio; "" = the user's data."""
    max_age_h: float = Field(default=168.0, gt=0, le=87_600)
    """Older records are used with a warning."""

    @property
    def records_folder(self) -> Path:
        """Where records are kept."""
        return Path(self.folder) if self.folder else user_folders.data_folder() / "calibration"


def _default_kind(kind: str) -> BeforeValidator:
    """A table that does not name its kind is of the default kind."""
    return BeforeValidator(
        lambda table: {"kind": kind, **table} if isinstance(table, dict) else table
    )


class Settings(Table):
    """A whole hil.toml."""

    run: RunSettings = RunSettings()
    budget: BudgetSettings = BudgetSettings()
    text: Annotated[
        Annotated[DefaultText | FileText | HubText, _Kind], _default_kind("default")
    ] = DefaultText()
    model: ModelSettings = ModelSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    policy: Annotated[Annotated[AnyPolicy, _Kind], _default_kind("ours")] = OursPolicy()
    codec: CodecSettings = CodecSettings()
    radio: Annotated[Annotated[LoopbackRadio | PlutoRadio, _Kind], _default_kind("loopback")] = (
        LoopbackRadio()
    )
    control: ControlSettings = ControlSettings()
    edge: EdgeSettings = EdgeSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    streams: StreamsSettings = StreamsSettings()
    calibration: CalibrationSettings = CalibrationSettings()

    @property
    def simulated_radio(self) -> LoopbackRadio:
        """[radio], where the air has to be simulated. Raises ConfigError for real radios."""
        if isinstance(self.radio, LoopbackRadio):
            return self.radio
        raise ConfigError(
            f"radio.kind = {self.radio.kind!r}: this needs simulated air; set radio.kind = "
            "'loopback'"
        )
