#!/usr/bin/env python3
"""Installs a site on a fresh machine with systemd, word for word as OPERATIONS.md says, and trains there.

    deploy/machine.py target/release/rounds .tools/mni .tools/bin/nats-server target/bundle/rounds-*.tar.gz

The machine is a minimal Debian (debootstrap) that systemd-nspawn boots, in this machine's network. It gets the archive,
a data set, and the folder that the hub made for the site, edited as its comments say: the site's own nats-server dials
the hub as a leaf node. The commands under "From one archive" are what it then runs. A second site joins from here.
Needs root, debootstrap and systemd-nspawn.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from network import Background, data_sets, edit, finished, free_ports, run, through_leaf

OPERATIONS = Path(__file__).parent / "OPERATIONS.md"
INSTALL = """[Unit]
Description=What OPERATIONS.md says

[Service]
Type=oneshot
WorkingDirectory=/root
ExecStart=/bin/sh -c 'sh -ex /root/install.sh; echo "ended with $$?"'
StandardOutput=append:/root/install.log
StandardError=append:/root/install.log

[Install]
WantedBy=multi-user.target
"""


def commands(archive):
    """The commands in OPERATIONS.md, which are of this archive."""
    section = OPERATIONS.read_text().split("## From one archive")[1].split("\n## ")[0]
    found = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    name = archive.name.removesuffix(".tar.gz")
    if not any(name in line for line in found):
        sys.exit(f"{OPERATIONS}: installs another archive than {name}")
    return "\n".join(found) + "\n"


def mirror():
    """Where this machine has its Debian packages from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    found = re.search(r"^(?:URIs: *|deb +(?:\[[^]]*\] +)?)(\S+)", text, re.MULTILINE)
    return [found.group(1)] if found else []


def machine(root, archive, data, folder):
    """The machine's disk: what it is given, and what it is to do."""
    run("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", "bookworm", root, *mirror())
    shutil.copy(archive, root / "root")
    shutil.copytree(data, root / "srv/data" / data.name)
    run("chmod", "-R", "a+rX", root / "srv/data")
    shutil.copytree(folder, root / "etc/rounds")
    edit(root / "etc/rounds/site.toml", ("/srv/rounds/north", "/var/lib/rounds"),
         ("/data/nnUNet_raw/Dataset001_north", f"/srv/data/{data.name}"))
    through_leaf(root / "etc/rounds/site.toml")
    (root / "root/install.sh").write_text(commands(archive))
    (root / "etc/systemd/system/install.service").write_text(INSTALL)
    run("systemctl", "--root", root, "enable", "install.service")


def check(arguments, folder, background):
    program, server = arguments.program.resolve(), arguments.nats_server.resolve()
    data = data_sets(program, arguments.mni.resolve(), folder)
    port, leaf = free_ports(2)
    hub, host, provision = folder / "hub", "127.0.0.1", [program, "provision"]
    run(*provision, "hub", hub, "--name", "check", "--host", host, "--listen", host, "--port", port, "--leaf-port", leaf)
    here = Path(run(*provision, "site", "east", "--hub", hub))
    there = Path(run(*provision, "site", "north", "--hub", hub))
    submitter = Path(run(*provision, "submitter", "lead", "--hub", hub))
    background.start("hub", server, "-c", "nats.conf", cwd=hub / "nats")
    orchestrator = hub / "orchestrator/orchestrator.toml"
    edit(orchestrator, ("/srv/rounds/orchestrator", str(folder / "orchestrator")))
    background.start("orchestrator", program, "orchestrator", orchestrator)
    edit(here / "site.toml", ("/srv/rounds/east", str(folder / "east")),
         ("/data/nnUNet_raw/Dataset001_east", str(data["east"])))
    background.start("east", program, "site", here / "site.toml")

    root = folder / "machine"
    machine(root, arguments.archive.resolve(), data["north"], there)
    # Where no systemd runs, nobody is there to be told of the machine.
    alone = [] if Path("/run/systemd/system").is_dir() else ["--register=no", "--keep-unit"]
    background.start("machine", "systemd-nspawn", "--quiet", "--console=pipe", *alone, "-D", root, "-b")
    begun, log = time.monotonic(), root / "root/install.log"
    background.until("the installation ends", lambda: log.is_file() and "\nended with" in log.read_text())
    print(f"{log.read_text()}\ninstalled in {time.monotonic() - begun:.0f} s, the machine's start included", flush=True)
    if not log.read_text().endswith("ended with 0\n"):
        sys.exit("the installation failed")

    job = {
        "job_id": "under-systemd",
        "datasets": ["east", "north"],
        "payload": {"mode": "training", "num_rounds": 2, "dataset_id": arguments.dataset_id, "device": "cpu",
                    "model_configuration": "2d"},
        "federation": {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1},
    }
    (folder / "job.json").write_text(json.dumps(job))
    me = ["--submitter", submitter / "submitter.toml"]
    run(program, "submit", *me, folder / "job.json")

    background.until("the job ends", lambda: finished(program, me, "under-systemd"))
    print(run(program, "show", *me, "under-systemd"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("program", "mni", "nats_server", "archive"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--dataset-id", type=int, default=100, help="the XYZ of the demo's data sets")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("a machine needs root")
    with tempfile.TemporaryDirectory() as folder:
        background = Background(Path(folder))
        try:
            check(arguments, Path(folder), background)
        finally:
            booted = background.running.pop("machine", None)
            if booted is not None:
                # systemd-nspawn has the machine shut itself down.
                booted.send_signal(signal.SIGTERM)
                booted.wait()
            background.stop()


if __name__ == "__main__":
    main()
