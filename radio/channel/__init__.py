"""Seeded impairments of the air and of the radios at its ends. Each takes samples and a Generator
and gives samples."""

from radio.channel.chain import Chain, Medium, RandomDelay
from radio.channel.clock_offset import ClockOffset
from radio.channel.fading import PlaneWaves, TappedDelayLine
from radio.channel.frontend import Clipping, DcOffset, IqImbalance, Quantisation, RappAmplifier
from radio.channel.loopback import Loopback, QueueFeedback
from radio.channel.noise import Awgn
from radio.channel.oscillator import FrequencyOffset, PhaseNoise
from radio.channel.presets import PRESETS, Figures, figures

__all__ = [
    "PRESETS",
    "Awgn",
    "Chain",
    "Clipping",
    "ClockOffset",
    "DcOffset",
    "Figures",
    "FrequencyOffset",
    "IqImbalance",
    "Loopback",
    "Medium",
    "PhaseNoise",
    "PlaneWaves",
    "Quantisation",
    "QueueFeedback",
    "RandomDelay",
    "RappAmplifier",
    "TappedDelayLine",
    "figures",
]
