"""Python nnU-Net's readers and fingerprint, for tests/parity/data.rs."""

import json
import os
import sys
import time
from pathlib import Path


def read(folder):
    """Reads every file of the folder with both readers; prints values, spacing and geometry, or the error."""
    import numpy as np
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def one(reader, path):
        try:
            data, properties = reader().read_images((str(path),))
        except Exception as error:
            return {"error": type(error).__name__}
        geometry = properties.get("sitk_stuff") or {
            "affine": np.asarray(properties["nibabel_stuff"]["original_affine"]).ravel().tolist()
        }
        return {
            "shape": list(data.shape),
            "values": [float(value) for value in data.ravel()],
            "spacing": [float(value) for value in properties["spacing"]],
            **{key: list(value) for key, value in geometry.items() if key != "spacing"},
        }

    files = sorted(Path(folder).iterdir())
    print(json.dumps({f.name: {r.__name__: one(r, f) for r in (SimpleITKIO, NibabelIO)} for f in files}))


def fingerprint(raw, preprocessed, name):
    """Extracts a fingerprint into the preprocessed folder; prints the seconds it took."""
    os.environ.update(nnUNet_raw=raw, nnUNet_preprocessed=preprocessed, nnUNet_results=preprocessed)
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    start = time.time()
    extractor = DatasetFingerprintExtractor(name, num_processes=2)
    extractor.show_progress_bar = False
    extractor.run(overwrite_existing=True)
    print(f"\nseconds {time.time() - start:.2f}")


if __name__ == "__main__":
    {"read": read, "fingerprint": fingerprint}[sys.argv[1]](*sys.argv[2:])
