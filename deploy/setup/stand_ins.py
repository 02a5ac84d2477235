"""Stand-ins for the CUDA libraries that Python torch links and a CPU never calls: kilobytes instead of 3 GB.

Each defines the functions that torch's libraries name; one that is called all the same says so and aborts.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import libtorch

# Library to the version its symbols carry, and to the names of those that carry none.
LIBRARIES = {
    "libcublas.so.13": ("libcublas.so.13", None),
    "libcublasLt.so.13": ("libcublasLt.so.13", None),
    "libcudnn.so.9": ("libcudnn.so.9", None),
    "libcufft.so.12": ("libcufft.so.12", None),
    "libcufile.so.0": (None, r"cuFile"),
    "libcurand.so.10": ("libcurand.so.10", None),
    "libcusolver.so.12": ("libcusolver.so.12", None),
    "libcusparse.so.12": ("libcusparse.so.12", None),
    "libcusparseLt.so.0": (None, r"cusparseLt"),
    "libnccl.so.2": (None, r"nccl"),
    "libnvrtc.so.13": ("libnvrtc.so.13", None),
    "libnvshmem_host.so.3": ("NVSHMEM", None),
    "libcuda.so.1": (None, r"cu[A-Z](?!File)"),
}


def undefined(lib):
    """(name, version or None) of every function that torch's libraries leave to others."""
    symbols = set()
    for library in sorted(lib.glob("*.so")):
        listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
        for line in listed.stdout.splitlines():
            name, _, version = line.split()[-1].partition("@")
            symbols.add((name, version.lstrip("@") or None))
    return symbols


def make(lib, into):
    """Makes the stand-ins for torch's libraries in `lib`, in the folder `into`, which their rpath names."""
    symbols = undefined(lib)
    for library, (version, pattern) in LIBRARIES.items():
        if version is not None:
            names = sorted(name for name, found in symbols if found == version)
        else:
            names = sorted(name for name, found in symbols if found is None and re.match(pattern, name))
        compile_one(into / library, names, version)


def compile_one(target, names, version):
    """Compiles one stand-in: each name a function that aborts."""
    called = f"a stand-in for {target.name} was called: this torch runs on the CPU only"
    source = ["#include <stdio.h>", "#include <stdlib.h>"]
    source += [f'static void called(void) {{ fputs("{called}\\n", stderr); abort(); }}']
    source += [f"void {name}(void) {{ called(); }}" for name in names]
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "stand_in.c"
        code.write_text("\n".join(source) + "\n")
        command = [libtorch.compiler(), "-x", "c", "-shared", "-fPIC", "-fno-builtin", "-o", str(target), str(code)]
        command.append(f"-Wl,-soname,{target.name}")
        if version is not None:
            script = Path(folder) / "versions"
            script.write_text(f"{version} {{ global: *; }};\n")
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)
