"""Policies side by side: the grid that is run, what it came to, and how sure that is."""
