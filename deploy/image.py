#!/usr/bin/env python3
"""Builds images from the Dockerfile with buildah, and trains with them in the place of the program.

    deploy/image.py target/release/rounds .tools/mni .tools/bin/nats-server [--site]

The Dockerfile's two base images are made here and not fetched from a registry: a minimal Debian (debootstrap), and the
same with this machine's Rust. The job's orchestrator is a container of the image `orchestrator`, run as the image says,
as its user, with the folder that `rounds provision hub` made; with --site, site north is one of the image `site`.
Needs root, buildah and debootstrap; keeps nothing.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from trial import Background, Trial, debian, free_ports, parse, run

SOURCE = Path(__file__).resolve().parent.parent
# What the image's user is called.
USER = 10001
# How pip and cargo reach their registries from here.
REGISTRIES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HTTPS_PROXY", "NO_PROXY")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class Buildah:
    """Images and containers in a folder of their own."""

    def __init__(self, folder):
        self.command = ["buildah", "--root", folder / "storage", "--runroot", folder / "run"]

    def __call__(self, *arguments):
        return run(*self.command, *arguments)

    def commit(self, container, image, **environment):
        """Makes an image of a container."""
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        self("config", "--cmd", "/bin/sh", *variables, container)
        self("commit", "--quiet", container, image)

    def bases(self, folder):
        """The images that the Dockerfile starts from."""
        debian(folder / "debian")
        container = self("from", "scratch")
        self("add", "--quiet", container, folder / "debian", "/")
        self.commit(container, "localhost/debian")
        root = Path(self("mount", container))
        sysroot = Path(run("rustc", "--print", "sysroot"))
        for part in ("bin", "lib"):
            shutil.copytree(sysroot / part, root / "usr/local" / part, symlinks=True, dirs_exist_ok=True)
        environment = {name: os.environ[name] for name in REGISTRIES if name in os.environ}
        if AUTHORITIES.is_file():
            shutil.copy(AUTHORITIES, root / "etc/authorities.pem")
            environment |= dict.fromkeys(["PIP_CERT", "CARGO_HTTP_CAINFO", "SSL_CERT_FILE"], "/etc/authorities.pem")
        settings = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "config.toml"
        if settings.is_file():
            (root / "root/.cargo").mkdir()
            shutil.copy(settings, root / "root/.cargo")
        self.commit(container, "localhost/rust", **environment)
        self("rm", container)

    def build(self, target):
        """Builds a target of the Dockerfile; shows how it goes."""
        command = [*self.command, "build", "--isolation", "chroot", "--file", SOURCE / "deploy/Dockerfile", "--target",
                   target, "--build-arg", "DEBIAN=localhost/debian", "--build-arg", "RUST=localhost/rust", "--tag",
                   f"localhost/{target}", "--layers", SOURCE]
        subprocess.run([str(part) for part in command], check=True)

    def container(self, image, *volumes):
        """The command that runs the image as it says, in this machine's network."""
        config = json.loads(self("inspect", "--type", "image", image))["OCIv1"]["config"]
        for _, path in volumes:
            for file in [path, *path.rglob("*")]:
                os.chown(file, USER, USER)
        mounts = [f"--volume={path}:{inside}" for inside, path in volumes]
        return [*self.command, "run", "--isolation", "chroot", "--network", "host", *mounts, self("from", image), "--",
                *config["Entrypoint"], *config["Cmd"]]


def check(arguments, background):
    """Builds the images, and trains."""
    folder = background.folder
    buildah = Buildah(folder)
    buildah.bases(folder)
    targets = ["orchestrator", "site"] if arguments.site else ["orchestrator"]
    for target in targets:
        buildah.build(target)
    print(buildah("images"), flush=True)

    (port,) = free_ports(1)
    trial = Trial(arguments, background, "--port", port)
    here, there = trial.site("east"), trial.site("north")
    trial.start_server()
    state = folder / "orchestrator"
    state.mkdir()
    background.start("orchestrator", *buildah.container("localhost/orchestrator", ("/etc/rounds", trial.hub / "orchestrator"),
                                                        ("/srv/rounds/orchestrator", state)))
    background.start("east", trial.program, "site", here)
    if arguments.site:
        (folder / "north").mkdir()
        background.start("north", *buildah.container("localhost/site", ("/etc/rounds", there.parent),
                                                     (folder / "north", folder / "north"),
                                                     (trial.data["north"], trial.data["north"])))
    else:
        background.start("north", trial.program, "site", there)
    trial.ready("east", "north")
    trial.train("in-images", rounds=2, iterations=2)
    background.check()
    kept = [file for file in state.rglob("*") if file.is_file()]
    if not kept or any(file.stat().st_uid != USER for file in kept):
        sys.exit(f"the image's user kept nothing in {state}: {kept}")


if __name__ == "__main__":
    arguments = parse(__doc__, site="build and run the image `site` too, which compiles for ten minutes more")
    with Background() as background:
        check(arguments, background)
