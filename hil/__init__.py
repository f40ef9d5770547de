"""The spine: shared words below, the loop above."""

import os

__version__ = "0.2.0"

# Before numpy and torch are loaded; what the user has set stays.
# Small matrices lose by BLAS threads, and figures must not depend on their number.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A thread that waits for another one sleeps. Where it spins, as is the default, it takes the core
# that the other one needs as soon as anything else runs on the computer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
