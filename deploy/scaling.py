#!/usr/bin/env python3
"""Shows how a site's preprocessing scales: the queue as KEDA reads it, and how long 1, 2 and 4 workers take for it.

Everything is real: nats-server with its monitoring port, an orchestrator, a site, workers of one thread each. The lag
that KEDA's nats-jetstream scaler would compute must be the orchestrator's metrics, or this fails.
"""

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
import urllib.request
from pathlib import Path


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def keda_lag(monitor, stream, consumer):
    """As KEDA's nats_jetstream_scaler computes it: waiting and unanswered messages of the durable consumer."""
    url = f"http://{monitor}/jsz?acc=$G&consumers=true&config=true"
    for account in json.load(urllib.request.urlopen(url))["account_details"]:
        for detail in account.get("stream_detail", []):
            for found in detail.get("consumer_detail", []):
                if detail["name"] == stream and found["name"] == consumer:
                    return found["num_pending"] + found["num_ack_pending"]
    return None


class Federation:
    """A hub and one site in a folder."""

    def __init__(self, program, data, folder, slots):
        self.program, self.folder = program, folder
        self.processes = []
        self.url = f"nats://127.0.0.1:{free_port()}"
        self.monitor, self.metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
        conf = folder / "nats.conf"
        conf.write_text(
            f'listen: "{self.url.removeprefix("nats://")}"\nhttp: "{self.monitor}"\n'
            f'jetstream {{ store_dir: "{folder / "streams"}", max_file_store: 8G }}\n'
        )
        self.start("nats", "nats-server", "-c", conf)
        # One thread a worker, so that workers are what is counted.
        (folder / "site.toml").write_text(
            f'site = "s"\nroot = "{folder / "site"}"\nthreads = 1\nslots = {slots}\n[nats]\nurl = "{self.url}"\n'
            f'[[datasets]]\nid = "s"\npath = "{data}"\ndataset_id = 4\n'
        )
        (folder / "hub.toml").write_text(
            f'root = "{folder / "hub"}"\nmetrics = "{self.metrics}"\n[nats]\nurl = "{self.url}"\n'
        )
        self.start("hub", program, "orchestrator", folder / "hub.toml")
        self.wait_for("hub", "orchestrator ready")
        site = self.start("site", program, "site", folder / "site.toml", "--phases", "fingerprint,plan-verify")
        self.wait_for("site", "ready: ")
        self.site = site

    def start(self, name, *command):
        """Starts a process; what it says goes to a file of that name."""
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def wait_for(self, name, text):
        """Waits until a process has said something."""
        for _ in range(1200):
            said = (self.folder / f"{name}.log").read_text()
            if text in said:
                return
            if any(process.poll() not in (None, 0) for process in self.processes):
                break
            time.sleep(0.1)
        sys.exit(f"{name} did not say {text!r}:\n{said}")

    def run(self, *arguments):
        """Runs a command of the program: what it prints."""
        command = [self.program, *arguments, "--nats", self.url]
        return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout

    def queue(self):
        """Waiting and unanswered preprocess tasks, as the orchestrator's metrics say."""
        page = urllib.request.urlopen(f"http://{self.metrics}/metrics").read().decode()
        pattern = r'rounds_queue_(?:pending|ack_pending)_messages\{phase="preprocess",site="s"\} (\d+)'
        return sum(map(int, re.findall(pattern, page)))

    def stop(self):
        """Ends all processes."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()


def measure(program, data, workers, folder):
    """Seconds that so many workers take for the cases of the site."""
    federation = Federation(program, data, folder, workers)
    try:
        message = folder / "job.json"
        payload = {"mode": "training", "num_rounds": 1, "dataset_id": 4, "device": "cpu"}
        federation_of = {"shard_cases": 8, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}
        payload["model_configuration"] = "3d_fullres"
        message.write_text(json.dumps({"datasets": ["s"], "payload": payload, "federation": federation_of}))
        job = federation.run("submit", message).strip()
        while not (lag := keda_lag(federation.monitor, "ROUNDS_TASKS", "s_preprocess")):
            time.sleep(0.2)
        # The orchestrator looks every ten seconds.
        end = time.time() + 25
        while federation.queue() != lag and time.time() < end:
            time.sleep(0.5)
        if federation.queue() != lag:
            sys.exit(f"KEDA would see {lag} tasks; the metrics say {federation.queue()}")
        begun = time.time()
        for worker in range(workers):
            federation.start(f"worker-{worker}", program, "worker", folder / "site.toml", "preprocess")
        while '"phase": "train-round"' not in federation.run("show", "--json", job):
            time.sleep(0.2)
        return lag, time.time() - begun
    finally:
        federation.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="the built rounds")
    parser.add_argument("data", type=Path, help="an nnU-Net raw data set")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores\n{'workers':>8}{'backlog':>9}{'seconds':>9}{'ratio':>7}")
    first = None
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            lag, seconds = measure(arguments.program.resolve(), arguments.data.resolve(), workers, Path(folder))
        first = first or seconds
        print(f"{workers:>8}{lag:>9}{seconds:>9.1f}{first / seconds:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
