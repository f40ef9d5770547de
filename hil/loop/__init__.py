"""The closed loop: one round and many, in one process or in two."""
