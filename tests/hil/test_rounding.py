"""Ceilings of whole numbers."""

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from hil.rounding import ceil_div


@given(st.integers(-(10**40), 10**40), st.integers(1, 10**20))
def test_ceilings_are_exact_where_floats_are_not(dividend: int, divisor: int) -> None:
    assert ceil_div(dividend, divisor) == ceil(Fraction(dividend, divisor))
