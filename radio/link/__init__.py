"""A payload across: the two ends of the link, what they say to each other, and what it costs."""

from radio.link.adaptation import Adaptation, usable
from radio.link.block_store import BlockStore
from radio.link.both_ends import Link
from radio.link.budget import airtime_s, payload_bits
from radio.link.capacity import LinkModel, ModemLink, ShannonLink, sample_rate_hz
from radio.link.receiving_end import ReceivingEnd
from radio.link.sending_end import AnswerTaken, BurstSent, SendingEnd
from radio.link.session import OCCUPIED_SUBCARRIERS, Limits, Sounding

__all__ = [
    "OCCUPIED_SUBCARRIERS",
    "Adaptation",
    "AnswerTaken",
    "BlockStore",
    "BurstSent",
    "Limits",
    "Link",
    "LinkModel",
    "ModemLink",
    "ReceivingEnd",
    "SendingEnd",
    "ShannonLink",
    "Sounding",
    "airtime_s",
    "payload_bits",
    "sample_rate_hz",
    "usable",
]
