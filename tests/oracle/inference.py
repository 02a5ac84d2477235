"""Python nnU-Net's inference at one site: a cascade, ensembling, post-processing, the best configuration, model zips.

argv[1]: a folder. `make` as argv[2] fills start/ with nnU-Net's three folders (two random models, one of them a
cascade, with their cross-validation), runs Python's own commands on a copy, python/, and leaves a second copy, rust/,
for ours. `check` reads what ours made of it.
"""

import json
import os
import shutil
import sys
import warnings
from multiprocessing.pool import ThreadPool
from pathlib import Path

work = Path(sys.argv[1])
NAMES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
for name in NAMES:
    os.environ[name] = str(work / "python" / name)
os.environ["nnUNet_def_n_proc"] = "2"
warnings.simplefilter("ignore")

import multiprocessing

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
from nnunetv2.evaluation.find_best_configuration import find_best_configuration
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing_to_folder,
    determine_postprocessing,
    load_pickle,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DATASET = "Dataset001_Tiny"
LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"


class Threads:
    """nnU-Net starts processes, each of which imports torch anew: threads do the same work in a tenth of the time."""

    Pool = ThreadPool


multiprocessing.get_context = lambda *_: Threads


def write(path, voxels):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.2, 1.7, 2.1))
    image.SetOrigin((3.0, -4.0, 5.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def model(results, configuration):
    return results / DATASET / f"nnUNetTrainer__nnUNetPlans__{configuration}"


def make_models(start, documents):
    """Two folds of each configuration, with weights that no training has seen."""
    plans = PlansManager(documents["plans.json"])
    dataset = documents["dataset.json"]
    for seed, configuration in enumerate((LOWRES, CASCADE)):
        manager = plans.get_configuration(configuration)
        channels = determine_num_input_channels(plans, manager, dataset)
        folder = model(start / "nnUNet_results", configuration)
        for fold in (0, 1):
            torch.manual_seed(10 * seed + fold)
            heads = plans.get_label_manager(dataset).num_segmentation_heads
            network = nnUNetTrainer.build_network_architecture(plans, manager, channels, heads, False)
            checkpoint = {
                "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": configuration}, "inference_allowed_mirroring_axes": (0, 1, 2),
            }
            target = folder / f"fold_{fold}"
            (target / "validation").mkdir(parents=True)
            torch.save(checkpoint, target / "checkpoint_final.pth")
            (target / "progress.png").write_bytes(b"a picture")
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document))
        (folder / "dataset_fingerprint.json").write_text("{}")


def predict(results, configuration, output, previous, folds=(0, 1)):
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model(results, configuration)), folds, "checkpoint_final.pth")
    output.mkdir(parents=True)
    previous = None if previous is None else str(previous)
    predictor.predict_from_files_sequential(str(work / "images"), str(output), True, True, previous)


def make_scores(folder, regions):
    """Predictions of four cases whose specks are wrong for some labels and right for others."""
    random = np.random.default_rng(int(regions))
    for case in range(4):
        truth = np.zeros((9, 20, 22), np.uint8)
        truth[2:7, 3:10, 3:11] = 1
        if regions:
            truth[3:6, 5:8, 11:19] = 2
            truth[4, 6, 14:19] = 3
        else:
            truth[3:6, 5:8, 12:19] = 2
            truth[5:8, 14:18, 4:7] = 3
            truth[0, 0, :2] = 3
        predicted = truth.copy()
        predicted[random.random(truth.shape) < 0.01] = 1
        predicted[8, 18:, 18:] = 2
        predicted[5:8, 14:16, 4:7] = 0
        write(folder / "references" / f"case_{case}.nii.gz", truth)
        write(folder / "predictions" / f"case_{case}.nii.gz", predicted)


def make():
    documents = {name: json.loads((work / name).read_text()) for name in ("plans.json", "dataset.json")}
    start = work / "start"
    make_models(start, documents)
    random = np.random.default_rng(3)
    grid = np.indices((14, 24, 33)).astype(np.float32)
    for case in range(2):
        wave = sum(np.sin(axis * (0.2 + 0.1 * case + 0.05 * n)) for n, axis in enumerate(grid))
        image = (5 + wave + random.random(wave.shape)).astype(np.float32)
        image[:, :3] = 0
        write(work / "images" / f"case_{case}_0000.nii.gz", image)
        labels = np.digitize(wave, (0.4, 1.4)).astype(np.uint8)
        write(start / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / f"case_{case}.nii.gz", labels)
        write(start / "nnUNet_raw" / DATASET / "labelsTr" / f"case_{case}.nii.gz", labels)
    (start / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").write_text(json.dumps(documents["plans.json"]))
    results = start / "nnUNet_results"

    predictions = work / "predictions"
    predict(results, LOWRES, predictions / LOWRES, None)
    predict(results, CASCADE, predictions / CASCADE, predictions / LOWRES)
    ensemble_folders([str(predictions / LOWRES), str(predictions / CASCADE)], str(work / "ensemble"), True, 1)
    # Case n is what fold n validates.
    for configuration in (LOWRES, CASCADE):
        for case in range(2):
            validation = model(results, configuration) / f"fold_{case}" / "validation"
            for file in (predictions / configuration).glob(f"case_{case}.*"):
                shutil.copy(file, validation)
            (validation / "summary.json").write_text("{}")
    for copy in ("python", "rust"):
        shutil.copytree(start, work / copy)

    models = [{"plans": "nnUNetPlans", "configuration": c, "trainer": "nnUNetTrainer"} for c in (LOWRES, CASCADE)]
    find_best_configuration(DATASET, models, folds=(0, 1), num_processes=2)
    export_pretrained_model(DATASET, str(work / "python.zip"), (LOWRES, CASCADE), folds=(0, 1))

    for name, document in (("labels", "scores_labels.json"), ("regions", "scores_regions.json")):
        folder = work / "scores" / name
        make_scores(folder, name == "regions")
        dataset = json.loads((work / document).read_text())
        shutil.copytree(folder / "predictions", folder / "rust")
        predicted = str(folder / "predictions")
        determine_postprocessing(predicted, str(folder / "references"), documents["plans.json"], dataset, 2)
    simple = work / "scores" / "labels"
    compute_metrics_on_folder_simple(
        str(simple / "references"), str(simple / "rust"), [1, 3], str(work / "simple.json"), 2, 2)


def check():
    """Our post-processing and our zip, taken by Python's own commands."""
    plans = json.loads((work / "plans.json").read_text())
    for name in ("labels", "regions"):
        folder = work / "scores" / name
        dataset = json.loads((work / f"scores_{name}.json").read_text())
        steps = load_pickle(str(folder / "rust" / "postprocessing.pkl"))
        assert len(steps[0]) > 0, "nothing was decided: this shows nothing"
        applied = folder / "applied_by_python"
        apply_postprocessing_to_folder(str(folder / "rust"), str(applied), *steps, plans, dataset, 2)
        for file in sorted(applied.glob("*.nii.gz")):
            for other in ("predictions/postprocessed", "rust/postprocessed", "applied_by_rust"):
                assert np.array_equal(read(file), read(folder / other / file.name)), (file, other)

    results = Path(os.environ["nnUNet_results"])
    before = {p.relative_to(results): p.read_bytes() for p in results.rglob("*") if p.is_file()}
    shutil.rmtree(results)
    install_model_from_zip_file(str(work / "rust.zip"))
    installed = {p.relative_to(results): p.read_bytes() for p in results.rglob("*") if p.is_file()}
    weights = [path for path in installed if path.suffix == ".pth"]
    assert len(weights) == 4 and all(installed[path] == before[path] for path in weights)
    predict(results, LOWRES, work / "predicted_with_installed", None)


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[2]]()
