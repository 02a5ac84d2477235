"""libtorch 2.11.0 out of the torch wheel: the CPU half, which needs 0.5 GB instead of 4 GB."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import interpreter
import wheels

VERSION = "2.11.0"
# libtorch_cpu.so of a CUDA wheel links these two. Its rpath looks for them in ../../nvidia/cu13/lib.
CUDA_PARTS = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
# What torch-sys would link when it sees it, and what only Python uses.
LEFT_OUT = re.compile(r"lib(torch_cuda|torch_nvshmem|torch_python|torch_global_deps|c10_cuda|caffe2_nvrtc|shm)")


def given():
    """The LIBTORCH of the environment, unless it is one that `just` has set up itself."""
    value = os.environ.get("LIBTORCH", "")
    parts = Path(value).parts
    ours = len(parts) > 2 and parts[-3] == ".tools" and parts[-2] in ("libtorch", "libtorch-cuda")
    return None if not value or ours else value


def torch_wheel(tools):
    """The torch wheel, that of the oracle's interpreter, so that one serves both."""
    return wheels.fetch(tools / "wheels", f"torch=={VERSION}", interpreter.tag())


def setup(tools):
    """Unpacks the CPU half of libtorch into `tools`/libtorch, unless LIBTORCH is set."""
    if given() is not None:
        print(f"libtorch: {given()} (LIBTORCH)")
        return
    if (tools / "libtorch-cuda" / ".stamp").is_file():
        print(f"libtorch: {tools / 'libtorch-cuda' / 'torch'} (CUDA)")
        return

    def make(folder):
        wheels.unpack(torch_wheel(tools), folder, member)
        for requirement in CUDA_PARTS:
            part = wheels.fetch(tools / "wheels", requirement)
            wheels.unpack(part, folder, lambda name: name if ".so" in name else None)
        link_without_cuda(folder / "torch" / "lib")

    stamp = f"libtorch {VERSION} {platform.machine()} 1\n"
    wheels.install(tools / "libtorch", stamp, make)
    print(f"libtorch: {tools / 'libtorch' / 'torch'}")


def member(name):
    """Where a member of the torch wheel goes: headers and the CPU's libraries."""
    if name.startswith("torch/include/"):
        return name
    folder, _, file = name.rpartition("/")
    if folder == "torch/lib" and ".so" in file and not LEFT_OUT.match(file):
        return name
    return None


def link_without_cuda(lib):
    """Replaces libtorch.so, which holds nothing but links to the CPU and the CUDA half, by a link to the CPU half."""
    (lib / "libtorch.so").unlink()
    command = [compiler(), "-shared", "-o", str(lib / "libtorch.so"), "-Wl,-soname,libtorch.so"]
    command += ["-Wl,--no-as-needed", f"-L{lib}", "-ltorch_cpu", "-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined"]
    subprocess.run(command, check=True)


def compiler():
    """The C++ compiler, which torch-sys needs too."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise SystemExit("no C++ compiler: install g++ or clang++, or set CXX")


def setup_cuda(tools):
    """Installs the whole torch with its CUDA libraries into `tools`/libtorch-cuda, which `just build` then takes."""
    if given() is not None:
        print(f"libtorch: {given()} (LIBTORCH)")
        return

    def make(folder):
        wheel = wheels.fetch(tools / "wheels", f"torch=={VERSION}", interpreter.running())
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(command + ["--target", str(folder), str(wheel)], check=True)

    wheels.install(tools / "libtorch-cuda", f"torch {VERSION} with CUDA 1\n", make)
    print(f"libtorch: {tools / 'libtorch-cuda' / 'torch'} (CUDA)")
