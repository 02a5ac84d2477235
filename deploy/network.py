#!/usr/bin/env python3
"""Joins a federation as a hospital does from which only HTTPS through a proxy leads out, and trains a round there.

    deploy/network.py target/release/rounds .tools/mni .tools/bin/nats-server

The site lives in a network namespace: its only way out is a proxy that wants a password (tinyproxy). Its own nats-server
dials the hub through it, as a leaf node, on one wss:// connection to an ingress that ends TLS (haproxy) with a
certificate of an authority that only this hospital trusts. While it trains, the proxy is killed again and again, and
every connection with it. A second site is dialled in directly. Needs root, tinyproxy, haproxy, ip and openssl.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Between two cuts of the site's connection.
CUT_SECONDS = 8
PATIENCE_SECONDS = 600
NAMESPACE = "rounds-hospital"
OUTSIDE, INSIDE = "10.77.0.1", "10.77.0.2"
PROXY_PORT = 3128
USER, PASSWORD = "hospital", "only-through-here"

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend https
    bind 127.0.0.1:{https} ssl crt {pem}
    default_backend hub
backend hub
    server hub 127.0.0.1:{websocket}
"""
TINYPROXY = """
Port {port}
Listen {listen}
Timeout 600
MaxClients 20
BasicAuth {user} {password}
ConnectPort {https}
LogFile "{log}"
LogLevel Connect
"""


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


class Background:
    """Processes that end with this script."""

    def __init__(self, folder):
        self.folder = folder
        self.running = {}

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
        """Waits for something."""
        for _ in range(PATIENCE_SECONDS * 5):
            if holds():
                return
            self.check()
            time.sleep(0.2)
        logs = "\n".join(f"== {name}\n{self.said(name)[-3000:]}" for name in self.running)
        sys.exit(f"{what}: not within {PATIENCE_SECONDS} s\n{logs}")

    def stop(self):
        """Ends all."""
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()


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


def certificate(folder, host):
    """An authority of the hospital's own, and a certificate of it for the ingress."""
    authority, key = folder / "hospital-ca.pem", folder / "hospital-ca.key"
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    run(*new, "/CN=The hospital's authority", "-x509", "-days", "2", "-keyout", key, "-out", authority)
    run(*new, "/CN=ingress", "-keyout", folder / "ingress.key", "-out", folder / "ingress.csr")
    names = folder / "names"
    names.write_text(f"subjectAltName=IP:{host}\n")
    sign = ["openssl", "x509", "-req", "-days", "2", "-CA", authority, "-CAkey", key, "-CAcreateserial"]
    run(*sign, "-in", folder / "ingress.csr", "-extfile", names, "-out", folder / "ingress.pem")
    both = folder / "ingress-both.pem"
    both.write_text((folder / "ingress.pem").read_text() + (folder / "ingress.key").read_text())
    return authority, both


def namespace(up):
    """Makes or removes the hospital's network, whose only neighbour is the proxy."""
    subprocess.run(["ip", "netns", "del", NAMESPACE], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", "rounds-out"], capture_output=True, check=False)
    if not up:
        return
    inside = ["ip", "netns", "exec", NAMESPACE]
    run("ip", "netns", "add", NAMESPACE)
    run("ip", "link", "add", "rounds-out", "type", "veth", "peer", "name", "rounds-in")
    run("ip", "link", "set", "rounds-in", "netns", NAMESPACE)
    run("ip", "addr", "add", f"{OUTSIDE}/30", "dev", "rounds-out")
    run("ip", "link", "set", "rounds-out", "up")
    run(*inside, "ip", "addr", "add", f"{INSIDE}/30", "dev", "rounds-in")
    run(*inside, "ip", "link", "set", "rounds-in", "up")
    run(*inside, "ip", "link", "set", "lo", "up")


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


def finished(program, me, job):
    """Whether the only job has finished. Ends the script where it has failed."""
    listed = run(program, "list", *me)
    if "failed" in listed:
        sys.exit(run(program, "show", *me, job))
    return "finished" in listed


def check(arguments, folder, background):
    """Sets everything up, trains, and cuts the connection meanwhile."""
    program, server = arguments.program.resolve(), arguments.nats_server.resolve()
    data = data_sets(program, arguments.mni.resolve(), folder)
    port, leaf, websocket, https = free_ports(4)
    host = "127.0.0.1"
    hub = folder / "hub"
    provision = [program, "provision"]
    run(*provision, "hub", hub, "--name", "check", "--host", host, "--listen", host, "--port", port,
        "--leaf-port", leaf, "--websocket-port", websocket, "--ingress", f"{host}:{https}")
    here = Path(run(*provision, "site", "east", "--hub", hub))
    there = Path(run(*provision, "site", "north", "--hub", hub))
    submitter = Path(run(*provision, "submitter", "lead", "--hub", hub))
    authority, ingress = certificate(folder, host)

    background.start("hub", server, "-c", "nats.conf", cwd=hub / "nats")
    (folder / "haproxy.cfg").write_text(HAPROXY.format(https=https, pem=ingress, websocket=websocket))
    background.start("ingress", "haproxy", "-db", "-f", folder / "haproxy.cfg")
    proxy = folder / "tinyproxy.conf"
    proxy.write_text(TINYPROXY.format(port=PROXY_PORT, listen=OUTSIDE, user=USER, password=PASSWORD, https=https,
                                      log=folder / "tinyproxy.log"))
    background.start("proxy", "tinyproxy", "-d", "-c", proxy)

    orchestrator = hub / "orchestrator/orchestrator.toml"
    edit(orchestrator, ("/srv/rounds/orchestrator", str(folder / "orchestrator")))
    background.start("orchestrator", program, "orchestrator", orchestrator)
    for site, bundle in {"east": here, "north": there}.items():
        edit(bundle / "site.toml", (f"/srv/rounds/{site}", str(folder / site)),
             (f"/data/nnUNet_raw/Dataset001_{site}", str(data[site])))
    # As the comments in the two files say.
    own = (there / "authority.pem")
    own.write_bytes(authority.read_bytes())
    edit(there / "nats-leaf-https.conf", ('# proxy: { url: "http://proxy:3128", username: "USER", password: $PROXY_PASSWORD }',
         f'proxy: {{ url: "http://{OUTSIDE}:{PROXY_PORT}", username: "{USER}", password: $PROXY_PASSWORD }}'),
         ('# tls { ca_file: "authority.pem" }', 'tls { ca_file: "authority.pem" }'))
    through_leaf(there / "site.toml")
    inside = ["ip", "netns", "exec", NAMESPACE]
    secret = os.environ | {"ROUNDS_SEED": (there / "site.nk").read_text().strip(), "PROXY_PASSWORD": PASSWORD}
    background.start("leaf", *inside, server, "-c", "nats-leaf-https.conf", cwd=there, env=secret)
    background.start("north", *inside, program, "site", there / "site.toml")
    background.start("east", program, "site", here / "site.toml")
    for site in ["east", "north"]:
        background.until(f"site {site} is ready", lambda site=site: "ready" in background.said(site))

    job = {
        "job_id": "through-the-proxy",
        "datasets": ["east", "north"],
        "payload": {"mode": "training", "num_rounds": 3, "dataset_id": arguments.dataset_id, "device": "cpu",
                    "model_configuration": "2d"},
        "federation": {"iterations_per_epoch": 12, "val_iterations_per_epoch": 1},
    }
    (folder / "job.json").write_text(json.dumps(job))
    me = ["--submitter", submitter / "submitter.toml"]
    run(program, "submit", *me, folder / "job.json")
    cuts, last = 0, time.monotonic()

    def ended():
        nonlocal cuts, last
        if time.monotonic() - last > CUT_SECONDS:
            background.kill("proxy")
            background.start("proxy", "tinyproxy", "-d", "-c", proxy)
            cuts, last = cuts + 1, time.monotonic()
        return finished(program, me, "through-the-proxy")

    background.until("the job ends", ended)
    print(run(program, "show", *me, "through-the-proxy"))
    print(f"\nthe job is finished; the site's connection was cut {cuts} times")
    if cuts == 0:
        sys.exit("the job was too short to be cut: raise its iterations")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path)
    parser.add_argument("mni", type=Path)
    parser.add_argument("nats_server", type=Path)
    parser.add_argument("--dataset-id", type=int, default=100, help="the XYZ of the demo's data sets")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("a network namespace needs root")
    with tempfile.TemporaryDirectory() as folder:
        background = Background(Path(folder))
        try:
            namespace(True)
            check(arguments, Path(folder), background)
        finally:
            background.stop()
            namespace(False)


if __name__ == "__main__":
    main()
