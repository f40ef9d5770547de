"""The spine: shared words below, the loop above."""

import os

# Before numpy is loaded: small matrices lose by BLAS threads, and figures must not depend on their
# number.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
