"""Resampling with nnU-Net's own functions, found and called as its plans do.

argv[1]: a folder with jobs.json, a list of {"function": name, "kwargs": {...}, "type": numpy type, "shape": [c, z, y, x],
"new_shape": [z, y, x], "spacing": [...], "new_spacing": [...]}. The i-th job's volume is <i>.in in C order; its result
is written as <i>.out: f4 for floats, i2 for labels. Prints the type and shape of each result as JSON.
"""
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name


def main():
    folder = Path(sys.argv[1])
    found = []
    for i, job in enumerate(json.loads((folder / "jobs.json").read_text())):
        volume = np.fromfile(folder / f"{i}.in", dtype=job["type"]).reshape(job["shape"])
        function = partial(recursive_find_resampling_fn_by_name(job["function"]), **job["kwargs"])
        # Logits are tensors, scans and segmentations arrays.
        given = torch.from_numpy(volume) if job["type"] == "f2" else volume
        result = np.asarray(function(given, np.array(job["new_shape"]), job["spacing"], job["new_spacing"]))
        found.append([str(result.dtype), list(result.shape)])
        result.astype("<i2" if job["type"] == "i2" else "<f4").tofile(folder / f"{i}.out")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
