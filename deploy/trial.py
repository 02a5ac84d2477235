"""A federation for a trial on this machine: a hub as `rounds provision` makes it, sites with the demo's data, a job."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOST = "127.0.0.1"
PATIENCE_SECONDS = 600


def free_ports(count):
    """Ports that nobody listens on now."""
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def run(*command, **options):
    """Runs a command to its end: what it printed."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def parse(documentation, *more, **flags):
    """The arguments of a script that holds a trial, and needs root; `more` are further files, `flags` what they are for."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    for name in ("program", "mni", "nats_server", *more):
        parser.add_argument(name, type=lambda path: Path(path).resolve())
    parser.add_argument("--dataset-id", type=int, default=100, help="the XYZ of the demo's data sets")
    for name, what in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("it needs root")
    return arguments


class Background:
    """Processes in a new folder; both end with the block."""

    def __enter__(self):
        self.running = {}
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.temporary.cleanup()

    def start(self, name, *command, cwd=None, env=None):
        """Starts one, with a log of its own."""
        log = (self.folder / f"{name}.log").open("a")
        command = [str(part) for part in command]
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env=env)

    def kill(self, name):
        """Kills one."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def said(self, name):
        """Its log."""
        return (self.folder / f"{name}.log").read_text()

    def check(self):
        """Ends the script where one has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                sys.exit(f"{name} has ended:\n{self.said(name)}")

    def until(self, what, holds):
        """Waits for something, and gives what told that it holds."""
        for _ in range(PATIENCE_SECONDS * 5):
            if found := holds():
                return found
            self.check()
            time.sleep(0.2)
        logs = "\n".join(f"== {name}\n{self.said(name)[-3000:]}" for name in self.running)
        sys.exit(f"{what}: not within {PATIENCE_SECONDS} s\n{logs}")


def debian(root, *packages):
    """A minimal Debian with the packages, from where this machine has its own."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    mirror = re.search(r"^(?:URIs: *|deb +(?:\[[^]]*\] +)?)(\S+)", text, re.MULTILINE)
    include = [f"--include={','.join(packages)}"] if packages else []
    run("debootstrap", "--variant=minbase", *include, "bookworm", root, *([mirror.group(1)] if mirror else []))


def data_sets(program, mni, folder):
    """The demo's raw data sets, by site; its training is not waited for."""
    log = folder / "demo.log"
    command = [program, "demo", "--home", folder / "demo", "--mni", mni, "--rounds", "1", "--iterations", "1"]
    with log.open("w") as out:
        demo = subprocess.Popen([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT)
    while "fingerprint" not in log.read_text():
        if demo.poll() is not None:
            sys.exit(f"the demo failed:\n{log.read_text()}")
        time.sleep(0.2)
    demo.terminate()
    demo.wait()
    return {path.parent.name: path for path in (folder / "demo/demo").glob("*/Dataset*")}


def edit(file, *pairs):
    """Edits a generated file as its comments say."""
    text = file.read_text()
    for found, wanted in pairs:
        if found not in text:
            sys.exit(f"{file}: no {found!r} in\n{text}")
        text = text.replace(found, wanted)
    file.write_text(text)


def through_leaf(settings):
    """Edits a site's generated settings: its own nats-server in the place of the hub."""
    text = settings.read_text()
    start, end = text.index("[nats]"), text.index("# Through this site's own nats-server")
    own = '[nats]\nurl = "nats://127.0.0.1:4222"\nnkey = "site.nk"\napi_prefix = "HUB.API"\n'
    settings.write_text(text[:start] + own + text[end:])


class Trial:
    """A hub and its sites in the folder of `background`, whose processes they are.

    `hub_flags` are `rounds provision hub`'s, beside its name and address.
    """

    def __init__(self, arguments, background, *hub_flags):
        self.program, self.server, self.dataset_id = arguments.program, arguments.nats_server, arguments.dataset_id
        self.background, self.folder = background, background.folder
        self.data = data_sets(self.program, arguments.mni, self.folder)
        self.hub = self.folder / "hub"
        run(self.program, "provision", "hub", self.hub, "--name", "check", "--host", HOST, "--listen", HOST, *hub_flags)
        self.me = ["--submitter", self.provision("submitter", "lead") / "submitter.toml"]

    def provision(self, kind, name):
        """The folder that the hub makes for a site or a submitter."""
        return Path(run(self.program, "provision", kind, name, "--hub", self.hub))

    def start_server(self):
        """Starts the hub's nats-server. What is provisioned later it does not know."""
        self.background.start("hub", self.server, "-c", "nats.conf", cwd=self.hub / "nats")

    def orchestrator(self):
        """The orchestrator's settings, edited as their comments say."""
        settings = self.hub / "orchestrator/orchestrator.toml"
        edit(settings, ("/srv/rounds/orchestrator", str(self.folder / "orchestrator")))
        return settings

    def site(self, name):
        """The settings of a new site on this machine, edited as their comments say."""
        settings = self.provision("site", name) / "site.toml"
        edit(settings, (f"/srv/rounds/{name}", str(self.folder / name)),
             (f"/data/nnUNet_raw/Dataset001_{name}", str(self.data[name])))
        return settings

    def ready(self, *names):
        """Waits for processes that said so in their logs."""
        for name in names:
            self.background.until(f"{name} is ready", lambda name=name: "ready" in self.background.said(name))

    def train(self, job, rounds, iterations, meanwhile=lambda: None):
        """Trains the demo's data of both sites, and prints the job."""
        message = {
            "job_id": job,
            "datasets": ["east", "north"],
            "payload": {"mode": "training", "num_rounds": rounds, "dataset_id": self.dataset_id, "device": "cpu",
                        "model_configuration": "2d"},
            "federation": {"iterations_per_epoch": iterations, "val_iterations_per_epoch": 1},
        }
        (self.folder / "job.json").write_text(json.dumps(message))
        run(self.program, "submit", *self.me, self.folder / "job.json")

        def finished():
            meanwhile()
            listed = run(self.program, "list", *self.me)
            if "failed" in listed:
                sys.exit(run(self.program, "show", *self.me, job))
            return "finished" in listed

        self.background.until("the job ends", finished)
        print(run(self.program, "show", *self.me, job))
