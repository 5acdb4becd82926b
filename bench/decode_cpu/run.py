#!/usr/bin/env python3
"""Tokens/s of writing (decode) on a CPU: quest next to llama.cpp. Writes bench/results/decode_cpu_<cpu>.md.

    bench/peer_llama/setup.sh && python3 bench/decode_cpu/run.py
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peer_llama"))
import compare  # noqa: E402

if __name__ == "__main__":
    compare.main("decode", __doc__)
