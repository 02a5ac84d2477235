"""training.py DATASET ITERATIONS: two short epochs of nnUNetTrainer, 3d_fullres, fold "all", on the CPU.

With nnU-Net's own loaders and loop; an epoch has so many iterations and one validation iteration.
"""
import sys

import torch
from nnunetv2.run.run_training import get_trainer_from_args


def main(dataset, iterations):
    trainer = get_trainer_from_args(dataset, "3d_fullres", "all", device=torch.device("cpu"))
    trainer.num_epochs = 2
    trainer.num_iterations_per_epoch = iterations
    trainer.num_val_iterations_per_epoch = 1
    trainer.disable_checkpointing = True
    trainer.run_training()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
