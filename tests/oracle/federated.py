"""A federation of Python nnU-Net trainers in one process: what a job of Rounds is compared with.

federated.py split DATA WORK    The three sites of DATA as raw data sets WORK/sites/{a,b,c}, the last four of nine
                                cases of each site held out in imagesTs and labelsTs; all that is left also as one pooled
                                data set in WORK/raw; what is held out in WORK/held-out.
federated.py train WORK ROUNDS ITERATIONS
                                Plans and preprocesses the pooled data set, then trains one nnUNetTrainer a site, fold
                                "all", from the same initial weights. After every ITERATIONS iterations the weights
                                are averaged by training cases; momentum stays at the site. Writes
                                WORK/python/fold_all/checkpoint_final.pth.
federated.py rounds WORK ROUNDS ITERATIONS PROGRAM
                                The same as a job of Rounds, with PROGRAM: `rounds up` with the three sites. The
                                results folder is downloaded into WORK/rounds.
federated.py score WORK MODEL   Predicts WORK/held-out with nnUNetv2_predict, without mirroring; prints Dice.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAME = "Dataset004_Hippocampus"
CONFIGURATION = "3d_fullres"


def split(data, work):
    pooled = work / "raw" / NAME
    for folder in ("imagesTr", "labelsTr"):
        (pooled / folder).mkdir(parents=True)
        (work / "held-out" / folder).mkdir(parents=True)
    count = 0
    for site in ("a", "b", "c"):
        (source,) = (data / f"site-{site}").iterdir()
        target = work / "sites" / site / source.name
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (target / folder).mkdir(parents=True)
        labels = sorted((source / "labelsTr").glob("*.nii.gz"))
        kept = round(len(labels) * 5 / 9)
        for position, label in enumerate(labels):
            image = source / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz")
            part = "Tr" if position < kept else "Ts"
            for file, folder in ((image, "images"), (label, "labels")):
                shutil.copy(file, target / (folder + part))
                shutil.copy(file, (pooled if part == "Tr" else work / "held-out") / (folder + "Tr"))
        document = json.loads((source / "dataset.json").read_text())
        (target / "dataset.json").write_text(json.dumps(document | {"numTraining": kept}, indent=4))
        count += kept
        print(f"site {site}: {kept} training cases, {len(labels) - kept} held out")
    (pooled / "dataset.json").write_text(json.dumps(document | {"numTraining": count}, indent=4))


def train(work, rounds, iterations):
    for variable, folder in (("raw", "raw"), ("preprocessed", "preprocessed"), ("results", "results")):
        os.environ[f"nnUNet_{variable}"] = str(work / folder)
    bin_folder = Path(sys.executable).parent
    if not (work / "preprocessed" / NAME / "nnUNetPlans.json").exists():
        command = ["nnUNetv2_plan_and_preprocess", "-d", "4", "-c", CONFIGURATION, "-np", "2"]
        subprocess.run([bin_folder / command[0], *command[1:]], check=True, stdout=subprocess.DEVNULL)

    # Batches are made by the process itself. Planning, above, can not take that.
    os.environ.update(nnUNet_n_proc_DA="0", nnUNet_compile="f")
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(0)
    base = work / "preprocessed" / NAME
    plans = json.loads((base / "nnUNetPlans.json").read_text())
    dataset_json = json.loads((base / "dataset.json").read_text())
    plans.setdefault("continue_training", False)
    trainers, weights, loaders = [], [], []
    for site in sorted((work / "sites").iterdir()):
        (raw,) = site.iterdir()
        names = [label.name.removesuffix(".nii.gz") for label in (raw / "labelsTr").iterdir()]
        folder = work / "preprocessed" / site.name / CONFIGURATION
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            for file in (base / f"nnUNetPlans_{CONFIGURATION}").glob(f"{name}*"):
                shutil.copy(file, folder)
        trainer = nnUNetTrainer(dict(plans), CONFIGURATION, "all", dataset_json, torch.device("cpu"))
        trainer.preprocessed_dataset_folder = str(folder)
        trainer.num_epochs = rounds
        trainer.initialize()
        trainer.set_deep_supervision_enabled(True)
        # The same numbers, but for rounding, in three quarters of the time.
        trainer.network.to(memory_format=torch.channels_last_3d)
        trainer.network.train()
        trainers.append(trainer)
        weights.append(len(names))
        loaders.append(trainer.get_dataloaders()[0])
    state = {k: v.clone() for k, v in trainers[0].network.state_dict().items()}
    for round_ in range(rounds):
        updates = []
        for site, (trainer, loader) in enumerate(zip(trainers, loaders)):
            trainer.network.load_state_dict(state)
            trainer.lr_scheduler.step(round_)
            losses = [float(trainer.train_step(next(loader))["loss"]) for _ in range(iterations)]
            updates.append({k: v.clone() for k, v in trainer.network.state_dict().items()})
            print(f"round {round_} site {site} train_loss {sum(losses) / iterations:.4f}", flush=True)
        state = {
            k: sum(w * u[k].double() for w, u in zip(weights, updates)).div(sum(weights)).to(state[k].dtype)
            for k in state
        }
    model = work / "python"
    (model / "fold_all").mkdir(parents=True, exist_ok=True)
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    torch.save(
        {
            "network_weights": state,
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": [0, 1, 2],
        },
        model / "fold_all" / "checkpoint_final.pth",
    )


def rounds(work, rounds_, iterations, program):
    home = ["--home", work / "home"]
    sites = [f"--site={site.name}={next(site.iterdir())}" for site in sorted((work / "sites").iterdir())]
    job = {
        "datasets": [site.name for site in sorted((work / "sites").iterdir())],
        "payload": {"mode": "training", "num_rounds": rounds_, "dataset_id": 4, "device": "cpu",
                    "model_configuration": CONFIGURATION},
        "federation": {"iterations_per_epoch": iterations, "val_iterations_per_epoch": 1},
    }
    (work / "job.json").write_text(json.dumps(job))
    with open(work / "up.log", "w") as log:
        up = subprocess.Popen([program, "up", *home, *sites], stderr=subprocess.STDOUT, stdout=log)
        try:
            while "rounds is up" not in (work / "up.log").read_text():
                if up.poll() is not None:
                    sys.exit((work / "up.log").read_text())
                time.sleep(0.1)
            subprocess.run([program, "submit", work / "job.json", "--wait", *home], check=True)
            subprocess.run([program, "download", "job-1", "--output", work / "rounds", *home], check=True)
        finally:
            up.terminate()
            up.wait()


def score(work, model):
    bin_folder = Path(sys.executable).parent
    output = work / f"segmentations-{model.parent.name}-{model.name}"
    subprocess.run(
        [bin_folder / "nnUNetv2_predict_from_modelfolder", "-i", work / "held-out/imagesTr", "-o", output,
         "-m", model, "-f", "all", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"],
        check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [bin_folder / "nnUNetv2_evaluate_folder", work / "held-out/labelsTr", output,
         "-djfile", model / "dataset.json", "-pfile", model / "plans.json"], check=True)
    summary = json.loads((output / "summary.json").read_text())
    classes = [values["Dice"] for values in summary["mean"].values()]
    print(f"{model}: Dice {summary['foreground_mean']['Dice']:.4f} {[round(c, 4) for c in classes]}")


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "split":
        split(Path(rest[0]).resolve(), Path(rest[1]).resolve())
    elif verb == "train":
        train(Path(rest[0]).resolve(), int(rest[1]), int(rest[2]))
    elif verb == "rounds":
        rounds(Path(rest[0]).resolve(), int(rest[1]), int(rest[2]), Path(rest[3]).resolve())
    elif verb == "score":
        score(Path(rest[0]).resolve(), Path(rest[1]).resolve())
    else:
        sys.exit(__doc__)
