"""Rounds beside Python nnU-Net, command against command, in the same run on the same cores; `just bench`.

bench.py ROUNDS MNI [--data FOLDER] [--runs N] [--cores N] [--only train|predict|export]

ROUNDS is the program, MNI the folder of the template; FOLDER holds nnU-Net raw data sets of one kind, which are pooled
(the hippocampus data), else the isotropic cut of the template is taken. With --only train or predict that is measured
alone; with --only export the prediction of one scan of 512 x 512 x 400 voxels and 20 classes with a tiny network, nearly
all of which is export: it takes Python minutes and 10 GB of memory, and is not measured otherwise. Prints, for each
command, the median wall time, processor time and the memory of its largest process, and the ratio Python to Rounds.
Asserts nothing. Training and prediction in bfloat16 are measured where the processor multiplies in it.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import large_case
import stages

# Of a training epoch.
ITERATIONS = 10

# Whether the processor multiplies in bfloat16; where it does not, that is many times slower.
BFLOAT16 = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))


def pool(sites, folder):
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for site in sites:
            for file in (site / part).iterdir():
                (folder / part / file.name).symlink_to(file.resolve())
    document = json.loads((sites[0] / "dataset.json").read_text())
    document["numTraining"] = len(list((folder / "labelsTr").iterdir()))
    (folder / "dataset.json").write_text(json.dumps(document))


def large(mni, folder):
    """One CT-like scan of 200 slices of 512 x 512, made of the template."""
    import numpy as np
    import SimpleITK as sitk

    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    size, spacing = (512, 512, 200), (0.8, 0.8, 2.0)
    for source, target, interpolator in (("t1", "imagesTr/large_0000", sitk.sitkLinear),
                                         ("grey_matter", "labelsTr/large", sitk.sitkNearestNeighbor)):
        image = sitk.ReadImage(str(mni / f"{source}.nii.gz"))
        image.SetOrigin((0, 0, 0))
        image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
        image.SetSpacing([n * s / m for n, s, m in zip(size, spacing, image.GetSize())])
        image = sitk.Resample(image, size, sitk.Transform(), interpolator, (0, 0, 0), spacing)
        array = sitk.GetArrayFromImage(image)
        if source == "t1":
            noise = np.random.RandomState(3).normal(0, 20, array.shape)
            array = (array.astype(np.float32) * 6 - 700 + noise).astype(np.int16)
        else:
            array = (array > 60).astype(np.uint8) + (array > 160)
        found = sitk.GetImageFromArray(array)
        found.SetSpacing(spacing)
        sitk.WriteImage(found, str(folder / f"{target}.nii.gz"), True)
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "some": 1, "more": 2}, "numTraining": 1,
        "file_ending": ".nii.gz"}))


def measure(command, environment, cores):
    """Wall seconds, processor seconds, MB of the largest process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             preexec_fn=lambda: os.sched_setaffinity(0, cores))
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command}: exit status {child.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def peak(group):
    """MB of the largest process of a process group, at its peak so far."""
    largest = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getpgid(int(status.parent.name)) == group:
                largest = max([largest, *map(int, re.findall(r"VmHWM:\s*(\d+) kB", status.read_text()))])
        except OSError:
            continue  # It ended meanwhile.
    return largest / 1024


def until(command, environment, cores, pattern, times):
    """What the pattern's group is in the first so many lines that hold it, and the MB of the command's largest process;
    the command is ended then."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    found, lines, memory = [], [], 0
    for line in child.stdout:
        lines.append(line)
        matches = re.findall(pattern, line)
        if matches:
            found += matches
            memory = max(memory, peak(child.pid))
        if len(found) == times:
            break
    # Its loaders too.
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if len(found) < times:
        sys.exit(f"{command}: {''.join(lines)}")
    return found, memory


def folder_size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def row(what, a, b):
    print(f"{what:<34}{a[0]:>10.2f}{a[1]:>8.2f}{a[2]:>8.0f}{b[0]:>10.2f}{b[1]:>8.2f}{b[2]:>8.0f}"
          f"{b[0] / a[0]:>8.1f}{b[2] / a[2]:>8.1f}", flush=True)


class Bench:
    """Both programs' commands, in folders of their own."""

    def __init__(self, root, rounds, cores, runs):
        self.root, self.rounds, self.cores, self.runs = root, rounds, cores, runs
        self.python = Path(sys.executable).parent
        shared = {"nnUNet_raw": str(root / "nnUNet_raw"), "nnUNet_results": str(root / "results")}
        self.ours = os.environ | shared | {"nnUNet_preprocessed": str(root / "ours")}
        self.theirs = os.environ | shared | {"nnUNet_preprocessed": str(root / "theirs")}

    def both(self, what, verb, *flags, prepare=lambda: None, output=False, ours=()):
        samples = []
        for _ in range(self.runs):
            prepare()
            out = [["-o", self.root / f"{side}-out"] if output else [] for side in ("ours", "theirs")]
            samples.append((
                measure([self.rounds, "nnunet", verb, *flags, *ours, *out[0]], self.ours, self.cores),
                measure([self.python / f"nnUNetv2_{verb.replace('-', '_')}", *flags, *out[1]], self.theirs,
                        self.cores)))
        figures = (zip(*(sample[side] for sample in samples)) for side in (0, 1))
        row(what, *(list(map(statistics.median, side)) for side in figures))

    def clean(self, dataset):
        for side in ("ours", "theirs"):
            shutil.rmtree(self.root / side / dataset / "nnUNetPlans_3d_fullres", ignore_errors=True)

    def prepare(self, number, name, cases):
        self.both(f"fingerprint, {cases} cases", "extract-fingerprint", "-d", number, "--clean", "-np", self.processes)
        self.both("fingerprint, 512 x 512 x 200", "extract-fingerprint", "-d", "106", "--clean", "-np", "1")
        self.plan(number)
        self.plan("106", "-overwrite_target_spacing", "1.5", "0.9", "0.9")
        self.both(f"preprocess, {cases} cases", "preprocess", "-d", number, "-c", "3d_fullres", "-np", self.processes,
                  prepare=lambda: self.clean(name))
        self.both("preprocess, 512 x 512 x 200", "preprocess", "-d", "106", "-c", "3d_fullres", "-np", "1",
                  prepare=lambda: self.clean("Dataset106_Volume"))
        for what, dataset in ((f"size on disk, {cases} cases", name),
                              ("size on disk, 512 x 512 x 200", "Dataset106_Volume")):
            a, b = (folder_size(self.root / side / dataset / "nnUNetPlans_3d_fullres") for side in ("ours", "theirs"))
            print(f"{what:<34}{a:>23.1f} MB{b:>23.1f} MB{b / a:>16.2f}")

    def plan(self, number, *flags):
        for command, side in (([self.rounds, "nnunet", "plan"], self.ours),
                              ([self.python / "nnUNetv2_plan_experiment"], self.theirs)):
            measure([*command, "-d", number, *flags], side, self.cores)

    def train(self, number):
        epoch = r"Epoch time: ([0-9.]+) s"
        short = [f"--iterations-per-epoch={ITERATIONS}", "--val-iterations-per-epoch=1"]
        # The second epoch: the first also starts the loaders.
        a = until([*self.trainer(number), *short, "-tr", "nnUNetTrainer_5epochs", "--disable_checkpointing"],
                  self.ours, self.cores, epoch, 2)
        b = until([self.python / "python", Path(__file__).parent / "training.py", number, str(ITERATIONS)],
                  self.theirs, self.cores, epoch, 2)
        self.iteration("train, an iteration, 3d_fullres", a, b)
        if BFLOAT16:
            a = until([*self.trainer(number), *short, "-tr", "nnUNetTrainer_5epochs", "--disable_checkpointing",
                       "--bfloat16"], self.ours, self.cores, epoch, 2)
            self.iteration("the same in bfloat16", a, b)

    def iteration(self, what, a, b):
        (a, a_memory), (b, b_memory) = ((float(seconds[1]) / ITERATIONS, memory) for seconds, memory in (a, b))
        print(f"{what:<34}{a:>10.2f}{a_memory:>16.0f}{b:>10.2f}{b_memory:>16.0f}{b / a:>8.1f}{b_memory / a_memory:>8.1f}",
              flush=True)

    def predict(self, number, name):
        # Any model will do to measure prediction.
        short = ["-tr", "nnUNetTrainer_1epoch", "--iterations-per-epoch=1", "--val-iterations-per-epoch=1"]
        until([*self.trainer(number), *short], self.ours, self.cores, "Training done", 1)
        (model,) = (self.root / "results" / name).glob("nnUNetTrainer_1epoch__*")
        scans = self.root / "scans"
        scans.mkdir()
        for scan in sorted((self.root / "nnUNet_raw" / name / "imagesTr").iterdir())[:20]:
            (scans / scan.name).symlink_to(scan)
        count = len(list(scans.iterdir()))
        flags = ["-i", scans, "-m", model, "-f", "all", "-device", "cpu", "-npp", self.processes, "-nps",
                 self.processes]
        self.both(f"predict, {count} scans, mirrored", "predict-from-modelfolder", *flags, output=True)
        if BFLOAT16:
            self.both("the same in bfloat16", "predict-from-modelfolder", *flags, output=True, ours=["--bfloat16"])

    def export(self, name):
        large_case.make(self.root / "ours" / name / "nnUNetPlans.json", self.root / "large", 400, 20)
        self.both("export, 512 x 512 x 400, 20 classes", "predict-from-modelfolder", "-i", self.root / "large/images",
                  "-m", self.root / "large/model", "-f", "0", "-device", "cpu", "-npp", self.processes, "-nps",
                  self.processes,
                  "--disable_tta", "-step_size", "1", output=True)

    @property
    def processes(self):
        return str(len(self.cores))

    def trainer(self, number):
        return [self.rounds, "nnunet", "train", number, "3d_fullres", "all", "-device", "cpu"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=Path)
    parser.add_argument("mni", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", choices=("train", "predict", "export"))
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[: arguments.cores])

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if arguments.data:
            sites = sorted(p.parent for p in arguments.data.resolve().glob("**/dataset.json"))
            pool(sites, root / "nnUNet_raw/Dataset004_Pooled")
            number, name = "4", "Dataset004_Pooled"
        else:
            stages.make(root, arguments.mni)
            number, name = "101", "Dataset101_Isotropic"
        bench = Bench(root, arguments.rounds, cores, arguments.runs)
        print(f"{len(cores)} cores, {arguments.runs} runs of each; memory of the largest process")
        print(f"{'':<34}{'Rounds':>26}{'Python':>26}{'ratio':>16}")
        print(f"{'':<34}{'wall s':>10}{'cpu s':>8}{'MB':>8}{'wall s':>10}{'cpu s':>8}{'MB':>8}{'wall':>8}{'MB':>8}")
        if arguments.only:
            for command in ("extract-fingerprint", "plan", "preprocess"):
                flags = ["-c", "3d_fullres"] if command == "preprocess" else []
                measure([bench.rounds, "nnunet", command, "-d", number, *flags], bench.ours, cores)
            if arguments.only == "export":
                return bench.export(name)
            if arguments.only == "train":
                measure([bench.python / "nnUNetv2_plan_and_preprocess", "-d", number, "-c", "3d_fullres"], bench.theirs,
                        cores)
                return bench.train(number)
        else:
            large(arguments.mni, root / "nnUNet_raw/Dataset106_Volume")
            bench.prepare(number, name, len(list((root / "nnUNet_raw" / name / "labelsTr").iterdir())))
            bench.train(number)
        bench.predict(number, name)


if __name__ == "__main__":
    main()
