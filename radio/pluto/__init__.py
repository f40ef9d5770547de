"""Real ADALM-Plutos, each in a process of its own, and the permission to transmit."""
