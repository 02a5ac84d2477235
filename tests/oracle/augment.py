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
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform, \
    MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
from batchgeneratorsv2.transforms.local.local_gamma import LocalGammaTransform
from batchgeneratorsv2.transforms.noise.blank_rectangle import BlankRectangleTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.noise.median_filter import MedianFilterTransform
from batchgeneratorsv2.transforms.noise.sharpen import SharpeningTransform
from batchgeneratorsv2.transforms.spatial import spatial
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5, \
    nnUNetTrainerDA5ord0, nnUNetTrainerDA5Segord0
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDAOrd0 import nnUNetTrainer_DASegOrd0

# By augmentation, nearest segmentation and nearest image.
TRAINERS = {
    ("None", False, False): nnUNetTrainer,
    ("Default", False, False): nnUNetTrainer,
    ("Default", True, False): nnUNetTrainer_DASegOrd0,
    ("Heavy", False, False): nnUNetTrainerDA5,
    ("Heavy", True, False): nnUNetTrainerDA5Segord0,
    ("Heavy", True, True): nnUNetTrainerDA5ord0,
}

# Kept, since the samples and the bounds replace them for a moment.
MATRIX_3D, MATRIX_2D = spatial.create_affine_matrix_3d, spatial.create_affine_matrix_2d


def chosen(values):
    """The channels that have a value, and the values."""
    return torch.tensor([i for i, v in enumerate(values) if v is not None]), [v for v in values if v is not None]


def numbers(values, name):
    channels, given = chosen(values)
    return {"apply_to_channel": channels, name: torch.tensor(given, dtype=torch.float32)}


def by_channel(values, name, applies, default):
    return {applies: [v is not None for v in values], name: [default if v is None else v for v in values]}


def kernels(transform, locals_, shape):
    """The kernels of a local transform at given places."""
    def kernel(local):
        # In 2D the places carry a z too, which is not asked for.
        transform.loc = lambda shape, d: local["centre"][d - len(shape)] / shape[d]
        transform.scale = lambda shape, d: local["sigma"][d - len(shape)]
        return transform._generate_kernel(shape)
    return [local and kernel(local) for local in locals_]


def parameters(transform, kind, drawn, image, noise):
    """The parameters of a transform from what was drawn, or None where that is for another transform."""
    n, dims = image.shape[0], image.ndim - 1
    flat = 3 - dims
    if isinstance(transform, Rot90Transform) and kind == "quarter_turns":
        return {"num_rot_per_combination": [drawn["count"]],
                "axis_combinations": [[a - flat + 1 for a in drawn["axes"]]]}
    if isinstance(transform, TransposeAxesTransform) and kind == "transposition":
        return {"axis_order": [0] + [a - flat + 1 for a in drawn["axes"][flat:]]}
    if isinstance(transform, GaussianNoiseTransform) and kind == "noise":
        torch.Tensor.normal_ = lambda self, mean=0.0, std=1.0: self.copy_(noise)
        return {"apply_mask": torch.ones(n) > 0, "apply_idx": torch.arange(n), "num_apply": n,
                "sigmas": drawn["sigma"]}
    if isinstance(transform, MedianFilterTransform) and kind == "median":
        return by_channel(drawn["sizes"], "filter_sizes", "apply_channel", 2)
    if isinstance(transform, GaussianBlurTransform) and kind == "blur":
        transform.benchmark = False  # it chooses by the clock between two ways of computing the same
        sigmas = drawn["sigmas"]
        return {"apply_to_channel": torch.tensor([s is not None for s in sigmas]),
                "sigmas": [s[-dims:] for s in sigmas if s is not None]}
    if isinstance(transform, MultiplicativeBrightnessTransform) and kind == "brightness":
        return numbers(drawn, "multipliers")
    if isinstance(transform, BrightnessAdditiveTransform) and kind == "shift":
        return {"apply_to_channel": chosen(drawn)[0], "shift": torch.tensor([v or 0.0 for v in drawn])}
    if isinstance(transform, ContrastTransform) and kind == "contrast":
        return numbers(drawn["factors"], "multipliers") if drawn["keep_range"] == transform.preserve_range else None
    if isinstance(transform, SimulateLowResolutionTransform) and kind == "low_resolution":
        channels, scales = chosen(drawn["scales"])
        return {"apply_to_channel": channels,
                "scales": torch.tensor([s[-dims:] for s in scales], dtype=torch.float32)}
    if isinstance(transform, GammaTransform) and kind == "gamma":
        if drawn["inverted"] != (transform.p_invert_image == 1):
            return None
        return {**numbers(drawn["exponents"], "gamma"), "retain_stats": torch.ones(n) > 0,
                "invert_image": torch.tensor([drawn["inverted"]] * n)}
    if isinstance(transform, MirrorTransform) and kind == "mirror":
        return {"axes": [i - flat for i, mirrored in enumerate(drawn) if mirrored]}
    if isinstance(transform, BlankRectangleTransform) and kind == "rectangles":
        return by_channel([rectangles and [(r["low"][flat:], [a + b for a, b in zip(r["low"], r["size"])][flat:])
                                           for r in rectangles] for rectangles in drawn["channels"]],
                          "rectangles", "apply_channel", [])
    if isinstance(transform, BrightnessGradientAdditiveTransform) and kind == "gradient":
        fields = kernels(transform, drawn, image.shape[1:])
        # As its get_parameters does with a kernel and a strength.
        return {"kernels": [f if f is None else f / np.abs(f).max() * local["value"]
                            for f, local in zip(fields, drawn)]}
    if isinstance(transform, LocalGammaTransform) and kind == "local_gamma":
        return {"kernels": kernels(transform, drawn, image.shape[1:]),
                "gammas": [local and local["value"] for local in drawn]}
    if isinstance(transform, SharpeningTransform) and kind == "sharpening":
        return {**by_channel(drawn, "strengths", "apply_channel", 0.0), "clamp_intensities": [False] * n}
    return None


def random_ones(transform):
    """The transforms that a step of the pipeline may apply at random; none for one that it always applies."""
    if isinstance(transform, OneOfTransform):
        return [t.transform for t in transform.list_of_transforms]
    if isinstance(transform, RandomTransform):
        return [transform.transform]
    return [transform] if isinstance(transform, MirrorTransform) else []


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
    trainer = TRAINERS[settings["augmentation"], settings["nearest"], settings["nearest_image"]]
    regions = settings["regions"] and [tuple(r) if len(r) > 1 else r[0] for r in settings["regions"]]
    scales = settings["scales"]
    if settings["augmentation"] != "None":
        rotation = settings["rotation"]
        pipeline = trainer.get_training_transforms(
            tuple(settings["patch_size"][-dims:]), (-rotation, rotation), scales, tuple(settings["mirror_axes"]),
            settings["dummy_2d"], use_mask_for_norm=settings["use_mask_for_norm"], regions=regions,
            ignore_label=settings["ignore_label"])
    else:
        pipeline = trainer.get_validation_transforms(scales, regions=regions, ignore_label=settings["ignore_label"])
    left = [next(iter(one.items())) for one in drawn["transforms"]]
    noise = None
    if "noise" in dict(left):
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
            elif candidates := random_ones(transform):
                given = [(t, parameters(t, *left[0], values["image"], noise)) for t in candidates if left]
                for inner, params in given:
                    if params is not None:
                        values = inner.apply(values, **params)
                        left.pop(0)
            else:
                values = transform(**values)
    if left:
        raise RuntimeError(f"{name}: {left} are in no such order in {trainer.__name__}")
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


def configuration(trainer_class, patch_size):
    trainer = SimpleNamespace(configuration_manager=SimpleNamespace(patch_size=patch_size),
                              print_to_log_file=lambda *_: None)
    rotation, dummy, initial, axes = \
        trainer_class.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
    return {"rotation": rotation[1], "dummy_2d": bool(dummy), "initial": [int(i) for i in initial],
            "mirror_axes": list(axes)}


def main():
    folder = Path(sys.argv[1])
    requests = json.loads((folder / "requests.json").read_text())
    answers = {
        "matrices": [MATRIX_3D(r["angles"], r["scales"]).tolist() for r in requests["matrices"]],
        "in_plane": [MATRIX_2D(r["angles"][2], r["scales"][1:]).tolist() for r in requests["matrices"]],
        "bounds": [bounds(r) for r in requests["bounds"]],
        "configurations": {name: [configuration(trainer, p) for p in requests["patch_sizes"]]
                           for name, trainer in (("Default", nnUNetTrainer), ("Heavy", nnUNetTrainerDA5))},
    }
    for request in requests["samples"]:
        sample(folder, request)
    (folder / "answers.json").write_text(json.dumps(answers))


main()
