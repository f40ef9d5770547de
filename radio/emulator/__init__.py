"""A Pluto in software: radios that share a simulated ether, each behind the libiio network
protocol.

It proves software (drivers, protocol, buffers, scaling, recovery), never radio frequency; its model
says "emulated".
"""

from radio.emulator.server import EmulatedPlutos

__all__ = ["EmulatedPlutos"]
