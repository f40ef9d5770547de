"""hil.toml as validated tables."""
