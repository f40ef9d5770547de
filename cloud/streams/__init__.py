"""Rounds that are trained once and kept, to train and compare policies on."""
