"""Image files of every format that nnU-Net's readers take, for tests/parity/formats.rs.

write FOLDER      writes them, with the libraries and by hand
read FOLDER       reads each with the readers that suit its ending; prints shape, spacing, properties and values
choose FOLDER     prints which reader nnU-Net chooses for each
back FOLDER       reads segmentations that Rounds wrote: FOLDER/written.json lists reader and file
goes_on FOLDER    writes a segmentation by the properties that Rounds wrote beside a case: FOLDER/written.json lists
                  reader, file, properties and shape
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
from image_files import write

READERS = {
    ".nii": ["NibabelIOWithReorient", "SimpleITKIOWithReorient"],
    ".nii.gz": ["NibabelIOWithReorient", "SimpleITKIOWithReorient"],
    ".nrrd": ["SimpleITKIO", "SimpleITKIOWithReorient"],
    ".nhdr": ["SimpleITKIO"],
    ".mha": ["SimpleITKIO", "SimpleITKIOWithReorient"],
    ".mhd": ["SimpleITKIO"],
    ".gipl": ["SimpleITKIO"],
    ".gipl.gz": ["SimpleITKIO"],
    ".png": ["NaturalImage2DIO"],
    ".bmp": ["NaturalImage2DIO"],
    ".tif": ["NaturalImage2DIO", "Tiff3DIO"],
    ".tiff": ["Tiff3DIO"],
}


def reader(name):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    return recursive_find_reader_writer_by_name(name)()


def described(data, properties):
    numbers = {"spacing": [float(x) for x in properties["spacing"]]}
    for key, value in {**properties.get("sitk_stuff", {}), **properties.get("nibabel_stuff", {})}.items():
        if key == "spacing":
            key = "itk_spacing"
        numbers[key] = value if isinstance(value, str) else np.asarray(value, dtype=float).ravel().tolist()
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32).ravel().tolist()
    return {"shape": list(data.shape), "bits": bits, **numbers}


def ending_of(path):
    return next((e for e in sorted(READERS, key=len, reverse=True) if path.name.endswith(e)), None)


def read(folder):
    found = {}
    for path in sorted(Path(folder).iterdir()):
        for name in READERS.get(ending_of(path), []):
            try:
                entry = described(*reader(name).read_images((str(path),)))
            except Exception as error:  # what nnU-Net's registry does
                entry = {"error": f"{type(error).__name__}: {str(error).strip()[-120:]}"}
            found.setdefault(path.name, {})[name] = entry
    print(json.dumps(found))


def choose(folder):
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending

    found = {}
    for path in sorted(Path(folder).iterdir()):
        if ending_of(path) is not None:
            try:
                found[path.name] = determine_reader_writer_from_file_ending(ending_of(path), str(path), verbose=False).__name__
            except RuntimeError:
                found[path.name] = None
    print(json.dumps(found))


def back(folder):
    found = []
    for entry in json.loads((Path(folder) / "written.json").read_text()):
        data, properties = reader(entry["reader"]).read_seg(str(Path(folder) / entry["file"]))
        found.append(described(data, properties))
    print(json.dumps(found))


def goes_on(folder):
    for entry in json.loads((Path(folder) / "written.json").read_text()):
        properties = pickle.loads((Path(folder) / entry["properties"]).read_bytes())
        seg = np.arange(np.prod(entry["shape"])).reshape(entry["shape"])
        reader(entry["reader"]).write_seg(seg, str(Path(folder) / entry["file"]), properties)


if __name__ == "__main__":
    {"write": write, "read": read, "choose": choose, "back": back, "goes_on": goes_on}[sys.argv[1]](*sys.argv[2:])
