"""How to federate: the same training pooled and in a federation, with one thing changed at a time, over several seeds.

study.py DATA WORK PROGRAM [--features N] [--batch N] [--iterations N] [--bfloat16] [--seeds N,N,...]
         [--only NAME,NAME,...]

The three sites of DATA, the last four of nine cases of each held out; `pooled` is one site with all of what is left.
Every run is a job of `rounds up` with PROGRAM and the plans of the pooled data, but for the features of the network's
first stage (nnU-Net's are 32; less is faster) and the batch, with the same number of iterations at each site. All runs of one seed
start from the same weights. The scores are Dice on the held-out cases, predicted without mirroring. What is finished in
WORK is not done again, so a run that was broken off goes on; the table is printed from all that is there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from federated import NAME, split

SITES = ["a", "b", "c"]
CONFIGURATION = "2d"
MODEL = f"{NAME}/nnUNetTrainer_1epoch__Small__{CONFIGURATION}"

# Iterations between two averages, and what of `federation` is not the default.
VARIANTS = {
    "pooled": (10, {}),
    "keep": (10, {"momentum": "keep"}),
    "average": (10, {"momentum": "average"}),
    "reset": (10, {"momentum": "reset"}),
    "keep, every 2": (2, {"momentum": "keep"}),
    "average, every 2": (2, {"momentum": "average"}),
    "keep, every 50": (50, {"momentum": "keep"}),
    "average, every 50": (50, {"momentum": "average"}),
    "keep, equal weights": (10, {"momentum": "keep", "weighting": "equal"}),
    "keep, FedProx 0.1": (10, {"momentum": "keep", "algorithm": "fedprox", "fedprox_mu": 0.1}),
}


def run(*command, **variables):
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def folders(work, results="results"):
    return {f"nnUNet_{name}": work / folder
            for name, folder in (("raw", "raw"), ("preprocessed", "preprocessed"), ("results", results))}


def start(work, program, features, batch, seed):
    """The model folder with the seed's initial weights."""
    results = work / "starts" / str(seed)
    checkpoint = results / MODEL / "fold_all/checkpoint_final.pth"
    if not checkpoint.exists():
        plans = work / "preprocessed" / NAME / "nnUNetPlans.json"
        if not plans.exists():
            run(program, "nnunet", "plan-and-preprocess", "-d", "4", "-c", CONFIGURATION, **folders(work))
        document = json.loads(plans.read_text())
        document["plans_name"] = "Small"
        configuration = document["configurations"][CONFIGURATION]
        configuration["batch_size"] = batch
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [f * features // 32 for f in arguments["features_per_stage"]]
        (plans.parent / "Small.json").write_text(json.dumps(document))
        command = [program, "nnunet", "train", "4", CONFIGURATION, "all", "--tr", "nnUNetTrainer_1epoch", "-p", "Small",
                   "--device", "cpu", "--seed", str(seed), "--iterations-per-epoch", "1",
                   "--val-iterations-per-epoch", "1"]
        variables = {name: str(folder) for name, folder in folders(work, results).items()}
        training = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)
        # The weights are all that is wanted, and not the validation that would follow.
        while not checkpoint.exists():
            if training.poll() is not None:
                sys.exit(f"{command}: it wrote no {checkpoint}")
            time.sleep(0.1)
        training.kill()
        training.wait()
    return results / MODEL


def job(work, program, home, name, iterations, bfloat16, seed):
    """Trains what is not there yet; the Dice on the held-out cases."""
    folder = work / "runs" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    scores = folder / "summary.json"
    if not scores.exists():
        every, settings = VARIANTS[name]
        message = {
            "datasets": ["pooled"] if name == "pooled" else SITES,
            "payload": {"mode": "training", "num_rounds": iterations // every, "dataset_id": 4, "device": "cpu",
                        "model_configuration": CONFIGURATION},
            "federation": {"iterations_per_epoch": every, "val_iterations_per_epoch": 1, "seed": seed,
                           "bfloat16": bfloat16,
                           "initial_checkpoint": {"path": str(work / "starts" / str(seed) / MODEL),
                                                  "fold_id": "all", "plans": "keep"}, **settings},
        }
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(message))
        sent = run(program, "submit", folder / "job.json", "--wait", "--home", home).splitlines()[0]
        run(program, "download", sent, "--output", folder / "results", "--home", home)
        (model,) = (folder / "results").glob("Dataset*/*__*")
        run(program, "nnunet", "predict-from-modelfolder", "-i", work / "held-out/imagesTr", "-o", folder / "segmented",
            "-m", model, "-f", "all", "--device", "cpu", "--disable_tta", *(["--bfloat16"] if bfloat16 else []))
        run(program, "nnunet", "evaluate-folder", work / "held-out/labelsTr", folder / "segmented", "-o", scores,
            "--djfile", model / "dataset.json", "--pfile", model / "plans.json")
    return json.loads(scores.read_text())["foreground_mean"]["Dice"]


def table(scores):
    print(f"\n{'':<24}{'seeds':>6}{'mean':>9}{'std.':>9}  Dice of each seed")
    for name, values in scores.items():
        deviation = f"{statistics.stdev(values):9.4f}" if len(values) > 1 else f"{'':9}"
        print(f"{name:<24}{len(values):>6}{statistics.mean(values):9.4f}{deviation}  "
              + " ".join(f"{value:.4f}" for value in values), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("program", type=Path)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default=",".join(VARIANTS).replace(", ", "; "))
    arguments = parser.parse_args()
    work, program = arguments.work.resolve(), arguments.program.resolve()
    if not (work / "held-out").exists():
        split(arguments.data.resolve(), work)
        pooled = work / "raw" / NAME
        for folder in ("imagesTs", "labelsTs"):
            (pooled / folder).mkdir()
    names = [name.replace("; ", ", ") for name in arguments.only.split(",")]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for seed in seeds:
        start(work, program, arguments.features, arguments.batch, seed)

    home = work / "home"
    command = [program, "up", "--home", home, "--models", work / "starts", f"--site=pooled={work / 'raw' / NAME}",
               *(f"--site={name}={next((work / 'sites' / name).iterdir())}" for name in SITES)]
    scores = {}
    with open(work / "up.log", "w") as log:
        up = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)
        try:
            while "rounds is up" not in (work / "up.log").read_text():
                if up.poll() is not None:
                    sys.exit((work / "up.log").read_text())
                time.sleep(0.1)
            for seed in seeds:
                for name in names:
                    scores.setdefault(name, []).append(
                        job(work, program, home, name, arguments.iterations, arguments.bfloat16, seed))
                    table(scores)
        finally:
            up.terminate()
            up.wait()


if __name__ == "__main__":
    main()
