"""All that `hil calibrate` measures, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, get_args

from calibration.bench import Bench, Plan
from calibration.bench_mcs import measure_schemes
from calibration.compression import measure_compression
from calibration.gain import MAX_CFO, measure_rx_gain, measure_tx_attenuation
from calibration.image import measure_image
from calibration.noise import measure_noise
from calibration.oscillator import measure_offsets
from calibration.record import CalibrationRecord
from calibration.reference import measure_reference
from calibration.snr_sweep import Dial, measure_sweep, sweep_records
from hil.contract import CalibrationError
from radio.modem import mcs

Quantity = Literal["gain", "cfo", "snr"]
QUANTITIES: Final[tuple[Quantity, ...]] = get_args(Quantity)

OnProgress = Callable[[int, int, str], None]
"""(steps done, steps in all, what is measured now)."""
OnRecords = Callable[[Sequence[CalibrationRecord]], None]

Measure = Callable[[Bench, Plan], list[CalibrationRecord]]
_STEPS: Final[dict[Quantity, tuple[tuple[str, Measure], ...]]] = {
    "gain": (
        ("noise floor and DC offset", measure_noise),
        ("reference level", measure_reference),
        ("receive gain", measure_rx_gain),
        ("transmit attenuation", measure_tx_attenuation),
        ("compression and usable window", measure_compression),
        ("image rejection", measure_image),
    ),
    "cfo": (("carrier and clock offset", measure_offsets),),
    "snr": (),
}


def calibrate(
    quantities: Sequence[Quantity],
    bench: Bench,
    plan: Plan,
    *,
    on_progress: OnProgress = lambda done, total, what: None,
    on_records: OnRecords = lambda records: None,
) -> list[CalibrationRecord]:
    """Records of a bench. The transmitter is silent afterwards, also after an error.

    Args:
        quantities: members of QUANTITIES.
        bench: transmitter and receiver, open.
        plan: settings of the calibration.
        on_progress: called before each step, and once all is done.
        on_records: called with the records of each step as soon as they are there, so that none is
            lost to an error.

    Raises:
        CalibrationError: an unknown quantity, or something cannot be measured.
        DeviceError: a radio is broken.
    """
    unknown = sorted(set(quantities) - set(QUANTITIES))
    if unknown or not quantities:
        raise CalibrationError(
            f"cannot calibrate {', '.join(unknown) or 'nothing'}; choose of {', '.join(QUANTITIES)}"
        )
    _require_air(bench)
    chosen = [quantity for quantity in QUANTITIES if quantity in quantities]
    steps: list[tuple[str, Measure]] = []
    for quantity in chosen:
        steps += _STEPS[quantity]
    places = range(len(mcs.MCS_TABLE)) if plan.places is None else plan.places
    total = len(steps) + (1 + len(places) if "snr" in chosen else 0)
    done = 0
    records: list[CalibrationRecord] = []

    def step(what: str) -> None:
        nonlocal done
        on_progress(done, total, what)
        done += 1

    def keep(measured: list[CalibrationRecord]) -> None:
        records.extend(measured)
        on_records(measured)

    try:
        for what, measure in steps:
            step(what)
            keep(measure(bench, plan))
        if "snr" in chosen:
            step("SNR by two methods")
            sweep = measure_sweep(bench, plan)
            keep(sweep_records(bench, plan, sweep))
            keep(measure_schemes(bench, plan, Dial(sweep=sweep), on_scheme=step))
    finally:
        bench.silence()
    on_progress(total, total, "done")
    return records


def _require_air(bench: Bench) -> None:
    """Return if the receiver can hear the transmitter over something that has levels."""
    sender, receiver = bench.transmitter.settings, bench.receiver.settings
    if receiver.loopback != "none" or sender.loopback != "none":
        raise CalibrationError(
            'loopback = "digital" has no noise, gain or carrier to measure; use a cable with at '
            'least 30 dB, and "none"'
        )
    if abs(bench.lo_difference_hz) > MAX_CFO * bench.rate_hz or sender.rate_hz != receiver.rate_hz:
        raise CalibrationError(
            f"transmitter at {sender.tx_lo_hz:.0f} Hz with {sender.rate_hz:.0f} samples/s, "
            "receiver at "
            f"{receiver.rx_lo_hz:.0f} Hz with {receiver.rate_hz:.0f}: set both to the same"
        )
