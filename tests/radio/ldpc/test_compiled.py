import os
import subprocess
import sys

WORK = """
import numpy as np
from radio import ldpc
code = ldpc.code_for(24, 2)
ldpc.crc24a(np.zeros((1, 9), np.uint8))
ldpc.rate_recover(code, np.zeros((1, 96), np.float32), 2)
"""


def stderr_of_a_process(cache):
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stderr


def test_compilation_is_announced_once_and_only_when_the_disk_holds_no_kernels(tmp_path):
    cold = stderr_of_a_process(tmp_path)
    assert cold.count("\n") == 1
    assert cold.startswith("compiling the radio's kernels, once")
    assert stderr_of_a_process(tmp_path) == ""
