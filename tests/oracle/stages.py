"""The data side of Python nnU-Net, stage by stage, on whole data sets; for tests/parity/stages.rs.

stages.py make ROOT MNI     Cuts raw data sets, each another kind, out of the MNI template into ROOT/nnUNet_raw.
stages.py run ROOT          ROOT holds nnUNet_raw, and in ROOT/ours what Rounds made of it (nnUNet_preprocessed). Runs
                            ROOT/jobs.json, a list of {dataset, planner, plans, gpu_memory_target, configurations},
                            with nnU-Net, into ROOT/nnUNet_preprocessed, and prints a list of what was compared:
                            {stage, dataset, compared, difference, seconds}. Raises where the two may not differ.

Pools are forked, not spawned: nnU-Net's own start, which imports torch in each process, is not what is timed.
"""

import contextlib
import io
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np


def make(root, mni):
    import SimpleITK as sitk
    from PIL import Image

    read = lambda name: sitk.GetArrayFromImage(sitk.ReadImage(str(mni / f"{name}.nii.gz"))).astype(np.float32)
    t1, grey, white = read("t1"), read("grey_matter"), read("white_matter")
    tissue = np.where(np.maximum(grey, white) < 100, 0, np.where(grey >= white, 1, 2)).astype(np.uint8)
    random = np.random.RandomState(7)

    def dataset(name, ending, channels, labels, cases, **more):
        folder = root / "nnUNet_raw" / name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        document = {"channel_names": {str(i): c for i, c in enumerate(channels)}, "labels": labels,
                    "numTraining": cases, "file_ending": ending, **more}
        (folder / "dataset.json").write_text(json.dumps(document, indent=4))
        return folder

    def save(array, spacing, path):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(s) for s in spacing[::-1]])
        image.SetOrigin((3.0, -20.0, 7.5))
        sitk.WriteImage(image, str(path), True)

    def corner(size):
        return [random.randint(20, n - s - 20) for n, s in zip(t1.shape, size)]

    def cut(volume, start, size, step=(1, 1, 1)):
        return np.ascontiguousarray(volume[tuple(slice(a, a + s, t) for a, s, t in zip(start, size, step))])

    # Isotropic MRI; one case at another spacing.
    folder = dataset("Dataset101_Isotropic", ".nii.gz", ["MRI"], {"background": 0, "grey": 1, "white": 2}, 6)
    for case in range(6):
        size = [44 + case, 46, 48 - case]
        start, spacing = corner(size), (1, 1, 1) if case else (1.2, 0.9, 1.1)
        save(cut(t1, start, size), spacing, folder / f"imagesTr/mni_{case}_0000.nii.gz")
        save(cut(tissue, start, size), spacing, folder / f"labelsTr/mni_{case}.nii.gz")

    # CT with thick slices: separate z, CT normalisation, integers with a negative range.
    folder = dataset("Dataset102_ThickCT", ".nrrd", ["CT"], {"background": 0, "grey": 1, "white": 2}, 5)
    for case in range(5):
        size = [90 + 5 * case, 100 - 3 * case, 96]
        start, spacing = corner(size), (5 if case != 2 else 4, 0.8, 0.8 + 0.05 * case)
        image = cut(t1, start, size, (5, 1, 1)) * 6 - 700 + random.normal(0, 15, (size[0] // 5, *size[1:]))
        save(image.astype(np.int16), spacing, folder / f"imagesTr/ct_{case}_0000.nrrd")
        save(cut(tissue, start, size, (5, 1, 1)), spacing, folder / f"labelsTr/ct_{case}.nrrd")

    # Two channels on a zero background, regions, an ignore label.
    labels = {"background": 0, "brain": [1, 2, 3], "white": [2, 3], "deep": [3], "ignore": 4}
    folder = dataset("Dataset103_Regions", ".mha", ["T1", "grey map"], labels, 5, regions_class_order=[1, 2, 3])
    for case in range(5):
        start, size = [10 + 4 * case, 30, 20 + 8 * case], [72, 90, 80]
        image, label = cut(t1, start, size), cut(tissue, start, size)
        inside = np.linalg.norm((np.indices(size).T / np.array(size) - 0.5).T, axis=0) < 0.42 - 0.02 * case
        label[(label == 2) & (image > np.percentile(image[label == 2], 80))] = 3
        label[:, :, -15:][label[:, :, -15:] > 0] = 4
        spacing = (1.0, 1.1, 0.9 + 0.1 * case)
        save(image * inside, spacing, folder / f"imagesTr/brain_{case}_0000.mha")
        save(cut(grey, start, size) * inside, spacing, folder / f"imagesTr/brain_{case}_0001.mha")
        save(label * inside.astype(np.uint8), spacing, folder / f"labelsTr/brain_{case}.mha")

    # Natural images: single slices as PNG.
    folder = dataset("Dataset104_Slices", ".png", ["T1"], {"background": 0, "grey": 1, "white": 2}, 8)
    for case in range(8):
        rows = slice(10 + case, 222 - 2 * case)
        Image.fromarray(t1[50 + 10 * case, rows].astype(np.uint8)).save(folder / f"imagesTr/slice_{case}_0000.png")
        Image.fromarray(tissue[50 + 10 * case, rows]).save(folder / f"labelsTr/slice_{case}.png")

    # Whole heads, which a small memory target can only cover at a low resolution.
    folder = dataset("Dataset105_Large", ".nii", ["MRI"], {"background": 0, "grey": 1, "white": 2}, 3)
    for case in range(3):
        start, size = [4 + case, 4, 10], [176, 220 - 6 * case, 176]
        save(cut(t1, start, size).astype(np.int16), (1, 1, 1), folder / f"imagesTr/head_{case}_0000.nii")
        save(cut(tissue, start, size), (1, 1, 1), folder / f"labelsTr/head_{case}.nii")


def require(holds, *words):
    """Raises where the two may not differ."""
    if not holds:
        raise AssertionError(" ".join(str(w) for w in words))


def compare_fingerprints(theirs, ours, dataset):
    pairs = lambda f: sorted(zip(map(tuple, f["shapes_after_crop"]), map(tuple, f["spacings"])))
    require(pairs(theirs) == pairs(ours), dataset, "shapes and spacings", pairs(theirs), pairs(ours))
    key = "median_relative_size_after_cropping"
    require(theirs[key] == ours[key], dataset, key, theirs[key], ours[key])
    key = "foreground_intensity_properties_per_channel"
    require(list(theirs[key]) == list(ours[key]), dataset, "channels")
    worst = 0.0
    for channel, values in theirs[key].items():
        for name, value in values.items():
            found = ours[key][channel][name]
            if name in ("mean", "std"):
                worst = max(worst, abs(found - value) / max(abs(value), 1e-30))
            else:
                require(found == value, dataset, "channel", channel, name, value, found)
    require(worst <= 1e-5, dataset, "mean and std", worst)
    return worst


def compare_plans(theirs, ours, path, differences):
    """Equal in keys, their order and values; means and deviations within 1e-5."""
    if isinstance(theirs, dict):
        require(isinstance(ours, dict) and list(theirs) == list(ours), path, "keys", theirs, ours)
        for key in theirs:
            compare_plans(theirs[key], ours[key], f"{path}.{key}", differences)
    elif path.rsplit(".", 1)[-1] in ("mean", "std"):
        relative = abs(theirs - ours) / max(abs(theirs), 1e-30)
        require(relative <= 1e-5, path, theirs, ours)
        differences.append(relative)
    else:
        require(type(theirs) is type(ours) and theirs == ours, path, theirs, ours)


def compare_cases(theirs, ours, where):
    """Python's data set classes read both folders. The largest difference of a voxel."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    theirs, ours = (infer_dataset_class(str(f))(str(f)) for f in (theirs, ours))
    require(sorted(theirs.identifiers) == sorted(ours.identifiers), where, theirs.identifiers, ours.identifiers)
    worst, voxels = 0.0, 0
    for case in theirs.identifiers:
        (data, seg, _, properties), (data_, seg_, _, properties_) = theirs.load_case(case), ours.load_case(case)
        data, seg, data_, seg_ = (np.asarray(a[:]) for a in (data, seg, data_, seg_))
        require(data.shape == data_.shape and data_.dtype == np.float32, where, case, data.shape, data_.shape)
        require(np.isfinite(data_).all(), where, case, "is not finite")
        difference = float(np.abs(data - data_).max())
        require(difference <= 1e-4, where, case, "data differ by", difference)
        require(seg_.dtype == np.int16 and np.array_equal(seg, seg_), where, case, "segmentation")
        locations, locations_ = properties["class_locations"], properties_["class_locations"]
        require(list(locations) == list(locations_), where, case, list(locations), list(locations_))
        for key in locations:
            require(np.array_equal(locations[key], locations_[key]), where, case, "class_locations", key)
        for key in ("shape_before_cropping", "bbox_used_for_cropping", "shape_after_cropping_and_before_resampling"):
            require(np.array_equal(properties[key], properties_[key]), where, case, key)
        require(np.allclose(properties["spacing"], properties_["spacing"]), where, case, "spacing")
        require(set(properties) == set(properties_), where, case, set(properties) ^ set(properties_))
        worst, voxels = max(worst, difference), voxels + data.size
    return worst, voxels, len(theirs.identifiers)


def run(root):
    for variable in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{variable}"] = str(root / f"nnUNet_{variable}")
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("fork")

    import torch

    torch.set_num_threads(1)
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    table, seen = [], set()

    def row(stage, dataset, compared, difference, seconds=None):
        table.append({"stage": stage, "dataset": dataset, "compared": compared, "difference": difference,
                      "seconds": seconds})

    load = lambda path: json.loads(path.read_text())

    def timed(work):
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            result = work()
        return result, time.perf_counter() - start

    for job in load(root / "jobs.json"):
        name, number = job["dataset"], int(job["dataset"][7:10])
        theirs, ours = root / "nnUNet_preprocessed" / name, root / "ours/nnUNet_preprocessed" / name
        if name not in seen:
            seen.add(name)
            _, seconds = timed(lambda: verify_dataset_integrity(str(root / "nnUNet_raw" / name), 2))
            row("verify", name, "accepted by both", "none", seconds)
            extractor = DatasetFingerprintExtractor(number, 2)
            extractor.show_progress_bar = False
            _, seconds = timed(lambda: extractor.run(overwrite_existing=True))
            worst = compare_fingerprints(
                *(load(f / "dataset_fingerprint.json") for f in (theirs, ours)), name)
            row("fingerprint", name, "ranks, shapes, spacings equal; mean, std", f"{worst:.1e} rel", seconds)
        # Networks are built only to count their voxels: without memory, they are built in no time.
        with torch.device("meta"):
            _, seconds = timed(lambda: plan_experiments(
                [number], job["planner"], job["gpu_memory_target"], overwrite_plans_name=job["plans"]))
        documents, differences = [load(f / f"{job['plans']}.json") for f in (theirs, ours)], [0.0]
        compare_plans(*documents, name, differences)
        require(load(theirs / "dataset.json") == load(ours / "dataset.json"), name, "dataset.json")
        configurations = [c for c in documents[0]["configurations"] if "cascade" not in c]
        row("plan", name, f"{job['planner']}: {', '.join(configurations)}", f"{max(differences):.1e} rel", seconds)
        for configuration in job["configurations"]:
            _, seconds = timed(lambda: preprocess([number], job["plans"], [configuration], [2], False))
            folder = documents[0]["configurations"][configuration]["data_identifier"]
            worst, voxels, cases = compare_cases(theirs / folder, ours / folder, f"{name} {configuration}")
            compared = f"{configuration}: {cases} cases, {voxels / 1e6:.1f} M voxels; seg, locations equal; data"
            row("preprocess", name, compared, f"{worst:.1e}", seconds)
        if job["configurations"]:
            identifiers, ours_too = (sorted(p.name.split(".")[0] for p in (f / "gt_segmentations").iterdir())
                                     for f in (theirs, ours))
            require(identifiers == ours_too, name, "gt_segmentations", identifiers, ours_too)
            if job.get("splits"):
                splits = generate_crossval_split(identifiers, seed=12345, n_splits=5)
                require([{k: list(v) for k, v in s.items()} for s in splits] == job["splits"], name, "splits")
                row("splits", name, "5 folds", "none")
    print("\n" + json.dumps(table))


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](*(Path(p).resolve() for p in sys.argv[2:]))
