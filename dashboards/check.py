#!/usr/bin/env python3
"""Checks the dashboards, alerts and runbooks: their form, and against a real job that a real Prometheus reads.

Needs the Python package grafana-foundation-sdk, and prometheus and promtool on the PATH: `just check-dashboards`
brings them.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

import lint
import live


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="the built rounds")
    parser.add_argument("mni", type=Path, help="the scan that the demo cuts its sites from")
    parser.add_argument("--keep", type=Path, help="leave the job's data and Prometheus's here, and Prometheus running")
    arguments = parser.parse_args()
    lint.promtool()
    problems = lint.dashboards() + lint.alerts()
    if problems:
        sys.exit("\n".join(problems))
    print("form: dashboards, alerts, runbooks are as they should be", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        metrics = f"127.0.0.1:{live.free_port()}"
        prometheus = live.Prometheus(folder, metrics)
        try:
            begun = time.time()
            page = live.run_job(arguments.program.resolve(), arguments.mni.resolve(), folder, metrics)
            subprocess.run(["promtool", "check", "metrics"], input=page, text=True, check=True)
            window = (begun, time.time())
            problems, lines = live.look(prometheus, window)
            print("\n".join(lines))
            if arguments.keep:
                print(f"{prometheus.address} start={window[0]:.0f} end={window[1]:.0f}")
        finally:
            if not arguments.keep:
                prometheus.stop()
    if problems:
        sys.exit("\n".join(["", *problems]))
    print("every panel and variable shows something, and nothing that is no number")


if __name__ == "__main__":
    main()
