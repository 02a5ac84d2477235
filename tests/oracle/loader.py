"""nnU-Net's loader of training batches, with a trainer's augmentation, of one case in memory."""

from types import SimpleNamespace

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from trainers import trainer_class


def training_loader(name, data, seg, locations, batch_size, patch, scales=None):
    """Batches of `data` and `seg` (1, z, y, x), whose foreground is sampled from `locations` by label, as the trainer makes
    them; the seed is always the same. `scales`: those of deep supervision."""
    case = SimpleNamespace(identifiers=["a"],
                           load_case=lambda _: (data, seg, None, {"class_locations": locations}))
    trainer = trainer_class(name)
    configuration = SimpleNamespace(configuration_manager=SimpleNamespace(patch_size=patch),
                                    print_to_log_file=lambda *_: None)
    rotation, dummy, initial, axes = \
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(configuration)
    transforms = trainer.get_training_transforms(patch, rotation, scales, axes, dummy)
    labels = SimpleNamespace(all_labels=[0, 1, 2], has_ignore_label=False)
    np.random.seed(1)
    torch.manual_seed(1)
    return nnUNetDataLoader(case, batch_size, initial, patch, labels, 0.33, transforms=transforms)
