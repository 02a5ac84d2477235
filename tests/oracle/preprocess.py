"""Preprocessing with nnU-Net's own DefaultPreprocessor.

argv[1]: a folder of data sets, each with dataset.json, plans.json and jobs.json: a list of
{"case": name, "configuration": name, "images": [files], "label": file or null}. For each job writes
<case>_<configuration>.data (f32), .seg (i16) and .json (properties, class_locations) beside them, and prints the
seconds (wall, processor) that the jobs of each data set took, reading included, as JSON.
"""
import json
import sys
import time
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def main():
    seconds = {}
    for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if (p / "jobs.json").is_file()):
        plans = PlansManager(str(folder / "plans.json"))
        dataset_json = json.loads((folder / "dataset.json").read_text())
        preprocessor = DefaultPreprocessor(verbose=False)
        seconds[folder.name] = [0.0, 0.0]
        for job in json.loads((folder / "jobs.json").read_text()):
            start = time.perf_counter(), time.process_time()
            configuration = plans.get_configuration(job["configuration"])
            data, seg, properties = preprocessor.run_case(
                job["images"], job["label"], plans, configuration, dataset_json
            )
            seconds[folder.name][0] += time.perf_counter() - start[0]
            seconds[folder.name][1] += time.process_time() - start[1]
            name = folder / f"{job['case']}_{job['configuration']}"
            data.astype("<f4").tofile(f"{name}.data")
            seg.astype("<i2").tofile(f"{name}.seg")
            locations = [
                [list(k) if isinstance(k, tuple) else [k], np.asarray(v, dtype=np.int64).reshape(-1, 4).tolist()]
                for k, v in properties.get("class_locations", {}).items()
            ]
            name.with_name(name.name + ".json").write_text(json.dumps({
                "shape": list(data.shape),
                "shape_before_cropping": [int(i) for i in properties["shape_before_cropping"]],
                "bbox_used_for_cropping": [[int(i) for i in b] for b in properties["bbox_used_for_cropping"]],
                "shape_after_cropping_and_before_resampling":
                    [int(i) for i in properties["shape_after_cropping_and_before_resampling"]],
                "class_locations": locations,
            }))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
