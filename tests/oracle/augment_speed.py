"""CPU seconds that nnU-Net's loader takes for a batch in one process on one thread, from cases in memory.

usage: augment_speed.py TRAINER BATCHES BATCH_SIZE Z Y X PATCH... where Z Y X is the shape of the case.
Prints the seconds of one batch.
"""

import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

torch.set_num_threads(1)
trainer = {"nnUNetTrainer": nnUNetTrainer, "nnUNetTrainerDA5": nnUNetTrainerDA5}[sys.argv[1]]
batches, batch_size, *sizes = map(int, sys.argv[2:])
shape, patch = sizes[:3], sizes[3:]
z, y, x = np.indices(shape)
random = np.random.RandomState(0)
data = (np.sin(z / 3) + np.cos(y / 4) * np.sin(x / 5) + random.rand(*shape)).astype(np.float32)[None]
seg = np.clip(np.sin(z / 9) + np.cos(y / 11) + np.sin(x / 8), -1, 2).astype(np.int16)[None]
locations = {k: np.argwhere(seg == k)[:10000] for k in (1, 2)}


class Cases:
    identifiers = ["a"]

    @staticmethod
    def load_case(_):
        return data, seg, None, {"class_locations": locations}


configuration = SimpleNamespace(configuration_manager=SimpleNamespace(patch_size=patch),
                                print_to_log_file=lambda *_: None)
rotation, dummy, initial, axes = \
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(configuration)
scales = [[0.5 ** i] * len(patch) for i in range(5)]
transforms = trainer.get_training_transforms(patch, rotation, scales, axes, dummy)
labels = SimpleNamespace(all_labels=[0, 1, 2], has_ignore_label=False)
loader = nnUNetDataLoader(Cases, batch_size, initial, patch, labels, 0.33, transforms=transforms)
np.random.seed(1)
torch.manual_seed(1)
for _ in range(3):
    loader.generate_train_batch()
start = time.process_time()
for _ in range(batches):
    loader.generate_train_batch()
print((time.process_time() - start) / batches)
