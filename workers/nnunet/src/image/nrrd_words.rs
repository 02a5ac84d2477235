//! The words of NRRD headers, which do not mind capitals. (enumsNrrd.c of NrrdIO)

use super::voxels::VoxelType;

/// First lines of NRRD files.
pub(super) const MAGIC: [&str; 6] = [
    "NRRD00.01",
    "NRRD0001",
    "NRRD0002",
    "NRRD0003",
    "NRRD0004",
    "NRRD0005",
];

/// A header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Field {
    Type,
    Dimension,
    Space,
    SpaceDimension,
    Sizes,
    Spacings,
    AxisMins,
    AxisMaxs,
    SpaceDirections,
    Centers,
    Kinds,
    Units,
    Endian,
    Encoding,
    LineSkip,
    ByteSkip,
    SpaceOrigin,
    DataFile,
    /// Known, but of no matter to nnU-Net.
    Other,
}

/// The field of that name; none where there is none.
pub(super) fn field(name: &str) -> Option<Field> {
    Some(match name.to_lowercase().as_str() {
        "type" => Field::Type,
        "dimension" => Field::Dimension,
        "space" => Field::Space,
        "space dimension" | "spacedimension" => Field::SpaceDimension,
        "sizes" => Field::Sizes,
        "spacings" => Field::Spacings,
        "axis mins" | "axismins" => Field::AxisMins,
        "axis maxs" | "axismaxs" => Field::AxisMaxs,
        "space directions" | "spacedirections" => Field::SpaceDirections,
        "centers" | "centerings" => Field::Centers,
        "kinds" => Field::Kinds,
        "units" => Field::Units,
        "endian" => Field::Endian,
        "encoding" => Field::Encoding,
        "line skip" | "lineskip" => Field::LineSkip,
        "byte skip" | "byteskip" => Field::ByteSkip,
        "space origin" | "spaceorigin" => Field::SpaceOrigin,
        "data file" | "datafile" => Field::DataFile,
        "content" | "number" | "block size" | "blocksize" | "thicknesses" | "labels" | "min" | "max"
        | "old min" | "oldmin" | "old max" | "oldmax" | "sample units" | "sampleunits" | "space units"
        | "spaceunits" | "measurement frame" | "measurementframe" => Field::Other,
        _ => return None,
    })
}

/// The type of a voxel's number.
pub(super) fn voxel_type(value: &str) -> Result<VoxelType, String> {
    Ok(match value.to_lowercase().as_str() {
        "signed char" | "int8" | "int8_t" => VoxelType::I8,
        "uchar" | "unsigned char" | "uint8" | "uint8_t" => VoxelType::U8,
        "short" | "short int" | "signed short" | "signed short int" | "int16" | "int16_t" => VoxelType::I16,
        "ushort" | "unsigned short" | "unsigned short int" | "uint16" | "uint16_t" => VoxelType::U16,
        "int" | "signed int" | "int32" | "int32_t" => VoxelType::I32,
        "uint" | "unsigned int" | "uint32" | "uint32_t" => VoxelType::U32,
        "longlong"
        | "long long"
        | "long long int"
        | "signed long long"
        | "signed long long int"
        | "int64"
        | "int64_t" => VoxelType::I64,
        "ulonglong" | "unsigned long long" | "unsigned long long int" | "uint64" | "uint64_t" => {
            VoxelType::U64
        }
        "float" => VoxelType::F32,
        "double" => VoxelType::F64,
        _ => return Err("not a type of real numbers".into()),
    })
}

/// How voxels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Raw,
    Text,
    Hexadecimal,
    Gzip,
}

/// The encoding of that name. ITK is built without bzip2.
pub(super) fn encoding(value: &str) -> Result<Encoding, String> {
    Ok(match value.to_lowercase().as_str() {
        "raw" => Encoding::Raw,
        "txt" | "text" | "ascii" => Encoding::Text,
        "hex" => Encoding::Hexadecimal,
        "gz" | "gzip" => Encoding::Gzip,
        _ => return Err("expected raw, ascii, hex or gzip".into()),
    })
}

/// The dimensions of a space, and the signs that turn it to the left, posterior and superior. ITK turns only
/// these; other spaces it takes as they are.
pub(super) fn space(value: &str) -> Result<(usize, [f64; 3]), String> {
    let words = value.to_lowercase().replace([' ', '-'], "");
    let time = words.strip_suffix("time").or_else(|| words.strip_suffix('t'));
    let spatial = time.unwrap_or(&words);
    let signs = match spatial {
        "rightanteriorsuperior" | "ras" => [-1.0, -1.0, 1.0],
        "leftanteriorsuperior" | "las" => [1.0, -1.0, 1.0],
        "leftposteriorsuperior" | "lps" | "scannerxyz" | "3drighthanded" | "3dlefthanded" => [1.0; 3],
        _ => return Err("not a known space".into()),
    };
    Ok(match time {
        Some(_) => (4, [1.0; 3]),
        None => (3, signs),
    })
}

/// What an axis is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Kind {
    /// It runs through the image, not through the parts of a voxel.
    pub is_domain: bool,
    /// The only size it may have.
    pub size: Option<usize>,
}

/// The kind of that name; none where the axis has none.
pub(super) fn kind(word: &str) -> Result<Option<Kind>, String> {
    let size = match word.to_lowercase().as_str() {
        "???" | "none" => return Ok(None),
        "domain" | "space" | "time" => {
            return Ok(Some(Kind {
                is_domain: true,
                size: None,
            }));
        }
        "list" | "point" | "vector" | "contravariant-vector" | "covariant-vector" | "normal" => None,
        "stub" | "scalar" => Some(1),
        "complex" | "2-vector" => Some(2),
        "3-color" | "rgb-color" | "rgbcolor" | "rgb" | "hsv-color" | "hsvcolor" | "hsv" | "xyz-color"
        | "3-vector" | "3-gradient" | "3-normal" => Some(3),
        "4-color" | "rgba-color" | "rgbacolor" | "rgba" | "4-vector" | "quaternion" => Some(4),
        matrix => Some(
            match matrix
                .replace("symmetric", "sym")
                .replace("tensor", "matrix")
                .as_str()
            {
                "2d-sym-matrix" => 3,
                "2d-masked-sym-matrix" | "2d-matrix" => 4,
                "2d-masked-matrix" => 5,
                "3d-sym-matrix" => 6,
                "3d-masked-sym-matrix" => 7,
                "3d-matrix" => 9,
                "3d-masked-matrix" => 10,
                _ => return Err(format!("{word:?} is no kind of axis")),
            },
        ),
    };
    Ok(Some(Kind {
        is_domain: false,
        size,
    }))
}
