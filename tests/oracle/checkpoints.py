"""Checkpoints as torch and nnU-Net leave them; for tests/parity/checkpoints.rs.

checkpoints.py FOLDER: reads FOLDER/ours.pth, which Rounds wrote, and writes the same weights in the ways in which
checkpoints of nnU-Net 2.x come, and files that try to run something. Prints the gradient scaler's state.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

folder = Path(sys.argv[1])
ours = torch.load(folder / "ours.pth", weights_only=True)
weights = ours["network_weights"]


def save(name, changed=(), **options):
    torch.save({**ours, **dict(changed)}, folder / f"{name}.pth", **options)


def with_weights(name, weights):
    save(name, {"network_weights": weights})


# Element types.
for name, kind in (("double", torch.float64), ("half", torch.float16), ("bfloat16", torch.bfloat16)):
    with_weights(name, {key: tensor.to(kind) for key, tensor in weights.items()})

# Names of a wrapped network.
for name, prefix in (("ddp", "module."), ("compiled", "_orig_mod."), ("both", "module._orig_mod.")):
    with_weights(name, {prefix + key: tensor for key, tensor in weights.items()})
with_weights("twice", {**weights, **{"module." + key: tensor for key, tensor in weights.items()}})

# Layouts: channels last, views of one storage, parameters in place of tensors.
last = torch.channels_last_3d
with_weights("channels_last", {
    key: tensor.contiguous(memory_format=last) if tensor.dim() == 5 else tensor for key, tensor in weights.items()})
flat = torch.cat([torch.full((3,), torch.nan), *(tensor.flatten() for tensor in weights.values())])
views, at = {}, 3
for key, tensor in weights.items():
    views[key] = flat[at : at + tensor.numel()].view(tensor.shape)
    at += tensor.numel()
with_weights("views", views)
with_weights("every_second", {
    key: torch.stack([tensor, torch.full_like(tensor, torch.inf)], -1)[..., 0] for key, tensor in weights.items()})
with_weights("parameters", {key: torch.nn.Parameter(tensor) for key, tensor in weights.items()})

for protocol in (3, 4, 5):
    save(f"protocol_{protocol}", pickle_protocol=protocol)

# What a trainer on an accelerator keeps, with numpy's scalars in the log.
scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
scaler.scale(torch.ones(1))
scaler._growth_tracker.fill_(17)
numbers = lambda values, kind: [kind(value) for value in values]
log = dict(ours["logging"])
log["mean_fg_dice"] = numbers(log["mean_fg_dice"], np.float32)
log["ema_fg_dice"] = numbers(log["ema_fg_dice"], np.float32)
log["train_losses"] = numbers(log["train_losses"], np.float64)
log["val_losses"] = numbers(log["val_losses"], np.float16)
log["dice_per_class_or_region"] = [numbers(values, np.float32) for values in log["dice_per_class_or_region"]]
save("trainer", {
    "grad_scaler_state": scaler.state_dict(), "logging": log, "_best_ema": np.float32(0.5),
    "current_epoch": np.int64(2), "init_args": {**ours["init_args"], "device": torch.device("cuda", 0),
                                                "unpack_dataset": True, "fold": np.int64(1)}})
save("scaler_off", {"grad_scaler_state": torch.amp.GradScaler("cpu", enabled=False).state_dict()})


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


for name, made in (("system", Runs(os.system, "true")), ("eval", Runs(eval, "1")),
                   ("popen", Runs(subprocess.Popen, ["true"])), ("partial", partial(print)),
                   ("getattr", Runs(getattr, "text", "join"))):
    save(f"evil_{name}", {"_best_ema": made})
    save(f"evil_{name}_4", {"network_weights": {**weights, "more": made}}, pickle_protocol=4)
torch.save(ours, folder / "old_format.pth", _use_new_zipfile_serialization=False)

# What Rounds wrote of a gradient scaler, torch takes.
taken = torch.amp.GradScaler("cpu")
taken.load_state_dict(ours["grad_scaler_state"])
print("RESULT " + json.dumps({"scale": taken.get_scale(), "tracker": taken.state_dict()["_growth_tracker"],
                              "python": scaler.state_dict()}))
