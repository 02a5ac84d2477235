"""Loads a folder that Rounds preprocessed through nnU-Net's own data set class and data loader.

argv[1]: the folder. Prints, per case, what a data loader sees: shapes, types, sums and the properties.
"""
import json
import sys

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class


def main():
    folder = sys.argv[1]
    dataset = infer_dataset_class(folder)(folder)
    found = {}
    for identifier in dataset.identifiers:
        data, seg, _, properties = dataset.load_case(identifier)
        found[identifier] = {
            "shapes": [list(data.shape), list(seg.shape)],
            "types": [str(data.dtype), str(seg.dtype)],
            "sums": [float(data.astype(np.float64).sum()), int(seg.astype(np.int64).sum())],
            "spacing": list(properties["spacing"]),
            "keys": list(properties),
            "geometry": {k: np.asarray(v).ravel().tolist()
                         for k, v in properties.get("sitk_stuff", properties.get("nibabel_stuff")).items()},
            "bbox": properties["bbox_used_for_cropping"],
            "classes": [[list(k) if isinstance(k, tuple) else k, len(v), [int(i) for i in v[-1]] if len(v) else []]
                        for k, v in properties["class_locations"].items()],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
