"""Work at the bench: check it, calibrate it, emulate it, break it, record it."""
