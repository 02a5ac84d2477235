"""Which Python the oracle runs on, and so whose torch wheel is fetched."""

import shutil
import subprocess
import sys

# The versions that torch 2.11.0 and all of oracle.txt have wheels for.
FITTING = ["3.11", "3.12", "3.13", "3.14"]
PROBE = "import sys, venv; print('%d.%d' % sys.version_info[:2])"


def running():
    """The running interpreter's version, as in "3.12"."""
    return "%d.%d" % sys.version_info[:2]


def find():
    """The oracle's interpreter and its version: the running one where it fits, else one on the PATH, else None."""
    if running() in FITTING:
        return sys.executable, running()
    for version in FITTING:
        found = shutil.which(f"python{version}")
        if found is None:
            continue
        probe = subprocess.run([found, "-c", PROBE], capture_output=True, text=True)
        if probe.stdout.strip() == version:
            return found, version
    return None


def tag():
    """The version whose torch wheel is fetched. libtorch is the same in all of them."""
    found = find()
    return found[1] if found is not None else FITTING[0]
