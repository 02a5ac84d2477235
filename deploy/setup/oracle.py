"""Python nnU-Net 2.8.1, which the parity tests compare with, in a virtual environment of its own."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import interpreter
import libtorch
import stand_ins
import wheels

REQUIREMENTS = Path(__file__).with_name("oracle.txt")


def setup(tools):
    """Makes `tools`/oracle. A virtual environment cannot be moved, so it is made in place and stamped last."""
    found = interpreter.find()
    if found is None:
        raise SystemExit(f"the oracle needs Python {', '.join(interpreter.FITTING)}: none is on the PATH")
    python, version = found
    pinned = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = f"oracle on {version}, torch {libtorch.VERSION}, {pinned} 1\n"
    target = tools / "oracle"
    mark = target / ".stamp"
    if mark.is_file() and mark.read_text() == stamp:
        print(f"oracle: {target}")
        return
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        # The stamp first: what is left of a removal that is cut short must not pass.
        mark.unlink(missing_ok=True)
        shutil.rmtree(target)
    torch = libtorch.torch_wheel(tools)
    parts = [wheels.fetch(tools / "wheels", requirement) for requirement in libtorch.CUDA_PARTS]
    subprocess.run([python, "-m", "venv", str(target)], check=True)
    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    print("installing Python nnU-Net", flush=True)
    folder = tools / "wheels" / f"oracle-{version}-{pinned[:12]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=tools / "wheels", prefix=".oracle-") as partial:
            # pip wheel, as some of them are published as source only.
            subprocess.run(pip + ["wheel", "-q", "--no-deps", "-w", f"{partial}/all", "-r", str(REQUIREMENTS)], check=True)
            os.rename(f"{partial}/all", folder)
        total = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
        print(f"fetched {len(list(folder.glob('*.whl')))} wheels for the oracle, {total / 1e6:.0f} MB")
    install = pip + ["install", "-q", "--no-deps", "--no-index", "--find-links", str(folder)]
    subprocess.run(install + ["-r", str(REQUIREMENTS), str(torch)] + [str(part) for part in parts], check=True)
    (site,) = (target / "lib").glob("python*/site-packages")
    stand_ins.make(site / "torch" / "lib", site / "nvidia" / "cu13" / "lib")
    check = "import torch, nnunetv2, pydantic, nats; print('oracle: torch', torch.__version__)"
    subprocess.run([str(target / "bin" / "python"), "-c", check], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    mark.write_text(stamp)
