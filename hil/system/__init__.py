"""Processes, pipes, signals and whole files: what the kit asks of the operating system."""
