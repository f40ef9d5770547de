"""Image rejection: how far below a tone its mirror image stands."""

from __future__ import annotations

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.gain import TONE, calibration_tone, heard_tone
from calibration.record import CalibrationRecord


def measure_image(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Record image_rejection, dB, of the receiver.

    The receiver mirrors what it hears: its image stands at minus the frequency at which the tone is
    heard. The transmitter's image was mirrored before the carrier offset and stands elsewhere,
    unless there is none.
    """
    bench.set(rx_gain_db=plan.rx_gain_db)
    ratios, hidden, together = [], False, False
    with bench.sending(calibration_tone(), tx_attenuation_db=plan.tx_attenuation_db):
        for _ in range(plan.repeats):
            iq = bench.capture(plan.samples)
            heard = heard_tone(bench, iq)
            image = levels.line_at(iq, -heard.frequency)
            hidden |= not image.visible
            together |= 2 * abs(heard.frequency - TONE) * len(iq) < 2 * levels.MAIN_LOBE_BINS
            ratios.append(
                float(levels.dbfs(heard.power) - levels.dbfs(max(image.power, image.noise)))
            )
    notes = []
    if hidden:
        notes.append("the image does not stand out of the noise: it is at least so far down")
    if together:
        notes.append("the carriers are equal: the transmitter's image is in it, too")
    return [
        bench.record(
            "image_rejection",
            "dB",
            ratios,
            rx_gain_db=plan.rx_gain_db,
            tx_attenuation_db=plan.tx_attenuation_db,
            notes=notes,
        )
    ]
