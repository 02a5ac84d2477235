"""Figures of the batches that nnU-Net's loader and augmentation make of one case.

batches.py FOLDER TRAINER BATCHES BATCH_SIZE PATCH...

FOLDER/case.in.data (float32) and case.in.seg (int16) are a case (1, 24, 44, 38). Prints, as JSON, the figures of each sample in
the order of tests/parity/augment/batches.rs.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from loader import training_loader

SHAPE = (1, 24, 44, 38)


def figures(image, seg):
    image = image.astype(np.float64)
    mean, deviation = image.mean(), image.std()
    skewness = ((image - mean) ** 3).mean() / max(deviation**3, 1e-12)
    axes = range(image.ndim)
    return [
        mean, deviation, image.min(), image.max(), skewness,
        *(np.abs(np.diff(image, axis=axis)).mean() for axis in axes),
        *((seg == label).mean() for label in (0, 1, 2)),
        *((np.diff(seg, axis=axis) != 0).mean() for axis in axes),
    ]


def main(folder, name, batches, batch_size, *patch):
    data = np.fromfile(folder / "case.in.data", "<f4").reshape(SHAPE)
    seg = np.fromfile(folder / "case.in.seg", "<i2").reshape(SHAPE)
    locations = {label: np.argwhere(seg == label) for label in (1, 2)}
    loader = training_loader(name, data, seg, locations, batch_size, patch)
    found = []
    for _ in range(batches):
        batch = loader.generate_train_batch()
        found += [[float(v) for v in figures(image[0].numpy(), target[0].numpy())]
                  for image, target in zip(batch["data"], batch["target"])]
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
