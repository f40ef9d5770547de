"""`hil bench link`: the modem and the link against their bars, with trials, intervals, curves and
one page."""
