"""Trainings that pass between Python nnU-Net and Rounds; for tests/parity/continued.rs.

continued.py ROOT begin DATASET    Python's nnUNetTrainer_5epochs trains three epochs and is broken off.
continued.py ROOT finish DATASET   It goes on as `nnUNetv2_train --c` does, for one epoch more than Rounds trained.
Both print which epochs were trained, and the log's length. ROOT holds nnU-Net's three folders.
"""

import json
import os
import sys
import warnings
from pathlib import Path

root = Path(sys.argv[1])
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = str(root / name)
os.environ["nnUNet_n_proc_DA"] = "0"
os.environ["nnUNet_compile"] = "f"
warnings.simplefilter("ignore")

import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint


class BrokenOff(Exception):
    pass


def main(what, dataset):
    torch.manual_seed(0)
    torch.set_num_threads(2)
    go_on = what == "finish"
    trainer = get_trainer_from_args(
        dataset, "2d", 0, "nnUNetTrainer_5epochs", "nnUNetPlans", go_on, device=torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 1
    trainer.save_every = 2
    maybe_load_checkpoint(trainer, go_on, False, None)
    if go_on:
        trainer.num_epochs = 6
    epochs, finished = [], trainer.on_epoch_end

    def on_epoch_end():
        epochs.append(trainer.current_epoch)
        finished()
        if what == "begin" and len(epochs) == 3:
            raise BrokenOff

    trainer.on_epoch_end = on_epoch_end
    try:
        trainer.run_training()
    except BrokenOff:
        # The best one would be newer than the latest: a training is broken off without it too.
        pass
    print("RESULT " + json.dumps({"epochs": epochs, "log": len(trainer.logger.get_checkpoint()["lrs"])}))
    # The loaders' processes are not waited for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[2:])
