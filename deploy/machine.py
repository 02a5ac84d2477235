#!/usr/bin/env python3
"""Installs a site on a fresh machine with systemd, word for word as OPERATIONS.md says, and trains there.

    deploy/machine.py target/release/rounds .tools/mni .tools/bin/nats-server target/bundle/rounds-*.tar.gz

The machine is a minimal Debian (debootstrap) that systemd-nspawn boots, in this machine's network. It gets the archive,
a data set, and the folder that the hub made for the site, edited as its comments say: the site's own nats-server dials
the hub as a leaf node. The commands under "From one archive" are what it then runs. A second site joins from here.
Needs root, debootstrap and systemd-nspawn.
"""

import shutil
import sys
import time
from pathlib import Path

from trial import Background, Trial, debian, edit, free_ports, parse, run, through_leaf

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


def machine(root, archive, data, folder):
    """The machine's disk: what it is given, and what it is to do."""
    debian(root, "systemd", "systemd-sysv", "dbus")
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


def check(arguments, background):
    """Sets up the hub and a site here, and the machine, and trains."""
    port, leaf = free_ports(2)
    trial = Trial(arguments, background, "--port", port, "--leaf-port", leaf)
    here, there = trial.site("east"), trial.provision("site", "north")
    trial.start_server()
    background.start("orchestrator", trial.program, "orchestrator", trial.orchestrator())
    background.start("east", trial.program, "site", here)

    root = background.folder / "machine"
    machine(root, arguments.archive, trial.data["north"], there)
    # Where no systemd runs, nobody is there to be told of the machine.
    alone = [] if Path("/run/systemd/system").is_dir() else ["--register=no", "--keep-unit"]
    background.start("machine", "systemd-nspawn", "--quiet", "--console=pipe", *alone, "-D", root, "-b")
    begun, log = time.monotonic(), root / "root/install.log"
    background.until("the installation ends", lambda: log.is_file() and "\nended with" in log.read_text())
    print(f"{log.read_text()}\ninstalled in {time.monotonic() - begun:.0f} s, the machine's start included", flush=True)
    if not log.read_text().endswith("ended with 0\n"):
        sys.exit("the installation failed")
    trial.train("under-systemd", rounds=2, iterations=2)


if __name__ == "__main__":
    arguments = parse(__doc__, "archive")
    with Background() as background:
        check(arguments, background)
