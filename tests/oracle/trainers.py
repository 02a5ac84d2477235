"""The trainers of Python nnU-Net: their names and numbers, their optimizers, and checkpoints in both directions.

trainers.py table NAMES: prints the names of all trainers, and for those of the JSON list NAMES epochs, learning rate,
optimizer and scheduler.

trainers.py steps FOLDER: FOLDER/trainers.json lists {name, steps}; Rounds wrote NAME.start.pth, its results folder after
the first half of the steps, NAME.bin (float32: the gradients of all parameters but those of the lowest head, step by
step; then a preprocessed image) and image.json, the shape of the latter. Writes what Python makes of it: NAME.all.pth,
all steps from the start; NAME.continued.pth, the second half from Rounds' checkpoint, continued as `nnUNetv2_train --c`
does; and NAME.logits (float32), the image predicted with Rounds' checkpoint.
"""
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

if __name__ == "__main__":
    for variable in ("raw", "preprocessed", "results"):
        base = Path(sys.argv[2]) if sys.argv[1] == "steps" else Path(tempfile.gettempdir())
        os.environ[f"nnUNet_{variable}"] = str(base / f"nnUNet_{variable}")
    warnings.simplefilter("ignore")

import numpy as np
import torch
import nnunetv2.training.nnUNetTrainer as package
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class


def trainer_class(name):
    found = recursive_find_python_class(package.__path__[0], name, "nnunetv2.training.nnUNetTrainer")
    assert found is not None, name
    return found


def bare_trainer(name, epochs=None):
    """A trainer with its numbers, but without data set and folders."""

    def numbers(self, *_, **__):
        self.initial_lr, self.weight_decay, self.num_epochs = 1e-2, 3e-5, 1000
        self.configuration_manager, self.current_epoch = SimpleNamespace(configuration={}, batch_size=2), 0
        self.oversample_foreground_percent = 0.33
        self.print_to_log_file, self.device = lambda *_, **__: None, torch.device("cpu")

    with mock.patch.object(nnUNetTrainer, "__init__", numbers):
        trainer = trainer_class(name)({}, "3d_fullres", 0, {}, torch.device("cpu"))
    if epochs is not None:
        trainer.num_epochs = epochs
    return trainer


def table(names):
    found = set()
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, nnUNetTrainer):
                found.add(value.__name__)
    numbers = {}
    for name in json.loads(names):
        trainer = bare_trainer(name)
        trainer.network = torch.nn.Linear(1, 1)
        optimizer, scheduler = trainer.configure_optimizers()
        numbers[name] = [trainer.num_epochs, trainer.initial_lr, type(optimizer).__name__, type(scheduler).__name__]
    print("RESULT " + json.dumps({"names": sorted(found), "numbers": numbers}))


def opened(folder, model, name):
    plans = json.loads((model / "plans.json").read_text()) | {"continue_training": True}
    dataset = json.loads((model / "dataset.json").read_text())
    trainer = trainer_class(name)(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.initialize()
    return trainer


def step(trainer, gradients):
    parameters = [(n, p) for n, p in trainer.network.named_parameters() if ".seg_layers.0." not in n]
    trainer.optimizer.zero_grad()
    for (_, parameter), gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
    trainer.optimizer.step()


def steps(folder):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    case = folder / "nnUNet_preprocessed" / "Dataset001_Tiny" / "nnUNetPlans_3d_fullres" / "case.npz"
    case.parent.mkdir(parents=True)
    np.savez(case, data=np.zeros(1), seg=np.zeros(1))
    shape = json.loads((folder / "image.json").read_text())
    for work in json.loads((folder / "trainers.json").read_text()):
        name, count = work["name"], work["steps"]
        model = folder / "nnUNet_results" / "Dataset001_Tiny" / f"{name}__nnUNetPlans__3d_fullres"
        ours = model / "fold_0" / "checkpoint_final.pth"
        values = torch.from_numpy(np.fromfile(folder / f"{name}.bin", "<f4"))

        trainer = opened(folder, model, name)
        loaded = torch.load(ours, weights_only=True)
        theirs = trainer.network.state_dict()
        assert [(k, v.dtype) for k, v in loaded["network_weights"].items()] == [(k, v.dtype) for k, v in theirs.items()]
        assert loaded["optimizer_state"]["param_groups"] == trainer.optimizer.state_dict()["param_groups"], name
        start = torch.load(folder / f"{name}.start.pth", weights_only=True)
        trainer.network.load_state_dict(start["network_weights"])
        gradients, at = [], 0
        for _ in range(count):
            gradients.append([])
            for key, parameter in trainer.network.named_parameters():
                if ".seg_layers.0." not in key:
                    gradients[-1].append(values[at : at + parameter.numel()].view(parameter.shape))
                    at += parameter.numel()
        for gradient in gradients:
            step(trainer, gradient)
        trainer.save_checkpoint(str(folder / f"{name}.all.pth"))

        trainer = opened(folder, model, name)
        trainer.load_checkpoint(str(ours))
        for gradient in gradients[count // 2 :]:
            step(trainer, gradient)
        trainer.save_checkpoint(str(folder / f"{name}.continued.pth"))

        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
        logits = predictor.predict_logits_from_preprocessed_data(values[at:].view(shape))
        logits.contiguous().float().numpy().astype("<f4").tofile(folder / f"{name}.logits")


if __name__ == "__main__":
    table(sys.argv[2]) if sys.argv[1] == "table" else steps(Path(sys.argv[2]))
