"""Losses, and whole training epochs, of Python nnU-Net.

learning.py losses FOLDER: reads FOLDER/losses.json, a list of {name, trainer, regions, ignore, batch_dice, shapes}, and
FOLDER/NAME.bin (float32 outputs of all resolutions, then targets). Writes FOLDER/NAME.out: the loss, then its gradients.

learning.py train FOLDER: reads FOLDER/trainings.json, a list of {name, trainer, architecture, channels, heads, regions,
ignore, batch_dice, batch_size, epochs, iterations, total_epochs} and FOLDER/NAME.bin (float32: weights in optimizer
order, with running statistics, one image, its segmentation). Every batch is that case, batch_size times. Writes
FOLDER/NAME.out: validation loss, TP, FP, FN of the given weights, then per epoch the loss, then weights and what the
optimizer remembers; and FOLDER/NAME.momenta.json, the names of the latter.
"""
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from trainers import bare_trainer, trainer_class


def loss_of(case, outputs):
    trainer = SimpleNamespace(
        label_manager=SimpleNamespace(
            has_regions=case["regions"], ignore_label=case["ignore"], has_ignore_label=case["ignore"] is not None),
        configuration_manager=SimpleNamespace(batch_dice=case["batch_dice"]),
        is_ddp=False, enable_deep_supervision=True,
        _do_i_compile=lambda: False, _get_deep_supervision_scales=lambda: [None] * outputs)
    return trainer_class(case["trainer"])._build_loss(trainer)


def read(file, shape):
    count = int(np.prod(shape))
    return torch.from_numpy(np.frombuffer(file.read(4 * count), "<f4").reshape(shape).copy())


def write(path, tensors):
    with open(path, "wb") as file:
        for tensor in tensors:
            file.write(torch.as_tensor(tensor).detach().contiguous().numpy().astype("<f4").tobytes())


def losses(folder):
    for case in json.loads((folder / "losses.json").read_text()):
        with open(folder / f"{case['name']}.bin", "rb") as file:
            outputs = [read(file, shape).requires_grad_() for shape, _ in case["shapes"]]
            targets = [read(file, shape) for _, shape in case["shapes"]]
        if case["regions"]:
            targets = [t.bool() for t in targets]
        value = loss_of(case, len(outputs))(outputs, targets)
        value.backward()
        gradients = [torch.zeros_like(o) if o.grad is None else o.grad for o in outputs]
        write(folder / f"{case['name']}.out", [value.reshape(1), *gradients])


def train(folder):
    for case in json.loads((folder / "trainings.json").read_text()):
        architecture = case["architecture"]
        of_plans = SimpleNamespace(
            network_arch_class_name=architecture["network_class_name"],
            network_arch_init_kwargs=architecture["arch_kwargs"],
            network_arch_init_kwargs_req_import=architecture["_kw_requires_import"])
        trainer = bare_trainer(case["trainer"], case["total_epochs"])
        network = trainer.build_network_architecture(None, of_plans, case["channels"], case["heads"], True)
        parameters = list(network.named_parameters())
        state = list({t.data_ptr(): t for t in network.state_dict().values()}.values())
        patch = case["patch"]
        with open(folder / f"{case['name']}.bin", "rb") as file:
            with torch.no_grad():
                for tensor in state:
                    tensor.copy_(read(file, tensor.shape))
            image, seg = read(file, [case["channels"], *patch]), read(file, [1, *patch])
        data = torch.stack([image] * case["batch_size"])
        if case["regions"]:
            maps = [torch.isin(seg[0], torch.tensor(region, dtype=seg.dtype)) for region in case["regions"]]
            if case["ignore"] is not None:
                maps.append(seg[0] == case["ignore"])
            seg = torch.stack(maps)
        seg = torch.stack([seg] * case["batch_size"])
        targets, scale = [], np.ones(len(patch))
        for stride in architecture["arch_kwargs"]["strides"][:-1]:
            scale = scale / np.array(stride)
            size = [round(n * s) for n, s in zip(patch, scale)]
            t = torch.nn.functional.interpolate(seg.float(), size, mode="nearest-exact")
            targets.append(t.bool() if case["regions"] else t)
        loss = loss_of({**case, "regions": bool(case["regions"])}, len(targets))
        # validation_step of nnUNetTrainer, in its own words
        step = SimpleNamespace(
            device=torch.device("cpu"), network=network, loss=loss, enable_deep_supervision=True,
            label_manager=SimpleNamespace(
                has_regions=bool(case["regions"]), has_ignore_label=case["ignore"] is not None,
                ignore_label=case["ignore"]))
        network.eval()
        with torch.no_grad():
            result = nnUNetTrainer.validation_step(step, {"data": data, "target": [t.clone() for t in targets]})
        out = [torch.as_tensor(result[key]).reshape(-1) for key in ("loss", "tp_hard", "fp_hard", "fn_hard")]
        trainer.network = network.train()
        optimizer, scheduler = trainer.configure_optimizers()
        step.optimizer, step.grad_scaler = optimizer, None
        for epoch in range(case["epochs"]):
            scheduler.step(epoch)
            epoch_losses = [
                float(nnUNetTrainer.train_step(step, {"data": data, "target": targets})["loss"])
                for _ in range(case["iterations"])]
            out.append(torch.tensor([np.mean(epoch_losses)], dtype=torch.float32))
        momenta = [(f"{name}.{kind}", value) for name, p in parameters
                   for kind, value in optimizer.state[p].items() if value is not None]
        write(folder / f"{case['name']}.out", [*out, *state, *[m for _, m in momenta]])
        (folder / f"{case['name']}.momenta.json").write_text(json.dumps([name for name, _ in momenta]))


{"losses": losses, "train": train}[sys.argv[1]](Path(sys.argv[2]))
