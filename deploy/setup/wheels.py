"""Wheels from PyPI: fetched with pip, kept in one folder, unpacked in part.

A wheel that lies in the folder is not fetched again, so one torch wheel serves libtorch and the oracle.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# glibc 2.28 (RHEL 8, Debian 10, Ubuntu 20.04) is what torch 2.11's wheels ask for.
LINUX_TAGS = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_25", "manylinux_2_17", "manylinux2014"]


def platforms():
    """The wheel platforms of this machine, as pip's --platform takes them."""
    machine = platform.machine()
    if sys.platform == "linux":
        return [f"{tag}_{machine}" for tag in LINUX_TAGS]
    raise SystemExit(f"{sys.platform}: Rounds is set up on Linux only; set LIBTORCH to a libtorch 2.11.0 of your own")


def fetch(folder, requirement, python=None):
    """The path of the wheel of `requirement` ("name==version"), fetched into `folder` unless it is there.

    `python` ("3.11") picks the wheel of that interpreter; without it the wheel must not depend on one.
    """
    folder = Path(folder)
    name, _, version = requirement.partition("==")
    stem = name.replace("-", "_")
    pattern = f"{stem}-{version}-*.whl" if python is None else f"{stem}-{version}-cp{python.replace('.', '')}-*.whl"
    for found in sorted(folder.glob(pattern)):
        return found
    print(f"fetching {requirement}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    # Into a folder of its own, then renamed: a killed fetch leaves no half wheel under the final name.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as partial:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", partial]
        for tag in platforms():
            command += ["--platform", tag]
        if python is not None:
            command += ["--python-version", python, "--implementation", "cp"]
        subprocess.run(command + [requirement], check=True)
        (wheel,) = Path(partial).glob("*.whl")
        final = folder / wheel.name
        os.replace(wheel, final)
    return final


def unpack(wheel, into, wanted):
    """Unpacks the members of `wheel` for which `wanted(name)` gives a path below `into`, with their modes."""
    count = 0
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            target = None if member.is_dir() else wanted(member.filename)
            if target is None:
                continue
            path = Path(into) / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            mode = (member.external_attr >> 16) & 0o777
            path.chmod(mode or 0o644)
            count += 1
    if count == 0:
        raise SystemExit(f"{wheel}: holds nothing of what was expected")


def install(target, stamp, make):
    """Makes the folder `target` with `make(folder)`, unless the one that is there carries the same `stamp`.

    The folder appears whole or not at all: it is made beside its place and renamed.
    Returns True when it was made now.
    """
    target = Path(target)
    mark = target / ".stamp"
    if mark.is_file() and mark.read_text() == stamp:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    partial.chmod(0o755)
    try:
        make(partial)
        (partial / ".stamp").write_text(stamp)
        old = None
        if target.exists() or target.is_symlink():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=".old-"))
            os.rename(target, old / target.name)
        os.rename(partial, target)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True
