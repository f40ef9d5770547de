"""Moves bytes through the air, and says how it went."""
