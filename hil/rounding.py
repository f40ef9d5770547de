"""Whole numbers that a division is rounded to."""

from __future__ import annotations


def ceil_div(dividend: int, divisor: int) -> int:
    """The smallest whole number ≥ dividend / divisor, exact however large they are.

    Args:
        dividend: any whole number.
        divisor: > 0.
    """
    return -(-dividend // divisor)
