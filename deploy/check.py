#!/usr/bin/env python3
"""Checks what deploy/ ships, each with the tools of those who read it. `just check-deploy` brings what it needs.

Settings files are read by the tests of the program itself.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What a compose file asks for.
ENVIRONMENT = {"SITE_A": "/data/a", "SITE_B": "/data/b", "ROUNDS_DATA": "/data"}
# 0 is the most and 10 the least protected.
MOST_EXPOSED = {"rounds-leaf": 2.5, "rounds-nats": 2.5, "rounds-orchestrator": 2.5, "rounds-site": 3.0, "rounds-worker@": 3.0}


def run(*command, **more):
    """Runs a command and gives what it printed; ends where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def dockerfile(tools):
    """hadolint finds nothing."""
    print(run(tools / "hadolint", HERE / "Dockerfile"), end="")


def compose(_):
    """Docker's own reader takes the files, and merges what it should."""
    for file in sorted((HERE / "compose").glob("*.yml")):
        if file.name.startswith("prometheus"):
            run("promtool", "check", "config", "--syntax-only", file)
            continue
        # Debian's reader wants a version; without one newer ones take it as the newest.
        text = 'version: "3.9"\n' + file.read_text()
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "a" / "b"
            place.mkdir(parents=True)
            (place / file.name).write_text(text)
            run("docker-compose", "-f", place / file.name, "config", "--quiet", env=os.environ | ENVIRONMENT)


def kubernetes(tools):
    """Every overlay renders, and holds only what Kubernetes and KEDA know."""
    for overlay in sorted((HERE / "kubernetes/overlays").iterdir()):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as rendered:
            rendered.write(run("kubectl", "kustomize", overlay))
            rendered.flush()
            said = run(tools / "kubernetes-validate", "--strict", "--kubernetes-version", "1.32", rendered.name)
            unknown = [line for line in said.splitlines() if line.startswith("WARN") and "keda.sh" not in line]
            if unknown:
                sys.exit("\n".join(unknown))
            run("node", HERE / "keda.mjs", rendered.name)


def units(_):
    """systemd knows every key, and finds the services well closed in."""
    with tempfile.TemporaryDirectory() as folder:
        for unit in sorted((HERE / "systemd").glob("*.service")):
            # The programs need not be installed here.
            text = re.sub(r"/usr/local/bin/(rounds|nats-server)", "/bin/true", unit.read_text())
            copy = Path(folder) / unit.name.replace("@", "@train-round")
            copy.write_text(text)
            said = run("systemd-analyze", "verify", "--man=no", copy)
            if said.strip():
                sys.exit(f"{unit.name}: {said}")
            most = MOST_EXPOSED[unit.stem]
            run("systemd-analyze", "security", "--offline=true", f"--threshold={int(most * 10)}", copy)


def scripts(tools):
    """shellcheck finds nothing."""
    run(tools / "shellcheck", HERE / "slurm/train-round.sbatch")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", type=Path, help="the folder with hadolint, kubernetes-validate and shellcheck")
    tools = parser.parse_args().tools
    for check in (dockerfile, compose, kubernetes, units, scripts):
        check(tools)
        print(f"{check.__name__}: {check.__doc__}", flush=True)


if __name__ == "__main__":
    main()
