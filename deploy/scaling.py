#!/usr/bin/env python3
"""Shows how a site's preprocessing scales: the queue as KEDA reads it, and how long 1, 2 and 4 workers take for it.

Everything is real: nats-server with its monitoring port, an orchestrator, a site, workers of one thread each. The lag
that KEDA's nats-jetstream scaler would compute must be the orchestrator's metrics, or this fails.
"""

import argparse
import json
import os
import re
import sys
import time
import urllib.request
from pathlib import Path

from trial import Background, free_ports, run


class Federation:
    """A hub and one site in the folder of `background`, whose processes they are."""

    def __init__(self, program, data, background, slots):
        self.program, folder = program, background.folder
        server, self.monitor, self.metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.url = f"nats://{server}"
        (folder / "nats.conf").write_text(
            f'listen: "{server}"\nhttp: "{self.monitor}"\n'
            f'jetstream {{ store_dir: "{folder / "streams"}", max_file_store: 8G }}\n'
        )
        background.start("nats", "nats-server", "-c", folder / "nats.conf")
        # One thread a worker, so that workers are what is counted.
        self.site = folder / "site.toml"
        self.site.write_text(
            f'site = "s"\nroot = "{folder / "site"}"\nthreads = 1\nslots = {slots}\n[nats]\nurl = "{self.url}"\n'
            f'[[datasets]]\nid = "s"\npath = "{data}"\ndataset_id = 4\n'
        )
        (folder / "hub.toml").write_text(
            f'root = "{folder / "hub"}"\nmetrics = "{self.metrics}"\n[nats]\nurl = "{self.url}"\n'
        )
        background.start("orchestrator", program, "orchestrator", folder / "hub.toml")
        background.until("the orchestrator is ready", lambda: "orchestrator ready" in background.said("orchestrator"))
        background.start("site", program, "site", self.site, "--phases", "fingerprint,plan-verify")
        background.until("the site is ready", lambda: "ready: " in background.said("site"))

    def run(self, *arguments):
        """Runs a command of the program: what it prints."""
        return run(self.program, *arguments, "--nats", self.url)

    def lag(self):
        """Waiting and unanswered preprocess tasks, as KEDA's nats_jetstream_scaler computes them; None without a queue."""
        url = f"http://{self.monitor}/jsz?acc=$G&consumers=true&config=true"
        for account in json.load(urllib.request.urlopen(url))["account_details"]:
            for detail in account.get("stream_detail", []):
                for found in detail.get("consumer_detail", []):
                    if detail["name"] == "ROUNDS_TASKS" and found["name"] == "s_preprocess":
                        return found["num_pending"] + found["num_ack_pending"]
        return None

    def queue(self):
        """The same, as the orchestrator's metrics say."""
        page = urllib.request.urlopen(f"http://{self.metrics}/metrics").read().decode()
        pattern = r'rounds_queue_(?:pending|ack_pending)_messages\{phase="preprocess",site="s"\} (\d+)'
        return sum(map(int, re.findall(pattern, page)))


def measure(program, data, workers):
    """The backlog of the site's cases, and the seconds that so many workers take for it."""
    with Background() as background:
        federation = Federation(program, data, background, workers)
        payload = {"mode": "training", "num_rounds": 1, "dataset_id": 4, "device": "cpu",
                   "model_configuration": "3d_fullres"}
        federation_of = {"shard_cases": 8, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}
        message = background.folder / "job.json"
        message.write_text(json.dumps({"datasets": ["s"], "payload": payload, "federation": federation_of}))
        job = federation.run("submit", message)
        lag = background.until("there is a backlog", federation.lag)
        # The orchestrator looks every ten seconds.
        end = time.time() + 25
        while federation.queue() != lag and time.time() < end:
            time.sleep(0.5)
        if federation.queue() != lag:
            sys.exit(f"KEDA would see {lag} tasks; the metrics say {federation.queue()}")
        begun = time.time()
        for worker in range(workers):
            background.start(f"worker-{worker}", program, "worker", federation.site, "preprocess")
        background.until("all is preprocessed", lambda: '"phase": "train-round"' in federation.run("show", "--json", job))
        return lag, time.time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="the built rounds")
    parser.add_argument("data", type=Path, help="an nnU-Net raw data set")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores\n{'workers':>8}{'backlog':>9}{'seconds':>9}{'ratio':>7}")
    first = None
    for workers in arguments.workers:
        lag, seconds = measure(arguments.program.resolve(), arguments.data.resolve(), workers)
        first = first or seconds
        print(f"{workers:>8}{lag:>9}{seconds:>9.1f}{first / seconds:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
