"""Plans with nnU-Net's own planners.

argv[1]: a folder of cases; each holds fingerprint.json, dataset.json and options.json (a list of
{"planner": class name, "kwargs": {...}}). Writes plans_<i>.json beside them for the i-th entry.
"""
import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

root = Path(sys.argv[1])
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = str(root / name)

import torch

from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as default
from nnunetv2.experiment_planning.experiment_planners.resampling import planners_no_resampling, resample_with_torch
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as residual
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO


def main():
    cases = sorted(p for p in root.iterdir() if (p / "fingerprint.json").is_file())
    for number, case in enumerate(cases):
        dataset = f"Dataset{number + 100:03d}_{case.name}"
        raw = root / "nnUNet_raw" / dataset
        preprocessed = root / "nnUNet_preprocessed" / dataset
        (raw / "imagesTr").mkdir(parents=True)
        (raw / "labelsTr").mkdir()
        preprocessed.mkdir(parents=True)
        shutil.copy(case / "dataset.json", raw / "dataset.json")
        shutil.copy(case / "fingerprint.json", preprocessed / "dataset_fingerprint.json")
        for i, options in enumerate(json.loads((case / "options.json").read_text())):
            modules = (default, residual, resample_with_torch, planners_no_resampling)
            planner_class = next(getattr(m, options["planner"]) for m in modules if hasattr(m, options["planner"]))
            # Networks are built only to count their voxels: without memory, they are built in no time.
            with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
                planner = planner_class(dataset, **options["kwargs"])
                # Only the reader's name is written into the plans; there are no images here to try it on.
                planner.determine_reader_writer = lambda: SimpleITKIO
                planner.plan_experiment()
            shutil.move(preprocessed / f"{planner.plans_identifier}.json", case / f"plans_{i}.json")


if __name__ == "__main__":
    main()
