"""The demo's scan: the MNI ICBM152 2009 template and its tissue maps, out of the nilearn wheel."""

import wheels

VERSION = "0.14.1"
FOLDER = "nilearn/datasets/data/"
# File in the wheel (name without its ending) to file in .tools/mni.
FILES = {
    "mni_icbm152_t1_tal_nlin_sym_09a_converted": "t1.nii.gz",
    "mni_icbm152_gm_tal_nlin_sym_09a_converted": "grey_matter.nii.gz",
    "mni_icbm152_wm_tal_nlin_sym_09a_converted": "white_matter.nii.gz",
}


def setup(tools):
    """Unpacks the template's T1, grey and white matter into `tools`/mni."""

    def member(name):
        return FILES.get(name[len(FOLDER):].removesuffix(".nii.gz")) if name.startswith(FOLDER) else None

    def make(folder):
        wheel = wheels.fetch(tools / "wheels", f"nilearn=={VERSION}")
        wheels.unpack(wheel, folder, member)
        for name in FILES.values():
            if not (folder / name).is_file():
                raise SystemExit(f"{wheel}: does not hold what becomes {name}")

    wheels.install(tools / "mni", f"nilearn {VERSION} 1\n", make)
    print(f"MNI template: {tools / 'mni'}")
