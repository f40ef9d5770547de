"""Records that cross a package boundary, the seams between packages, and the errors.

Only numpy and the standard library may be imported here.
"""

from hil.contract.arrays import (
    IQ,
    Bools,
    Floats,
    Floats32,
    Ints,
)
from hil.contract.errors import (
    CalibrationError,
    CodecError,
    ConfigError,
    ControlError,
    DeviceError,
    HilError,
    ModelError,
    TextError,
)
from hil.contract.records import (
    KEEP,
    BaseSpec,
    Budget,
    ChannelState,
    Keep,
    LinkReport,
    LoraUpdate,
    LowRankFactors,
    MeasuredLoss,
    RankPlan,
    Receipt,
    ReceiptStatus,
    Residuals,
    RoundObservation,
    RoundSummary,
    TextState,
)
from hil.contract.score_set import (
    LabelQuestion,
    ScoreSet,
)
from hil.contract.seams import (
    ChannelModel,
    Clock,
    FeedbackPath,
    FeedbackReceiver,
    FeedbackSender,
    RankPolicy,
    Transceiver,
)

__all__ = [
    "IQ",
    "KEEP",
    "BaseSpec",
    "Bools",
    "Budget",
    "CalibrationError",
    "ChannelModel",
    "ChannelState",
    "Clock",
    "CodecError",
    "ConfigError",
    "ControlError",
    "DeviceError",
    "FeedbackPath",
    "FeedbackReceiver",
    "FeedbackSender",
    "Floats",
    "Floats32",
    "HilError",
    "Ints",
    "Keep",
    "LabelQuestion",
    "LinkReport",
    "LoraUpdate",
    "LowRankFactors",
    "MeasuredLoss",
    "ModelError",
    "RankPlan",
    "RankPolicy",
    "Receipt",
    "ReceiptStatus",
    "Residuals",
    "RoundObservation",
    "RoundSummary",
    "ScoreSet",
    "TextError",
    "TextState",
    "Transceiver",
]
