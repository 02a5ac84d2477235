"""A model of many classes whose untrained network has a few channels, and a CT-like scan: what their prediction takes
is reading, preprocessing and above all export.

large_case.py PLANS FOLDER SLICES CLASSES

PLANS are nnU-Net's of any data set. Writes FOLDER/model, whose network works on 1.6 x 1.6 x 2 mm, and FOLDER/images with
a scan of 512 x 512 x SLICES voxels of 0.8 x 0.8 x 1 mm.
"""

import json
import os
import sys
from pathlib import Path

# nnU-Net asks for them where it is imported.
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, ".")

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

FEATURES = [4, 8, 8]


def model(plans, folder, classes):
    plans = json.loads(plans.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration.update(spacing=[2.0, 1.6, 1.6], patch_size=[128, 128, 128],
                         normalization_schemes=["CTNormalization"], batch_dice=False)
    architecture = configuration["architecture"]
    stages = len(FEATURES)
    architecture["arch_kwargs"].update(
        n_stages=stages, features_per_stage=FEATURES, kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1), n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1))
    plans["configurations"] = {"3d_fullres": configuration}
    plans["transpose_forward"] = plans["transpose_backward"] = [0, 1, 2]
    labels = {"background": 0} | {f"class {i}": i for i in range(1, classes)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.manual_seed(0)
    network = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], 1,
        classes, deep_supervision=False)
    torch.save({"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": (0, 1, 2)},
               folder / "fold_0/checkpoint_final.pth")


def scan(folder, slices):
    folder.mkdir(parents=True)
    z, y, x = np.ogrid[:slices, :512, :512]
    values = 300 * np.sin(z * 0.03) + 200 * np.sin(y * 0.05) + 200 * np.sin(x * 0.04)
    image = sitk.GetImageFromArray(values.astype(np.int16))
    image.SetSpacing((0.8, 0.8, 1.0))
    sitk.WriteImage(image, str(folder / "scan_0000.nii.gz"), True, 1)


def make(plans, folder, slices, classes):
    model(plans, folder / "model", classes)
    scan(folder / "images", slices)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
