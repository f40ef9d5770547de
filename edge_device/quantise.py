"""Runs llama.cpp's own quantiser on one file: `python -m edge_device.quantise SOURCE TARGET QUANT
THREADS`.

A process of its own, because llama.cpp ends the process that it fails in.
"""

from __future__ import annotations

import ctypes
import sys

FTYPES = {
    "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
}
"""Quantisation as hil.toml names it → the constant of llama.h."""


def main(arguments: list[str]) -> int:
    """llama.cpp's return code, 0 on success; its log goes to standard error."""
    import llama_cpp  # only here: the parent must not load the library

    source, target, quant, threads = arguments
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, FTYPES[quant])
    params.nthread = int(threads)
    return int(
        llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
