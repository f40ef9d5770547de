"""Loading the modem's machine code before the first burst depends on it."""

from __future__ import annotations

from typing import Final

from radio.link.adaptation import Adaptation
from radio.link.receiver import Receiver
from radio.link.sender import Sender

_RATE_HZ: Final = 1e6
_SNR_DB: Final = 20.0


def warm_up() -> None:
    """Send and receive one burst that is never on the air; about a second, once a process.

    Without it the first soundings of a run go unanswered, for that is how long loading takes.
    """
    receiver = Receiver(epoch=0)
    sender = Sender(b"never on the air", session=0, adaptation=Adaptation(), snr_db=_SNR_DB)
    for burst in sender.window(2**20, 0.0):
        receiver.feed(burst.iq, _RATE_HZ)
        receiver.flush(_RATE_HZ)
        if (answer := receiver.feedback()) is not None:
            sender.on_feedback(answer.pack())
