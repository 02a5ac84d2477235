"""Applies batchgeneratorsv2's transforms, as nnUNetTrainer puts them together, with given parameters.

usage: augment.py FOLDER. Reads FOLDER/requests.json and the arrays it names; writes FOLDER/answers.json and,
per sample, NAME.data (float32) and NAME.target0 ... (int16).
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial import spatial
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDAOrd0 import nnUNetTrainer_DASegOrd0

# Kept, since the samples and the bounds replace them for a moment.
MATRIX_3D, MATRIX_2D = spatial.create_affine_matrix_3d, spatial.create_affine_matrix_2d


def channels_where(values):
    return torch.tensor([i for i, v in enumerate(values) if v is not None])


def factors(values):
    return {"apply_to_channel": torch.arange(len(values)), "multipliers": torch.tensor(values, dtype=torch.float32)}


def parameters(transform, drawn, image, noise, dims):
    """The parameters of a RandomTransform's inner transform, or None where it was not drawn."""
    n = image.shape[0]
    if isinstance(transform, GaussianNoiseTransform):
        if drawn["noise"] is None:
            return None
        torch.Tensor.normal_ = lambda self, mean=0.0, std=1.0: self.copy_(noise)
        return {"apply_mask": torch.ones(n) > 0, "apply_idx": torch.arange(n), "num_apply": n,
                "sigmas": drawn["noise"]["sigma"]}
    if isinstance(transform, GaussianBlurTransform):
        if drawn["blur"] is None:
            return None
        transform.benchmark = False  # it chooses by the clock between two ways of computing the same
        sigmas = drawn["blur"]["sigmas"]
        return {"apply_to_channel": torch.tensor([s is not None for s in sigmas]),
                "sigmas": [s[-dims:] for s in sigmas if s is not None]}
    if isinstance(transform, MultiplicativeBrightnessTransform):
        return None if drawn["brightness"] is None else factors(drawn["brightness"])
    if isinstance(transform, ContrastTransform):
        return None if drawn["contrast"] is None else factors(drawn["contrast"])
    if isinstance(transform, SimulateLowResolutionTransform):
        if drawn["low_resolution"] is None:
            return None
        scales = drawn["low_resolution"]["scales"]
        return {"apply_to_channel": channels_where(scales),
                "scales": torch.tensor([s[-dims:] for s in scales if s is not None], dtype=torch.float32)}
    if isinstance(transform, GammaTransform):
        inverted = transform.p_invert_image == 1
        exponents = drawn["gamma_inverted" if inverted else "gamma"]
        if exponents is None:
            return None
        return {"apply_to_channel": torch.arange(n), "retain_stats": torch.ones(n) > 0,
                "invert_image": torch.tensor([inverted] * n), "gamma": torch.tensor(exponents, dtype=torch.float32)}
    raise RuntimeError(f"unexpected {transform}")


def sample(folder, request):
    settings, drawn, name = request["settings"], request["drawn"], request["name"]
    shape, dims = request["shape"], 2 if settings["is_2d"] else 3
    data = np.fromfile(folder / f"{name}.in.data", np.float32).reshape(request["channels"], *shape)
    seg = np.fromfile(folder / f"{name}.in.seg", np.int16).reshape(1, *shape)
    bbox = [[s, s + n] for s, n in zip(request["start"], request["size"])]
    image = torch.from_numpy(crop_and_pad_nd(data, bbox, 0)).float()
    labels = torch.from_numpy(crop_and_pad_nd(seg, bbox, -1, cast_cropped_to=np.int16)).to(torch.int16)
    if dims == 2:
        image, labels = image[:, 0], labels[:, 0]
    trainer = nnUNetTrainer_DASegOrd0 if settings["nearest"] else nnUNetTrainer
    regions = settings["regions"] and [tuple(r) if len(r) > 1 else r[0] for r in settings["regions"]]
    scales = settings["scales"]
    if request["train"]:
        rotation = settings["rotation"]
        pipeline = trainer.get_training_transforms(
            tuple(settings["patch_size"][-dims:]), (-rotation, rotation), scales, tuple(settings["mirror_axes"]),
            settings["dummy_2d"], use_mask_for_norm=settings["use_mask_for_norm"], regions=regions,
            ignore_label=settings["ignore_label"])
    else:
        pipeline = trainer.get_validation_transforms(scales, regions=regions, ignore_label=settings["ignore_label"])
    noise = None
    if drawn["noise"] is not None:
        noise = torch.from_numpy(np.fromfile(folder / f"{name}.noise", np.float32))
        noise = noise.reshape(request["channels"], *settings["patch_size"][-dims:])
    values = {"image": image, "segmentation": labels}
    with torch.no_grad():
        for transform in pipeline.transforms:
            if isinstance(transform, spatial.SpatialTransform):
                matrix = drawn["spatial"] and np.array(drawn["spatial"]["matrix"])
                transform.p_rotation, transform.p_scaling = (0, 0) if matrix is None else (1, 0)
                spatial.create_affine_matrix_3d = lambda angles, scale: matrix
                spatial.create_affine_matrix_2d = lambda angle, scale: matrix[1:, 1:]
                values = transform(**values)
            elif isinstance(transform, RandomTransform):
                params = parameters(transform.transform, drawn, values["image"], noise, dims)
                if params is not None:
                    values = transform.transform.apply(values, **params)
            elif isinstance(transform, MirrorTransform):
                axes = [i - (3 - dims) for i, mirrored in enumerate(drawn["mirror"]) if mirrored]
                values = transform.apply(values, axes=axes)
            else:
                values = transform(**values)
    values["image"].contiguous().numpy().tofile(folder / f"{name}.data")
    targets = values["segmentation"] if isinstance(values["segmentation"], list) else [values["segmentation"]]
    for i, target in enumerate(targets):
        target.to(torch.int16).contiguous().numpy().tofile(folder / f"{name}.target{i}")


def bounds(request):
    """The ranges that nnU-Net's loader draws a free position from, and a forced position."""
    loader = nnUNetDataLoader.__new__(nnUNetDataLoader)
    loader.patch_size = request["initial"]
    loader.need_to_pad = np.array(request["initial"]) - np.array(request["final"])
    loader.has_ignore = False
    loader.annotated_classes_key = (-1, 0, 1)
    ranges = []

    def record(low, high):
        ranges.append([int(low), int(high) - 1])
        return low

    kept, np.random.randint = np.random.randint, record
    try:
        loader.get_bbox(request["shape"], False, None)
        forced, _ = loader.get_bbox(request["shape"], True, {1: np.array([[0, *request["voxel"]]])})
    finally:
        np.random.randint = kept
    return {"ranges": ranges, "forced": [int(i) for i in forced]}


def configuration(patch_size):
    trainer = SimpleNamespace(configuration_manager=SimpleNamespace(patch_size=patch_size),
                              print_to_log_file=lambda *_: None)
    rotation, dummy, initial, axes = \
        nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
    return {"rotation": rotation[1], "dummy_2d": bool(dummy), "initial": [int(i) for i in initial],
            "mirror_axes": list(axes)}


def main():
    folder = Path(sys.argv[1])
    requests = json.loads((folder / "requests.json").read_text())
    answers = {
        "matrices": [MATRIX_3D(r["angles"], [r["scale"]] * 3).tolist() for r in requests["matrices"]],
        "in_plane": [MATRIX_2D(r["angles"][2], [r["scale"]] * 2).tolist() for r in requests["matrices"]],
        "bounds": [bounds(r) for r in requests["bounds"]],
        "configurations": [configuration(p) for p in requests["patch_sizes"]],
    }
    for request in requests["samples"]:
        sample(folder, request)
    (folder / "answers.json").write_text(json.dumps(answers))


main()
