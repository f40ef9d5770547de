"""Measures the bench, one quantity a script."""
