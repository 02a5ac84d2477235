"""Rounds beside Python nnU-Net, command against command, in the same run on the same cores; `just bench`.

bench.py ROUNDS MNI [--data FOLDER] [--runs N] [--cores N]

ROUNDS is the program, MNI the folder of the template; FOLDER holds nnU-Net raw data sets of one kind, which are pooled
(the hippocampus data), else the isotropic cut of the template is taken. Prints, for each command, the median wall
time, processor time and the memory of its largest process, and the ratio Python to Rounds. Asserts nothing.
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

import stages

# Of a training epoch.
ITERATIONS = 10


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


def until(command, environment, cores, pattern, times):
    """What the pattern's group is in the first so many lines that hold it; the command is ended then."""
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    found, lines = [], []
    for line in child.stdout:
        lines.append(line)
        found += re.findall(pattern, line)
        if len(found) == times:
            break
    # Its loaders too.
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if len(found) < times:
        sys.exit(f"{command}: {''.join(lines)}")
    return found


def folder_size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def row(what, a, b):
    print(f"{what:<34}{a[0]:>10.2f}{a[1]:>8.2f}{a[2]:>8.0f}{b[0]:>10.2f}{b[1]:>8.2f}{b[2]:>8.0f}"
          f"{b[0] / a[0]:>8.1f}{b[2] / a[2]:>8.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=Path)
    parser.add_argument("mni", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[: arguments.cores])
    python = Path(sys.executable).parent

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if arguments.data:
            sites = sorted(p.parent for p in arguments.data.resolve().glob("**/dataset.json"))
            pool(sites, root / "nnUNet_raw/Dataset004_Pooled")
            number, name = "4", "Dataset004_Pooled"
        else:
            stages.make(root, arguments.mni)
            number, name = "101", "Dataset101_Isotropic"
        large(arguments.mni, root / "nnUNet_raw/Dataset106_Volume")
        environment = {"nnUNet_raw": str(root / "nnUNet_raw"), "nnUNet_results": str(root / "results")}
        ours = os.environ | environment | {"nnUNet_preprocessed": str(root / "ours")}
        theirs = os.environ | environment | {"nnUNet_preprocessed": str(root / "theirs")}
        processes = str(len(cores))
        print(f"{len(cores)} cores, {arguments.runs} runs of each; memory of the largest process")
        print(f"{'':<34}{'Rounds':>26}{'Python':>26}{'ratio':>16}")
        print(f"{'':<34}{'wall s':>10}{'cpu s':>8}{'MB':>8}{'wall s':>10}{'cpu s':>8}{'MB':>8}{'wall':>8}{'MB':>8}")

        def both(what, verb, *flags, prepare=lambda: None):
            samples = []
            for _ in range(arguments.runs):
                prepare()
                samples.append((
                    measure([arguments.rounds, "nnunet", verb, *flags], ours, cores),
                    measure([python / f"nnUNetv2_{verb.replace('-', '_')}", *flags], theirs, cores)))
            figures = (zip(*(sample[side] for sample in samples)) for side in (0, 1))
            row(what, *(list(map(statistics.median, side)) for side in figures))

        def clean(dataset):
            for side in ("ours", "theirs"):
                shutil.rmtree(root / side / dataset / "nnUNetPlans_3d_fullres", ignore_errors=True)

        cases = len(list((root / "nnUNet_raw" / name / "labelsTr").iterdir()))
        both(f"fingerprint, {cases} cases", "extract-fingerprint", "-d", number, "--clean", "-np", processes)
        both("fingerprint, 512 x 512 x 200", "extract-fingerprint", "-d", "106", "--clean", "-np", "1")
        for dataset, flags in ((number, ()), ("106", ("-overwrite_target_spacing", "1.5", "0.9", "0.9"))):
            for command, side in (([arguments.rounds, "nnunet", "plan"], ours),
                                  ([python / "nnUNetv2_plan_experiment"], theirs)):
                measure([*command, "-d", dataset, *flags], side, cores)
        both(f"preprocess, {cases} cases", "preprocess", "-d", number, "-c", "3d_fullres", "-np", processes,
             prepare=lambda: clean(name))
        both("preprocess, 512 x 512 x 200", "preprocess", "-d", "106", "-c", "3d_fullres", "-np", "1",
             prepare=lambda: clean("Dataset106_Volume"))
        for what, dataset in ((f"size on disk, {cases} cases", name),
                              ("size on disk, 512 x 512 x 200", "Dataset106_Volume")):
            a, b = (folder_size(root / side / dataset / "nnUNetPlans_3d_fullres") for side in ("ours", "theirs"))
            print(f"{what:<34}{a:>23.1f} MB{b:>23.1f} MB{b / a:>16.2f}")

        epoch = r"Epoch time: ([0-9.]+) s"
        train = [arguments.rounds, "nnunet", "train", number, "3d_fullres", "all", "-device", "cpu"]
        short = [f"--iterations-per-epoch={ITERATIONS}", "--val-iterations-per-epoch=1"]
        # The second epoch: the first also starts the loaders.
        a = until([*train, *short, "-tr", "nnUNetTrainer_5epochs", "--disable_checkpointing"], ours, cores, epoch, 2)
        b = until([python / "python", Path(__file__).parent / "training.py", number, str(ITERATIONS)], theirs, cores,
                  epoch, 2)
        a, b = (float(seconds[1]) / ITERATIONS for seconds in (a, b))
        print(f"{'train, an iteration, 3d_fullres':<34}{a:>10.2f}{b:>26.2f}{b / a:>24.1f}", flush=True)

        # Any model will do to measure prediction.
        until([*train, "-tr", "nnUNetTrainer_1epoch", "--iterations-per-epoch=1", "--val-iterations-per-epoch=1"], ours,
              cores, "Training done", 1)
        (model,) = (root / "results" / name).glob("nnUNetTrainer_1epoch__*")
        scans = root / "scans"
        scans.mkdir()
        for scan in sorted((root / "nnUNet_raw" / name / "imagesTr").iterdir())[:20]:
            (scans / scan.name).symlink_to(scan)
        flags = ["-i", scans, "-m", model, "-f", "all", "-device", "cpu", "-npp", processes, "-nps", processes]
        a = measure([arguments.rounds, "nnunet", "predict-from-modelfolder", *flags, "-o", root / "ours-out"],
                    ours, cores)
        b = measure([python / "nnUNetv2_predict_from_modelfolder", *flags, "-o", root / "theirs-out"], theirs, cores)
        row(f"predict, {len(list(scans.iterdir()))} scans, mirrored", a, b)


if __name__ == "__main__":
    main()
