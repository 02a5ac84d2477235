"""A real job, a real Prometheus that reads it, and every panel and variable asked of that."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from panels import DASHBOARDS

HERE = Path(__file__).resolve().parent
# A job so short that Prometheus must look often.
CONFIG = """
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: ["{rules}/alerts.yml", "{rules}/recording.yml"]
scrape_configs:
  - job_name: rounds-orchestrator
    honor_labels: true
    static_configs:
      - targets: ["{target}"]
        labels: {{ service: rounds, part: orchestrator }}
"""
RATE_INTERVAL = "15s"
STEP_SECONDS = 2


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Prometheus:
    """Prometheus in a folder of its own."""

    def __init__(self, folder, target):
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=HERE / "alerts", target=target))
        self.address = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "prometheus.log"
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address.removeprefix('http://')}",
            ],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.address}/-/ready").read()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        sys.exit(f"prometheus does not start:\n{self.log.read_text()}")

    def ask(self, path, **parameters):
        """The data of an answer of Prometheus's API."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            answer = json.load(urllib.request.urlopen(url))
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    def stop(self):
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def run_job(program, mni, folder, metrics):
    """Runs the demo until its training job has finished and the next one segments; its last page of metrics."""
    command = [program, "demo", "--home", folder / "home", "--mni", mni, "--metrics", metrics]
    command += ["--rounds", "2", "--iterations", "1", "--configuration", "2d"]
    log = folder / "demo.log"
    with log.open("w") as out:
        job = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    page, seen = "", 0
    # What the second job does is read a few times, too.
    while job.poll() is None and seen < 10:
        try:
            page = urllib.request.urlopen(f"http://{metrics}/metrics").read().decode()
        except OSError:
            pass
        time.sleep(1)
        seen += "\ninfer: " in log.read_text()
    if seen == 0:
        sys.exit(f"the demo failed:\n{log.read_text()}")
    job.terminate()
    job.wait()
    return page


def values_of(prometheus, variable, window):
    """What a variable's list would show."""
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable.query).groups()
    return prometheus.ask(f"label/{label}/values", **{"match[]": metric, "start": window[0], "end": window[1]})


def look(prometheus, window):
    """Asks for every panel and variable of every dashboard: problems, and lines of what was found."""
    problems, lines = [], []
    accelerators = prometheus.ask("series", **{"match[]": "rounds_site_gpu_utilisation_ratio", "start": window[0]})
    for dashboard in DASHBOARDS:
        chosen = {"__rate_interval": RATE_INTERVAL}
        for variable in dashboard.variables:
            values = values_of(prometheus, variable, window)
            lines.append(f"{dashboard.name}: ${variable.name}: {', '.join(values)}")
            if not values:
                problems.append(f"{dashboard.name}: variable {variable.name} has no values")
            chosen[variable.name] = ".*" if variable.multi else (values or [""])[0]
        for panel in dashboard.panels:
            if panel.needs == "gpu" and not accelerators:
                lines.append(f"{dashboard.name}: {panel.title}: skipped, no accelerator on this machine")
                continue
            for query, _ in panel.queries:
                for name, value in chosen.items():
                    query = query.replace(f"${name}", value)
                where = f"{dashboard.name}: {panel.title}"
                try:
                    found = prometheus.ask(
                        "query_range", query=query, start=window[0], end=window[1], step=STEP_SECONDS
                    )["result"]
                except ValueError as error:
                    problems.append(f"{where}: {error}: {query}")
                    continue
                points = [float(value) for series in found for _, value in series["values"]]
                wild = [value for value in points if value != value or value in (float("inf"), float("-inf"))]
                if not points:
                    problems.append(f"{where}: empty: {query}")
                elif wild:
                    problems.append(f"{where}: {len(wild)} of {len(points)} points are {wild[0]}: {query}")
                lines.append(f"{where}: {len(found)} series, {len(points)} points")
    return problems, lines
