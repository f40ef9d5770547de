"""A radio as the loop sees it, round by round: simulated, or one or two ADALM-Plutos."""
