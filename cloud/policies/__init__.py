"""Rank policies: from an observation of the round to the rank of every module."""

from cloud.policies.plans import keep_all, plan_bits, project, share_of, uniform

__all__ = ["keep_all", "plan_bits", "project", "share_of", "uniform"]
