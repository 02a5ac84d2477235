"""CPU seconds that nnU-Net's loader takes for a batch in one process on one thread, from cases in memory.

usage: augment_speed.py TRAINER BATCHES BATCH_SIZE Z Y X PATCH... where Z Y X is the shape of the case.
Prints the seconds of one batch.
"""

import sys
import time

import numpy as np
import torch

from loader import training_loader


def main(name, batches, batch_size, *sizes):
    shape, patch = sizes[:3], sizes[3:]
    z, y, x = np.indices(shape)
    random = np.random.RandomState(0)
    data = (np.sin(z / 3) + np.cos(y / 4) * np.sin(x / 5) + random.rand(*shape)).astype(np.float32)[None]
    seg = np.clip(np.sin(z / 9) + np.cos(y / 11) + np.sin(x / 8), -1, 2).astype(np.int16)[None]
    locations = {label: np.argwhere(seg == label)[:10000] for label in (1, 2)}
    scales = [[0.5**i] * len(patch) for i in range(5)]
    loader = training_loader(name, data, seg, locations, batch_size, patch, scales)
    for _ in range(3):
        loader.generate_train_batch()
    start = time.process_time()
    for _ in range(batches):
        loader.generate_train_batch()
    print((time.process_time() - start) / batches)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], *map(int, sys.argv[2:]))
