"""Rank policies: from an observation of the round to the rank of every module."""
