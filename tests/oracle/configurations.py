"""Configurations resolved by nnU-Net's own PlansManager, and plans merged by its own planner.

argv[1]: a folder with plans.json. Prints as JSON {name: configuration, or the error's type} of every configuration.
With argv[2], the new plans of the same name: prints what nnU-Net writes when it plans again over plans.json.
"""
import contextlib
import io
import json
import os
import sys
import warnings
from pathlib import Path

folder = Path(sys.argv[1])
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = str(folder / name)
warnings.simplefilter("ignore")

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def resolve():
    plans = PlansManager(str(folder / "plans.json"))
    found = {}
    for name in plans.available_configurations:
        try:
            configuration = plans.get_configuration(name)
            found[name] = {
                **configuration.configuration,
                "next_stage": configuration.next_stage_names or [],
                "intensities": plans.foreground_intensity_properties_per_channel,
            }
        except (RuntimeError, ValueError, KeyError) as error:
            found[name] = type(error).__name__
    print(json.dumps(found))


def merge():
    new = json.loads(Path(sys.argv[2]).read_text())
    planner = ExperimentPlanner.__new__(ExperimentPlanner)
    planner.dataset_name, planner.plans_identifier = new["dataset_name"], new["plans_name"]
    target = folder / "nnUNet_preprocessed" / new["dataset_name"]
    target.mkdir(parents=True)
    written = target / f"{new['plans_name']}.json"
    written.write_text((folder / "plans.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        planner.save_plans(new)
    print(written.read_text(), end="")


if __name__ == "__main__":
    merge() if len(sys.argv) > 2 else resolve()
