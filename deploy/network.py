#!/usr/bin/env python3
"""Joins a federation as a hospital does from which only HTTPS through a proxy leads out, and trains a round there.

    deploy/network.py target/release/rounds .tools/mni .tools/bin/nats-server

The site lives in a network namespace: its only way out is a proxy that wants a password (tinyproxy). Its own nats-server
dials the hub through it, as a leaf node, on one wss:// connection to an ingress that ends TLS (haproxy) with a
certificate of an authority that only this hospital trusts. While it trains, the proxy is killed again and again, and
every connection with it. A second site is dialled in directly. Needs root, tinyproxy, haproxy, ip and openssl.
"""

import os
import subprocess
import sys
import time

from trial import HOST, Background, Trial, edit, free_ports, parse, run, through_leaf

# Between two cuts of the site's connection.
CUT_SECONDS = 8
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


def check(arguments, background):
    """Sets everything up, trains, and cuts the connection meanwhile."""
    folder = background.folder
    port, leaf, websocket, https = free_ports(4)
    trial = Trial(arguments, background, "--port", port, "--leaf-port", leaf, "--websocket-port", websocket, "--ingress",
                  f"{HOST}:{https}")
    here, there = trial.site("east"), trial.site("north").parent
    authority, ingress = certificate(folder, HOST)
    trial.start_server()
    (folder / "haproxy.cfg").write_text(HAPROXY.format(https=https, pem=ingress, websocket=websocket))
    background.start("ingress", "haproxy", "-db", "-f", folder / "haproxy.cfg")
    proxy = folder / "tinyproxy.conf"
    proxy.write_text(TINYPROXY.format(port=PROXY_PORT, listen=OUTSIDE, user=USER, password=PASSWORD, https=https,
                                      log=folder / "tinyproxy.log"))
    background.start("proxy", "tinyproxy", "-d", "-c", proxy)
    background.start("orchestrator", trial.program, "orchestrator", trial.orchestrator())

    # As the comments in the two files say.
    (there / "authority.pem").write_bytes(authority.read_bytes())
    edit(there / "nats-leaf-https.conf", ('# proxy: { url: "http://proxy:3128", username: "USER", password: $PROXY_PASSWORD }',
         f'proxy: {{ url: "http://{OUTSIDE}:{PROXY_PORT}", username: "{USER}", password: $PROXY_PASSWORD }}'),
         ('# tls { ca_file: "authority.pem" }', 'tls { ca_file: "authority.pem" }'))
    through_leaf(there / "site.toml")
    inside = ["ip", "netns", "exec", NAMESPACE]
    secret = os.environ | {"ROUNDS_SEED": (there / "site.nk").read_text().strip(), "PROXY_PASSWORD": PASSWORD}
    background.start("leaf", *inside, trial.server, "-c", "nats-leaf-https.conf", cwd=there, env=secret)
    background.start("north", *inside, trial.program, "site", there / "site.toml")
    background.start("east", trial.program, "site", here)
    trial.ready("east", "north")

    cuts, last = 0, time.monotonic()

    def cut():
        nonlocal cuts, last
        if time.monotonic() - last > CUT_SECONDS:
            background.kill("proxy")
            background.start("proxy", "tinyproxy", "-d", "-c", proxy)
            cuts, last = cuts + 1, time.monotonic()

    trial.train("through-the-proxy", rounds=3, iterations=12, meanwhile=cut)
    print(f"\nthe job is finished; the site's connection was cut {cuts} times")
    if cuts == 0:
        sys.exit("the job was too short to be cut: raise its iterations")


if __name__ == "__main__":
    arguments = parse(__doc__)
    try:
        namespace(True)
        with Background() as background:
            check(arguments, background)
    finally:
        namespace(False)
