#!/usr/bin/env python3
"""Draws each dashboard with Grafana's own components in headless Chromium, into dashboards/screenshots.

The data is a Prometheus's that `dashboards/check.py --keep` left running. It is not Grafana itself: what it shows of
provisioning, links and variables stays unproven. `just screenshots` brings what this needs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from live import RATE_INTERVAL

STEP = 2


def ask(address, path, **parameters):
    """The data of an answer of Prometheus's API."""
    url = f"{address}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
    return json.load(urllib.request.urlopen(url))["data"]


def legend(template, labels):
    """A series' name, as Grafana makes it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template).strip()


def answers(address, document, window):
    """What each panel's queries find, by the panel's id."""
    chosen = {"__rate_interval": RATE_INTERVAL}
    for variable in document["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
        values = ask(address, f"label/{label}/values", **{"match[]": metric, "start": window[0], "end": window[1]})
        chosen[variable["name"]] = ".*" if variable["multi"] else values[0]
    found = {}
    for panel in document["panels"]:
        found[panel["id"]] = []
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in chosen.items():
                query = query.replace(f"${name}", value)
            series = ask(address, "query_range", query=query, start=window[0], end=window[1], step=STEP)["result"]
            found[panel["id"]].append(
                [
                    {
                        "name": legend(target["legendFormat"], one["metric"]),
                        "labels": {name: value for name, value in one["metric"].items() if name != "__name__"},
                        "values": one["values"],
                    }
                    for one in series
                ]
            )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", type=Path, help="node_modules with @grafana/ui, @grafana/data, react, esbuild")
    parser.add_argument("address", help="Prometheus, as http://127.0.0.1:9090")
    parser.add_argument("start", type=int)
    parser.add_argument("end", type=int)
    arguments = parser.parse_args()
    window = (arguments.start, arguments.end)
    out = HERE.parent / "screenshots"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "page.js"
        command = [arguments.modules / ".bin/esbuild", HERE / "page.tsx", "--bundle", f"--outfile={bundle}"]
        command += ["--jsx=automatic", "--loader:.svg=dataurl", "--loader:.ttf=empty", "--log-level=error", "--define:process.env.NODE_ENV=\"production\""]
        subprocess.run(command, check=True, env={"NODE_PATH": str(arguments.modules), "PATH": "/usr/bin:/bin"})
        for file in sorted((HERE.parent / "grafana").glob("*.json")):
            document = json.loads(file.read_text())
            shown = {
                "document": document,
                "answers": answers(arguments.address, document, window),
                "window": [*window, STEP],
            }
            page = Path(folder) / f"{file.stem}.html"
            page.write_text(
                f'<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><div id="root"></div>'
                f"<script>globalThis.SHOWN = {json.dumps(shown)}</script><script src={bundle.name}></script>"
            )
            rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in document["panels"])
            subprocess.run(
                [
                    "chromium-headless-shell",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                    f"--window-size=1352,{rows * 36 + 16}",
                    "--virtual-time-budget=10000",
                    f"--screenshot={out / file.stem}.png",
                    page.as_uri(),
                ],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            print(out / f"{file.stem}.png")


if __name__ == "__main__":
    main()
