"""Python nnU-Net's view of what Rounds wrote: checkpoints, predictions, summary.json, the average.

Argument: the folder that tests/tests/parity/model.rs filled. Prints what the test holds against Rust as JSON.
"""

import json
import os
import sys
import warnings
from pathlib import Path

work = Path(sys.argv[1])
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = str(work / name)
warnings.simplefilter("ignore")

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def read_safetensors(path):
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    return {
        name: np.frombuffer(raw[8 + n :], np.float32, offset=v["data_offsets"][0], count=int(np.prod(v["shape"])))
        for name, v in header.items()
    }


def predict(model, images, output, mirroring, folds):
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    output.mkdir(parents=True)
    predictor.predict_from_files_sequential(str(images), str(output), False, True, None)


def resume(model, configuration):
    """Continue from our checkpoint as `nnUNetv2_train --c` does, take a step, and save Python's own checkpoint."""
    path = model / "fold_0" / "checkpoint_final.pth"
    loaded = torch.load(path, weights_only=True)
    weights = loaded["network_weights"]
    plans = json.loads((model / "plans.json").read_text()) | {"continue_training": True}
    dataset = json.loads((model / "dataset.json").read_text())
    folder = work / "nnUNet_preprocessed" / plans["dataset_name"] / f"nnUNetPlans_{configuration}"
    folder.mkdir(parents=True)
    np.savez(folder / "case.npz", data=np.zeros(1), seg=np.zeros(1))
    trainer = nnUNetTrainer(plans, configuration, 0, dataset, torch.device("cpu"))
    trainer.initialize()
    network = trainer.network
    assert list(network.state_dict()) == list(weights), "the keys differ from nnU-Net's"
    pointers = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    ours = {key: tensor.data_ptr() for key, tensor in weights.items()}
    for key in weights:
        same = {k for k in weights if pointers[k] == pointers[key]}
        assert same == {k for k in weights if ours[k] == ours[key]}, f"{key} is shared with others than in nnU-Net"

    load_pretrained_weights(network, str(path))
    trainer.load_checkpoint(str(path))
    assert trainer.current_epoch == 2
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[key])
    buffers = {i: s["momentum_buffer"].clone() for i, s in trainer.optimizer.state_dict()["state"].items()}
    for i, state in loaded["optimizer_state"]["state"].items():
        assert torch.equal(buffers[i], state["momentum_buffer"])

    torch.manual_seed(0)
    patch = trainer.configuration_manager.patch_size
    outputs = network(torch.rand(1, trainer.num_input_channels, *patch))
    trainer.optimizer.zero_grad()
    sum(o.square().mean() for o in outputs[:-1]).backward()
    trainer.optimizer.step()
    epoch = trainer.current_epoch
    for key, value in (("train_losses", np.float32(0.3)), ("val_losses", np.float64(0.1)), ("lrs", 0.005),
                       ("dice_per_class_or_region", [np.float32(0.6), np.float32(np.nan)]),
                       ("mean_fg_dice", np.float32(0.6)), ("epoch_start_timestamps", 3.0), ("epoch_end_timestamps", 4.0)):
        trainer.logger.log(key, value, epoch)
    trainer._best_ema = np.float32(0.5)
    trainer.save_checkpoint(str(work / f"python_{configuration}.pth"))
    names = [name for name, _ in network.named_parameters()]
    state = trainer.optimizer.state_dict()["state"]
    digest = lambda t: [list(t.shape), float(t.double().sum()), float(t.flatten()[-1])]
    return {
        "weights": {name: digest(p.detach()) for name, p in network.named_parameters()},
        "momentum": {f"{names[i]}.momentum_buffer": digest(s["momentum_buffer"]) for i, s in state.items()},
        "ema": float(trainer.logger.get_value("ema_fg_dice", epoch)),
    }


# A file as other tools leave it: a wrapped network, half precision, views into one storage, a transposed view.
def awkward(model):
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    flat = torch.cat([t.flatten() for t in weights.values()]).to(torch.bfloat16)
    parts, at = {}, 0
    for key, tensor in weights.items():
        view = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
        parts["module." + key] = view
    for key in parts:
        if key.endswith("transpconvs.0.weight"):
            parts[key] = parts[key].transpose(0, 1).contiguous().transpose(0, 1)
    checkpoint = {"network_weights": parts, "trainer_name": "Any", "init_args": {"configuration": "3d_fullres"}}
    torch.save(checkpoint, work / "awkward.pth")


def main():
    models = {m.name.split("__")[-1]: m for m in sorted((work / "nnUNet_results").glob("*/nnUNetTrainer__*"))}
    result = {}
    for configuration, model in models.items():
        predict(model, work / "images", work / "python" / configuration / "mirrored", True, (0,))
        predict(model, work / "images", work / "python" / configuration / "plain", False, (0,))
        predict(model, work / "images", work / "python" / configuration / "folds", False, (0, 1))
        result[configuration] = resume(model, configuration)
        compute_metrics_on_folder2(
            str(work / "python" / configuration / "plain"), str(work / "python" / configuration / "mirrored"),
            str(model / "dataset.json"), str(model / "plans.json"), str(work / f"summary_{configuration}.json"), 1)
    awkward(models["3d_fullres"])

    sites = [read_safetensors(work / f"site_{k}.safetensors") for k in (1, 2, 3)]
    average = read_safetensors(work / "average.safetensors")
    for name, values in average.items():
        wanted = sum(k * site[name].astype(np.float64) for k, site in zip((1, 2, 3), sites)) / 6
        assert np.array_equal(values, wanted.astype(np.float32)), f"the average of {name} differs"
    print("RESULT " + json.dumps(result))


# The evaluation starts processes that import this file.
if __name__ == "__main__":
    main()
