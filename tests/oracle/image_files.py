"""Writes image files of every format that nnU-Net's readers take, with the libraries and by hand, for formats.py."""

import gzip
import itertools
import json
import struct
import zlib
from pathlib import Path

import numpy as np

RAMP = bytes(range(24))


def ramp(dtype, shape=(2, 3, 4)):
    """Values that need all of a type's bytes."""
    dtype = np.dtype(dtype)
    values = np.arange(np.prod(shape)).reshape(shape)
    if dtype.kind == "f":
        return (values / 3 - 2.5).astype(dtype)
    step = {1: 1, 2: 300, 4: 16777217, 8: 2**53 + 3}[dtype.itemsize]
    values = values.astype(np.uint64) * np.uint64(step) - np.uint64(step * 5 if dtype.kind == "i" else 0)
    return values.astype(dtype)


def write_simple_itk(folder):
    import SimpleITK as sitk

    turned = (0.0, 0.0, 1.0, -0.6, 0.8, 0.0, 0.8, 0.6, 0.0)
    for ending, dtype in itertools.product(
        ["nrrd", "nhdr", "mha", "mhd", "gipl"],
        ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"],
    ):
        for compress in [True, False]:
            image = sitk.GetImageFromArray(ramp(dtype))
            image.SetSpacing((0.7, 0.8, 2.5))
            image.SetOrigin((1, -2, 3.5))
            image.SetDirection(turned)
            try:
                sitk.WriteImage(image, str(folder / f"itk_{dtype}_{compress}.{ending}"), compress)
            except RuntimeError:
                assert ending == "gipl" and dtype in ["u4", "i4", "u8", "i8"]
                (folder / f"itk_{dtype}_{compress}.{ending}").unlink(missing_ok=True)
    for ending, shape in itertools.product(["nrrd", "mha"], [(3, 4), (1, 3, 4), (2, 2, 3, 4), (1, 2, 3, 4), (2, 1, 3, 4)]):
        image = sitk.GetImageFromArray(ramp("i2", shape), isVector=False)
        image.SetSpacing((0.5, 0.75, 2.5, 3.0)[: len(shape)])
        sitk.WriteImage(image, str(folder / f"itk_{'x'.join(map(str, shape))}.{ending}"), True)
        vector = sitk.GetImageFromArray(ramp("u1", (*shape[-3:], 3)), isVector=True)
        sitk.WriteImage(vector, str(folder / f"itk_vector_{'x'.join(map(str, shape))}.{ending}"), True)
    # Every orientation, and oblique ones.
    straight = [np.eye(3)[list(p)] * np.array(s) for p in itertools.permutations(range(3)) for s in itertools.product([1, -1], repeat=3)]
    random = np.random.RandomState(5)
    oblique = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in range(20)]
    for number, direction in enumerate(straight + oblique):
        image = sitk.GetImageFromArray(ramp("u2"))
        image.SetSpacing((0.5, 0.75, 2.5))
        image.SetOrigin((1, -2, 3.5))
        image.SetDirection(direction.ravel())
        for ending in ["nrrd"] if number % 2 else ["mha", "nii"]:
            sitk.WriteImage(image, str(folder / f"direction_{number}.{ending}"), True)


def write_nibabel(folder):
    import nibabel

    random = np.random.RandomState(6)
    for number in range(12):
        affine = np.eye(4)
        affine[:3] = random.normal(size=(3, 4)) * 3
        image = nibabel.Nifti1Image(ramp("f4" if number % 2 else "i2", (4, 3, 2)), affine)
        if number % 3 == 0:
            image.header.set_slope_inter(0.1, -1)
            image.header.set_qform(affine, 1)
        nibabel.save(image, folder / f"sheared_{number}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(ramp("i2", (4, 3, 2, 2)), np.eye(4)), folder / "four_axes.nii")


def write_nrrd(folder):
    def put(name, fields, data=RAMP, magic="NRRD0004", ending="nrrd"):
        (folder / f"{name}.{ending}").write_bytes(f"{magic}\n{fields}\n".encode() + data)

    plain = "type: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
    directions = "space directions: (0,2,0) (3,0,0) (0,0.6,4)\n"
    lines = {
        "bare": "", "spacings": "spacings: 1 2 -3\n", "mins": "spacings: 1 2 3\naxis mins: 5 6 7\n",
        "some_spacings": "spacings: nan 2 3\naxis mins: 5 6 7\n",
        "node": "spacings: 1 2 3\naxis mins: 5 6 7\ncenterings: node node node\n",
        "maxs": "axis mins: 5 6 7\naxis maxs: 10 12 14\ncenters: cell node none\n",
        "some_direction": "space: LPS\nspace directions: (0,2,0) (3,0,0) none\nspace origin: (1,2,3)\n",
        "origin": "space: LPS\nspace origin: (1,2,3)\n", "no_origin": "space: LPS\nspace origin: none\n",
        "both": "space: LPS\nspace origin: (1,2,3)\nspacings: 1 2 3\n",
        "unnamed": "space dimension: 3\nspace directions: (2,0,0) (0,2,0) (0,0,-2)\n",
        "early": "space directions: (2,0,0) (0,2,0) (0,0,-2)\nspace: LPS\n",
        "no_length": "space: LPS\nspace directions: (2,0,0) (0,2,0) (0,0,0)\n",
        "one_plane": "space: LPS\nspace directions: (2,0,0) (2,0,0) (0,0,1)\n",
        "blanks": "space: LPS\nspace directions: ( 2, 0, 0 )  (0,2,0) (0,0,3)\n",
        "half": "space: LPS\nspace directions: (2,0,nan) (0,2,0) (0,0,3)\n",
        "keys": "foo:=bar\n# hi\nkey with space:=x\n", "unknown": "unknown: x\n", "infinite": "spacings: 1 2 inf\n",
        "zero": "spacings: 0 2 3\n", "twice": "sizes: 4 3 2\n", "units": 'space: LPS\n' + directions + 'units: "mm" "mm" "mm"\n',
        "idle": 'content: x\nnumber: 3\nmin: 0\nold max: 3\nlabels: "a" "b" "c"\nunits: "mm" "mm" "mm"\nthicknesses: nan nan 2\n',
        "frame": "space: LPS\n" + directions + 'space units: "mm" "mm" "mm"\nmeasurement frame: (1,0,0) (0,1,0) (0,0,1)\n',
        "escape": "data file: ../bare.nrrd\n", "absent": "data file: nowhere.raw\n",
    }
    for name, line in lines.items():
        put(f"nrrd_{name}", plain + line)
    for space in ["RAS", "LPS", "LAS", "left-posterior-superior", "Right-Anterior-Superior", "left anterior superior",
                  "scanner-xyz", "3D-right-handed", "lps", "nowhere"]:
        put(f"nrrd_{space.replace(' ', '_')}", plain + f"space: {space}\n{directions}space origin: (1,2,3)\n")
    four = "type: uint8\ndimension: 4\nsizes: {}\nencoding: raw\n"
    axes = [
        ("2 4 3 1", "kinds: list domain domain domain\n"), ("1 4 3 2", "kinds: vector domain domain domain\n"),
        ("1 4 3 2", "kinds: list domain domain domain\nspace: RAS\nspace directions: none (2,0,0) (0,2,0) (0,0,3)\n"),
        ("4 3 1 2", "kinds: domain domain domain list\n"), ("4 3 1 2", "kinds: domain domain domain time\n"),
        ("4 3 1 2", "spacings: 1 2 3 4\n"), ("4 3 2 1", "kinds: domain domain domain scalar\n"),
        ("4 3 1 2", "space: LPS\nspace directions: (2,0,0) (0,2,0) (0,0,3) none\n"),
        ("4 3 1 2", "space: RAST\nspace directions: (2,0,0,0) (0,2,0,0) (0,0,3,0) (0,0,0,1)\nspace origin: (1,2,3,4)\n"),
        ("1 4 3 2", "kinds: stub ??? space none\n"), ("3 4 1 2", "kinds: RGB-color domain domain domain\n"),
        ("2 4 3 1", "kinds: 3-vector domain domain domain\n"), ("1 1 4 6", "kinds: list list domain domain\n"),
    ]
    for number, (sizes, line) in enumerate(axes):
        put(f"nrrd_axes_{number}", four.format(sizes) + line)
    two = "type: uint8\ndimension: 2\nsizes: 4 6\nencoding: raw\n"
    for number, line in enumerate(["", "spacings: 0.5 0.7\n", "space: LPS\nspace directions: (0,1,0) (2,0,0)\n",
                                   "space dimension: 2\nspace directions: (0,1) (2,0)\nspace origin: (3,4)\n"]):
        put(f"nrrd_two_{number}", two + line)
    of = "type: {}\ndimension: 3\nsizes: 4 3 2\nencoding: {}\n".format
    words = lambda scale, separator=" ": separator.join(str(i * scale) for i in range(24)).encode()
    encoded = [
        (of("int16", "ascii"), words(-100)), (of("float", "txt"), words(1 / 3, "\n")), (of("double", "text"), words(1 / 3, ", ")),
        (of("int64", "ascii"), words(10**15)), (of("int", "ascii"), words(0.5)), (of("uint8", "ascii"), words(1)[:-9]),
        (of("uint8", "hex"), RAMP.hex(" ").encode()), (of("short", "hex") + "endian: big\n", 2 * RAMP.hex().encode()),
        (of("short", "gzip") + "endian: big\n", gzip.compress(RAMP * 2)), (of("short", "raw"), RAMP * 2),
        (of("uint8", "bz2"), RAMP), (of("uint8", "raw") + "byte skip: 3\n", b"abc" + RAMP),
        (of("uint8", "raw") + "byte skip: -1\n", b"abc" + RAMP), (of("uint8", "raw") + "line skip: 2\n", b"ab\nc\n" + RAMP),
        (of("uint8", "gzip") + "byte skip: 3\n", gzip.compress(b"abc" + RAMP)), (of("uint8", "raw"), RAMP[:-4]),
        (of("uint8", "gzip") + "line skip: 1\n", b"abc\n" + gzip.compress(RAMP)), (of("uint8", "gzip"), gzip.compress(RAMP[:-4])),
        (of("uint8", "gzip"), gzip.compress(RAMP + RAMP)), (of("uint8", "gzip"), gzip.compress(RAMP[:12]) + gzip.compress(RAMP[12:])),
        (of("uint8", "gzip"), zlib.compress(RAMP)), (of("uint8", "gzip"), gzip.compress(RAMP)[:-12]),
    ]
    for number, (fields, data) in enumerate(encoded):
        put(f"nrrd_encoded_{number}", fields, data)
    for word, size in [("signed char", 1), ("uchar", 1), ("Unsigned Short", 2), ("int32_t", 4), ("uint", 4), ("longlong", 8),
                       ("unsigned long long int", 8), ("block", 1), ("char", 1), ("float32", 4), ("Double", 8)]:
        put(f"nrrd_type_{word.replace(' ', '_')}", of(word, "raw") + "endian: big\n", RAMP * size)
    put("nrrd_crlf", plain.replace("\n", "\r\n"))
    for magic in ["NRRD00.01", "NRRD0005", "NRRD0006"]:
        put(f"nrrd_{magic}", plain, magic=magic)
    for number, fields in enumerate([plain.replace("4 3 2", sizes) for sizes in ["4 3 2 1", "4 3 0", "4 3", "4 3 -2"]]):
        put(f"nrrd_sizes_{number}", fields)
    put("nrrd_order", "type: uint8\nsizes: 4 3 2\ndimension: 3\nencoding: raw\n")
    (folder / "beside.raw").write_bytes(RAMP)
    for number, line in enumerate(["data file: beside.raw\n", "datafile: ./beside.raw\n", "data file: LIST\nbeside.raw\n", ""]):
        put(f"nrrd_detached_{number}", plain + line, RAMP if not line else b"", ending="nhdr")


def write_meta(folder):
    def put(name, lines, data=RAMP, ending="mha", then="DimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"):
        (folder / f"meta_{name}.{ending}").write_bytes(f"ObjectType = Image\nNDims = 3\n{lines}{then}".encode() + data)

    then = "DimSize = {}\nElementType = {}\nElementDataFile = {}\n".format
    lines = {
        "bare": "", "negative": "ElementSpacing = -1 2 3\n", "zero": "ElementSpacing = 0 2 3\n", "size": "ElementSize = 1 2 3\n",
        "position": "Position = 1 2 3\nOrientation = 0 1 0 1 0 0 0 0 1\n", "rotation": "Rotation = 0 1 0 1 0 0 0 0 1\nOrigin = 7 8 9\n",
        "plane": "TransformMatrix = 0 1 0 0 1 0 0 0 1\n", "long": "TransformMatrix = 2 0 0 0 2 0 0 0 2\n",
        "oblique": "TransformMatrix = 0 0.6 0.8 0 -0.8 0.6 1 0 0\nOffset = 1e1 -.5 +3\nElementSpacing = 1 2 3\n",
        "units": "DistanceUnits = cm\n", "slope": "ElementToIntensityFunctionSlope = 2\nElementToIntensityFunctionOffset = 5\n",
        "idle": "FancyKey = hi there\nComment = a=b:c\nModality = MET_MOD_CT\nAnatomicalOrientation = RAI\nCenterOfRotation = 5 5 5\n",
        "many": "ElementSpacing=1 2 3 4\n", "few": "ElementSpacing = 1 2\n", "junk": "Junk\n", "blank": "\n\n", "dims": "DimSize = 9 9 9\n",
        "origins": "Offset = 1 2 3\nPosition = 4 5 6\n", "words": "Offset = 1 x 3\n", "nan": "Offset = nan 2 3\n",
        "header": "HeaderSize = -1\n", "channels": "ElementNumberOfChannels = 1\n", "vectors": "ElementNumberOfChannels = 2\n",
    }
    for name, line in lines.items():
        put(name, line)
    put("short", "", RAMP[:-4])
    put("header_end", "HeaderSize = -1\n", b"abc" + RAMP)
    packed, zipped = zlib.compress(RAMP), gzip.compress(RAMP)
    for name, size, data in [("zlib", len(packed), packed), ("gzip", len(zipped), zipped), ("missing", 0, packed),
                             ("small", 5, packed), ("large", 9999, packed)]:
        put(name, f"CompressedData = True\nCompressedDataSize = {size}\n" if size else "CompressedData = True\n", data)
    text = " ".join(map(str, range(24))).encode() + b"\n"
    for word in ["UCHAR", "SHORT", "FLOAT", "LONG_LONG", "DOUBLE"]:
        put(f"text_{word}", "BinaryData = False\n", text, then=then("4 3 2", f"MET_{word}", "LOCAL"))
    put("text_short", "BinaryData = False\n", text[:-9])
    put("text_large", "BinaryData = False\n", text.replace(b"23", b"1023"))
    put("text_swapped", "BinaryData = False\nBinaryDataByteOrderMSB = True\n", text, then=then("4 3 2", "MET_SHORT", "LOCAL"))
    for word, size in [("LONG", 4), ("ULONG", 4), ("LONG_LONG", 8), ("ULONG_LONG", 8), ("CHAR", 1), ("ASCII_CHAR", 1), ("INT", 4),
                       ("UINT", 4), ("USHORT", 2), ("DOUBLE", 8), ("FLOAT", 4), ("UCHAR_ARRAY", 1), ("FOO", 1)]:
        put(f"type_{word}", "BinaryDataByteOrderMSB = True\n", RAMP * size, then=then("4 3 2", f"MET_{word}", "Local"))
    put("element_order", "ElementByteOrderMSB = True\n", RAMP * 2, then=then("4 3 2", "MET_SHORT", "LOCAL"))
    for number, sizes in enumerate(["4 3 0", "4 3 -2", "4 3", "4 3 9999999999", "4.0 3 2"]):
        put(f"sizes_{number}", "", then=then(sizes, "MET_UCHAR", "LOCAL"))
    for axes, sizes in [(1, "24"), (2, "4 6"), (4, "4 3 1 2"), (4, "4 3 2 1"), (5, "4 3 2 1 1")]:
        fields = f"NDims = {axes}\n{then(sizes, 'MET_UCHAR', 'LOCAL')}"
        (folder / f"meta_axes_{sizes.replace(' ', '_')}.mha").write_bytes(fields.encode() + RAMP)
    (folder / "meta_crlf.mha").write_bytes(f"NDims = 3\n{then('4 3 2', 'MET_UCHAR', 'LOCAL')}".replace("\n", "\r\n").encode() + RAMP)
    (folder / "beside_long.raw").write_bytes(b"hh" + RAMP + b"tt")
    (folder / "beside.zraw").write_bytes(packed)
    for name, line, file in [("plain", "", "beside.raw"), ("dot", "", "./beside.raw"), ("from", "HeaderSize = 2\n", "beside_long.raw"),
                             ("end", "HeaderSize = -1\n", "beside_long.raw"), ("packed", "CompressedData = True\n", "beside.zraw"),
                             ("blank", "", "beside.raw  "), ("list", "", "LIST\nbeside.raw"), ("pattern", "", "beside%d.raw 1 2 1"),
                             ("escape", "", "../beside.raw"), ("absent", "", "nowhere.raw")]:
        put(f"detached_{name}", line, b"", ending="mhd", then=then("4 3 2", "MET_UCHAR", file))
    put("detached_local", "", ending="mhd")


def write_gipl(folder):
    def put(name, dims, kind=8, pixdim=(1, 2, 3, 1), origin=(4, 5, 6, 7), data=RAMP, magic=0xEFFFE9B0, ending="gipl"):
        header = struct.pack(">4HH4f", *dims, kind, *pixdim) + bytes(162)
        file = header + struct.pack(">2d4d4fI", 0, 0, *origin, 0, 0, 0, 0, magic) + data
        (folder / f"gipl_{name}.{ending}").write_bytes(gzip.compress(file) if ending.endswith("gz") else file)

    for kind, size in [(1, 1), (7, 1), (8, 1), (15, 2), (16, 2), (31, 4), (32, 4), (64, 4), (65, 8), (144, 4), (3, 1)]:
        put(f"type_{kind}", (4, 3, 2, 1), kind, data=RAMP * size)
    for number, dims in enumerate([(4, 3, 2, 0), (4, 6, 0, 0), (4, 3, 1, 2), (4, 0, 2, 1), (24, 1, 1, 1), (4, 6, 0, 2), (24, 0, 0, 0)]):
        put(f"dims_{number}", dims)
    put("negative", (4, 3, 2, 1), pixdim=(-1, 2, 3, 1))
    put("zero", (4, 3, 2, 1), pixdim=(0, 2, 3, 1))
    put("magic", (4, 3, 2, 1), magic=0x2AE389B8)
    put("no_magic", (4, 3, 2, 1), magic=1)
    put("short", (4, 3, 2, 1), data=RAMP[:-4])
    put("zipped", (4, 3, 2, 1), ending="gipl.gz")


def write_natural(folder):
    from PIL import Image

    grey, colour, alpha = ramp("u1", (5, 7)) * 7, ramp("u1", (5, 7, 3)) * 2, ramp("u1", (5, 7, 4))
    deep = ramp("u2", (5, 7))
    for ending in ["png", "bmp", "tif"]:
        save = lambda name, image, **more: image.save(folder / f"pil_{name}.{ending}", **more)
        save("grey", Image.fromarray(grey))
        save("rgb", Image.fromarray(colour))
        save("rgba", Image.fromarray(alpha))
        save("bits", Image.fromarray(grey > 90))
        save("palette", Image.fromarray(colour).quantize(9))
        save("grey_palette", Image.fromarray(grey).convert("P"))
        if ending != "bmp":
            save("deep", Image.fromarray(deep))
            save("grey_alpha", Image.fromarray(alpha[..., :2], "LA"))
        if ending == "tif":
            save("float", Image.fromarray(ramp("f4", (5, 7))))
            save("lzw", Image.fromarray(grey), compression="tiff_lzw")
            save("packbits", Image.fromarray(grey), compression="packbits")
            save("jpeg", Image.fromarray(grey), compression="jpeg")
            save("fax", Image.fromarray(grey > 90), compression="group4")
    palette = Image.fromarray(colour).quantize(9)
    palette.save(folder / "pil_transparent.png", transparency=bytes([0, 128, 255]))
    Image.fromarray(grey).save(folder / "pil_grey_key.png", transparency=7)
    Image.fromarray(colour).save(folder / "pil_rgb_key.png", transparency=(0, 2, 4))
    frames = [Image.fromarray(grey), Image.fromarray(grey + 1)]
    frames[0].save(folder / "pil_animated.png", save_all=True, append_images=frames[1:])

    def png(name, width, height, depth, kind, rows, *chunks, interlace=0):
        def chunk(tag, data):
            return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

        header = struct.pack(">2I5B", width, height, depth, kind, 0, 0, interlace)
        body = b"".join(chunk(tag, data) for tag, data in [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
        (folder / f"png_{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    for depth in [1, 2, 4, 8, 16]:
        line = lambda samples: b"\0" + bytes(np.random.RandomState(depth).randint(0, 256, (4 * samples * depth + 7) // 8, dtype=np.uint8))
        png(f"grey_{depth}", 4, 3, depth, 0, line(1) * 3)
        if depth >= 8:
            png(f"rgb_{depth}", 4, 3, depth, 2, line(3) * 3)
            png(f"rgba_{depth}", 4, 3, depth, 6, line(4) * 3)
            png(f"grey_alpha_{depth}", 4, 3, depth, 4, line(2) * 3)
        if depth <= 8:
            png(f"palette_{depth}", 4, 3, depth, 3, line(1) * 3, (b"PLTE", bytes(range(256)) * 3))
    png("palette_short", 4, 3, 8, 3, b"\0\0\1\2\3" * 3, (b"PLTE", bytes(6)))
    png("short", 4, 3, 8, 0, b"\0\0\1\2\3" * 2)
    png("huge", 1 << 30, 1 << 30, 8, 0, b"\0")
    Image.fromarray(grey).save(folder / "pil_cut.png")
    (folder / "pil_cut.png").write_bytes((folder / "pil_cut.png").read_bytes()[:-30])
    Image.fromarray(grey).save(folder / "bmp_named.bmp", format="PNG")

    def bmp(name, bits, rows, compression=0, palette=b"", colours=0, height=2, masks=b"", old=False, width=4):
        info = struct.pack("<I2i2H6I", 40 + (len(masks) if len(masks) == 16 else 0), width, height, 1, bits, compression, 0, 0, 0, colours, 0)
        if old:
            info = struct.pack("<I4H", 12, width, height, 1, bits)
        start = 14 + len(info) + len(masks) + len(palette)
        file = b"BM" + struct.pack("<3I", start + len(rows), 0, start) + info + masks + palette + rows
        (folder / f"bmp_{name}.bmp").write_bytes(file)

    wide = np.random.RandomState(3).randint(0, 256, 64, dtype=np.uint8).tobytes()
    shades = b"".join(bytes([i, i, i, 0]) for i in range(256))
    mask = lambda *values: struct.pack(f"<{len(values)}I", *values)
    bmp("15", 16, wide[:16])
    bmp("16", 16, wide[:16], 3, masks=mask(0xF800, 0x7E0, 0x1F))
    bmp("24", 24, wide[:24])
    bmp("32", 32, wide[:32])
    bmp("32_masked", 32, wide[:32], 3, masks=mask(0xFF0000, 0xFF00, 0xFF))
    bmp("32_alpha", 32, wide[:32], 3, masks=mask(0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    bmp("32_abgr", 32, wide[:32], 3, masks=mask(0xFF000000, 0xFF0000, 0xFF00, 0xFF))
    bmp("32_odd", 32, wide[:32], 3, masks=mask(0xFF00, 0xFF0000, 0xFF, 0))
    bmp("8", 8, wide[:8], palette=shades)
    bmp("8_top", 8, wide[:8], palette=shades, height=-2)
    bmp("8_colours", 8, bytes(range(8)), palette=wide[:40], colours=10)
    bmp("8_few", 8, bytes(range(8)), palette=wide[:20], colours=5)
    bmp("4", 4, wide[:8], palette=wide)
    bmp("4_greys", 4, wide[:8], palette=shades[:64])
    bmp("1", 1, wide[:8], palette=wide[:8])
    bmp("1_black", 1, wide[:8], palette=bytes(4) + b"\xff\xff\xff\0")
    bmp("rle", 8, b"\4\1\0\0\4\2\0\1", 1, palette=shades)
    bmp("old", 24, wide[:24], old=True)
    bmp("odd_width", 24, wide[:32], width=5)
    bmp("short", 24, wide[:20])
    bmp("huge", 24, wide[:20], width=60000, height=60000)


def write_tiff(folder):
    import tifffile

    def put(name, data, ending="tif", **more):
        tifffile.imwrite(folder / f"tiff_{name}.{ending}", data, **more)

    for dtype in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "?", "c8"]:
        data = (ramp("u1", (5, 6, 7)) % 3 > 0) if dtype == "?" else ramp("f4", (5, 6, 7)).astype("c8") if dtype == "c8" else ramp(dtype, (5, 6, 7))
        for order in "<>":
            put(f"{dtype.replace('?', 'bool')}_{'little' if order == '<' else 'big'}", data, byteorder=order, ending="tiff")
        put(f"flat_{dtype.replace('?', 'bool')}", data[0])
    volume = ramp("u2", (5, 6, 7))
    for compression in ["lzw", "zlib", "adobe_deflate", "packbits", "zstd", "lzma", "jpeg", "none"]:
        for predictor in [False, True, 3]:
            for data in [volume, ramp("f4", (5, 6, 7)), ramp("u1", (5, 6, 7)), ramp("f2", (5, 6, 7)), ramp("f8", (5, 6, 7))]:
                name = f"{compression}_{int(predictor)}_{data.dtype}"
                for order in "<>":
                    try:
                        put(f"{name}_{'little' if order == '<' else 'big'}", data, "tiff", compression=compression, predictor=predictor, byteorder=order)
                    except Exception:
                        (folder / f"tiff_{name}_{'little' if order == '<' else 'big'}.tiff").unlink(missing_ok=True)
    large = ramp("u2", (3, 40, 50)) % 1000
    put("tiled", large, tile=(16, 32))
    put("tiled_lzw", large, tile=(16, 16), compression="lzw", predictor=True)
    put("strips", large, rowsperstrip=7, compression="zlib")
    put("tiled_float", large.astype("f4"), tile=(16, 32), compression="zlib", predictor=True)
    put("big", volume, bigtiff=True)
    put("imagej", volume, imagej=True)
    put("imagej_channels", ramp("u2", (5, 2, 6, 7)), imagej=True, metadata={"axes": "ZCYX"})
    put("ome", volume, "tiff", ome=True, metadata={"axes": "ZYX"})
    put("ome_channels", ramp("u2", (5, 2, 6, 7)), "tiff", ome=True, metadata={"axes": "ZCYX"})
    put("truncated", volume, metadata={"axes": "ZYX"}, truncate=True)
    put("unsaid", volume, metadata=None)
    put("unsaid_many", ramp("u2", (11, 6, 7)), metadata=None)
    put("one", volume[:1])
    put("one_unsaid", volume[:1], metadata=None)
    put("four", ramp("u2", (2, 5, 6, 7)))
    put("three_slices", volume[:3])
    put("four_slices", volume[:4])
    put("three_wide", ramp("u1", (5, 6, 3)), photometric="minisblack")
    put("rgb", ramp("u1", (6, 7, 3)), photometric="rgb")
    put("rgb_planes", ramp("u1", (3, 6, 7)), photometric="rgb", planarconfig="separate")
    put("rgb_deep", ramp("u2", (6, 7, 3)), photometric="rgb", compression="lzw", predictor=True)
    put("rgba", ramp("u1", (6, 7, 4)), photometric="rgb", extrasamples=["unassalpha"])
    put("rgb_stack", ramp("u1", (4, 6, 7, 3)) % 200, photometric="rgb")
    put("two_samples", ramp("u1", (6, 7, 2)), photometric="minisblack", planarconfig="contig")
    put("white_is_zero", volume[0], photometric="miniswhite")
    put("palette", ramp("u1", (6, 7)), photometric="palette", colormap=ramp("u2", (3, 256)))
    for bits in [2, 4, 7, 12]:
        put(f"bits_{bits}", ramp("u1" if bits < 8 else "u2", (5, 6, 7)) % (1 << bits), "tiff", bitspersample=bits)
    with tifffile.TiffWriter(folder / "tiff_mixed.tif") as file:
        for page in [volume[0], volume[1], volume[2, :3], volume[3]]:
            file.write(page, metadata=None)
    with tifffile.TiffWriter(folder / "tiff_two_series.tif") as file:
        file.write(volume)
        file.write(volume[:2, :3])
    with tifffile.TiffWriter(folder / "tiff_children.tif") as file:
        file.write(volume[0], subifds=1)
        file.write(volume[0, ::2, ::2], subfiletype=1)
    whole = (folder / "tiff_strips.tif").read_bytes()
    (folder / "tiff_cut.tif").write_bytes(whole[: len(whole) // 2])
    for stem, spacing in [("spaced", [2.5, 0.5, 1]), ("two_spacings", [1, 2]), ("no_spacing", [0.0, 1, 1])]:
        put(f"{stem}_0000", volume)
        (folder / f"tiff_{stem}.json").write_text(json.dumps({"spacing": spacing, "more": 1}))


def write(folder):
    folder = Path(folder)
    for part in [write_simple_itk, write_nibabel, write_nrrd, write_meta, write_gipl, write_natural, write_tiff]:
        part(folder)
