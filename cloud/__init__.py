"""Decides and learns: text, fine-tuning, rank policies."""
