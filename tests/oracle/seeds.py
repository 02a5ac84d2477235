"""Equal learning: the same plans, fold and number of iterations in Rounds and in Python nnU-Net, over several seeds.

seeds.py DATA WORK PROGRAM [--batch N] [--iterations N] [--seeds N,N,...]

DATA holds nnU-Net raw data sets of one kind, which are pooled. Both programs plan and preprocess for themselves, 3d_fullres
with the batch of the plans or of N, and train fold 0 with nnUNetTrainer_20epochs, a twentieth of the iterations an epoch.
The scores are those of their own final validations, with mirroring. What is finished in WORK is not done again, so a run
that was broken off goes on; the table is printed from all that is there. Asserts nothing.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import pool

NAME = "Dataset004_Pooled"
CONFIGURATION = "3d_fullres"
TRAINER = "nnUNetTrainer_20epochs"
EPOCHS = 20


def environment(work, side, seed=0):
    folders = {"raw": work / "raw", "preprocessed": work / side / "preprocessed", "results": work / side / f"results-{seed}"}
    return os.environ | {f"nnUNet_{name}": str(folder) for name, folder in folders.items()} | {"nnUNet_compile": "f"}


def run(command, variables, log):
    with open(log, "w") as file:
        done = subprocess.run([str(part) for part in command], env=variables, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{Path(log).read_text()[-4000:]}")


def prepare(work, side, plan, preprocess, batch):
    """Plans with the batch, and what is preprocessed by them."""
    folder = work / side / "preprocessed" / NAME
    plans = folder / "Batch.json"
    if not plans.exists():
        run([*plan, "-d", "4", "-c", CONFIGURATION, *preprocess], environment(work, side), work / f"{side}-plan.log")
        document = json.loads((folder / "nnUNetPlans.json").read_text())
        document["plans_name"] = "Batch"
        configuration = document["configurations"][CONFIGURATION]
        configuration["batch_size"] = batch or configuration["batch_size"]
        plans.write_text(json.dumps(document))


def dice(work, side, command, seed):
    """Trains what is not there yet; the Dice of the final validation, and the seconds that training took."""
    results = work / side / f"results-{seed}"
    took = results / "seconds"
    if not took.exists():
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        begun = time.monotonic()
        run(command, environment(work, side, seed), results / "log.txt")
        took.write_text(f"{time.monotonic() - begun:.0f}")
    summary = results / NAME / f"{TRAINER}__Batch__{CONFIGURATION}" / "fold_0/validation/summary.json"
    return json.loads(summary.read_text())["foreground_mean"]["Dice"], float(took.read_text())


def table(scores):
    print(f"\n{'':<8}{'seeds':>6}{'mean':>9}{'std.':>9}{'std. err.':>11}{'s a run':>9}  Dice of each seed")
    known = {}
    for side, runs in scores.items():
        values, seconds = zip(*runs)
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        error = deviation / math.sqrt(len(values))
        known[side] = statistics.mean(values), error
        print(f"{side:<8}{len(values):>6}{known[side][0]:9.4f}{deviation:9.4f}{error:11.4f}{statistics.mean(seconds):9.0f}  "
              + " ".join(f"{value:.4f}" for value in values))
    if len(known) == 2:
        (a, a_error), (b, b_error) = known.values()
        print(f"difference {a - b:+.4f}, its standard error {math.hypot(a_error, b_error):.4f}", flush=True)


def train(iterations, seed):
    """One training of Python nnU-Net with the seed, and its final validation."""
    import numpy
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(seed)
    numpy.random.seed(seed)
    trainer = get_trainer_from_args("4", CONFIGURATION, 0, TRAINER, "Batch", device=torch.device("cpu"))
    trainer.num_iterations_per_epoch = iterations // EPOCHS
    trainer.num_val_iterations_per_epoch = 1
    trainer.initialize()
    # The same numbers, but for rounding, in three quarters of the time.
    trainer.network.to(memory_format=torch.channels_last_3d)
    trainer.run_training()
    trainer.perform_actual_validation(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("program", type=Path)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    work, program = arguments.work.resolve(), arguments.program.resolve()
    python = Path(sys.executable).parent
    if not (work / "raw").exists():
        pool(sorted(p.parent for p in arguments.data.resolve().glob("**/dataset.json")), work / "raw" / NAME)
    prepare(work, "rounds", [program, "nnunet", "plan-and-preprocess"], [], arguments.batch)
    prepare(work, "python", [python / "nnUNetv2_plan_and_preprocess"], ["-np", "2"], arguments.batch)
    each = arguments.iterations // EPOCHS
    scores = {"rounds": [], "python": []}
    for seed in map(int, arguments.seeds.split(",")):
        scores["rounds"].append(dice(work, "rounds", [
            program, "nnunet", "train", "4", CONFIGURATION, "0", "-tr", TRAINER, "-p", "Batch", "-device", "cpu", "--seed",
            seed, "--iterations-per-epoch", each, "--val-iterations-per-epoch", "1"], seed))
        scores["python"].append(dice(work, "python", [
            sys.executable, __file__, "--train", arguments.iterations, seed], seed))
        table(scores)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*map(int, sys.argv[2:]))
    else:
        main()
