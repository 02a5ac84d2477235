//! MetaImage files: `.mha`, which hold their voxels, and `.mhd`, which name the file that does.
//! (itkMetaImageIO.cxx; metaImage.cxx of MetaIO)

use std::{
    collections::HashMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use super::{
    files::{self, Content},
    geometry::ItkSpace,
    grid::LabelBytes,
    gzip,
    simple_itk::{ItkImage, data_file_of, header_and_data, with_voxels},
    voxels::{Scaling, VoxelType, Voxels, byte_size, too_short},
};
use crate::{Error, Result};

/// More axes than these MetaIO does not hold.
const MOST_AXES: usize = 10;

/// A header, in the file's own terms.
struct Header {
    /// `DimSize`.
    dims: Vec<usize>,
    space: ItkSpace,
    voxel_type: VoxelType,
    big_endian: bool,
    /// `BinaryData`.
    binary: bool,
    /// `CompressedData`.
    compressed: bool,
    /// `CompressedDataSize`.
    compressed_size: Option<usize>,
    /// `HeaderSize`: bytes before the data in their file, or -1 where the data are its end.
    header_size: i64,
    /// `ElementDataFile`; none where it says LOCAL.
    data_file: Option<String>,
    /// Bytes of the header.
    length: usize,
}

/// Reads a file that has been read from `path`, and the file that it names.
pub(super) fn read(file: Vec<u8>, path: &Path) -> Result<ItkImage> {
    let header = Header::parse(&file).map_err(|reason| Error::bad_file(path, reason))?;
    let (length, named) = (header.length, header.data_file.clone());
    with_voxels(path, file, length, named.as_deref(), |content, start| {
        header.image(content, start)
    })
}

/// The file that a header names.
pub(super) fn data_file(path: &Path) -> Option<PathBuf> {
    let header = Header::parse(&std::fs::read(path).ok()?).ok()?;
    files::beside(path, &header.data_file?).ok()
}

impl Header {
    fn parse(file: &[u8]) -> Result<Header, String> {
        let (fields, length) = fields(file)?;
        let get = |key: &str| fields.get(key).map(String::as_str);
        let need = |key: &str| get(key).ok_or_else(|| format!("{key} is missing"));
        let axes = whole(need("NDims")?, "NDims")?;
        if !(1..=MOST_AXES).contains(&axes) {
            return Err(format!("NDims is {axes}, expected 1 to {MOST_AXES}"));
        }
        let dims = numbers(need("DimSize")?, axes, "DimSize")?;
        let dims = dims
            .iter()
            .map(|&dim| whole(&dim.to_string(), "DimSize"))
            .collect::<Result<Vec<_>, _>>()?;
        let mut space = ItkSpace::identity(axes);
        // Of several names for one thing the last here counts, wherever it stands.
        for key in ["Position", "Offset", "Origin", "ImagePosition"] {
            if let Some(value) = get(key) {
                space.origin = numbers(value, axes, key)?;
            }
        }
        for key in ["ElementSize", "ElementSpacing"] {
            if let Some(value) = get(key) {
                space.spacing = numbers(value, axes, key)?;
            }
        }
        for key in ["Orientation", "Rotation", "TransformMatrix"] {
            if let Some(value) = get(key) {
                let rows = numbers(value, axes * axes, key)?;
                // Each row is where an axis runs to.
                for (axis, row) in rows.chunks(axes).enumerate() {
                    space.set_axis(axis, row);
                }
            }
        }
        if let Some(channels) = get("ElementNumberOfChannels").filter(|channels| *channels != "1") {
            return Err(format!(
                "ElementNumberOfChannels is {channels}; only voxels of one number are supported: give each channel \
                 its own file"
            ));
        }
        let flag = |key: &str| get(key).map(|value| value.starts_with(['T', 't', '1']));
        let data_file = need("ElementDataFile")?;
        if data_file.starts_with("LIST") || data_file.contains('%') {
            return Err(format!(
                "ElementDataFile is {data_file:?}; voxels in several files are not supported"
            ));
        }
        Ok(Header {
            dims,
            space: space.checked()?,
            voxel_type: voxel_type(need("ElementType")?)?,
            big_endian: flag("BinaryDataByteOrderMSB")
                .or(flag("ElementByteOrderMSB"))
                .unwrap_or(false),
            binary: flag("BinaryData").unwrap_or(true),
            compressed: flag("CompressedData").unwrap_or(false),
            compressed_size: match get("CompressedDataSize") {
                Some(size) => Some(whole(size, "CompressedDataSize")?).filter(|&size| size > 0),
                None => None,
            },
            header_size: match get("HeaderSize") {
                Some("-1") => -1,
                Some(size) => whole(size, "HeaderSize")? as i64,
                None => 0,
            },
            data_file: (!["Local", "LOCAL", "local"].contains(&data_file)).then(|| data_file.to_owned()),
            length,
        })
    }

    /// The image whose voxels begin in `content` at `start`.
    fn image(self, content: Vec<u8>, start: usize) -> Result<ItkImage, String> {
        let size = byte_size(&self.dims, self.voxel_type)?;
        let start = match self.header_size {
            0 => start,
            -1 => content
                .len()
                .checked_sub(size)
                .ok_or_else(|| too_short(size, content.len()))?,
            skipped => skipped as usize,
        };
        let data = content
            .get(start..)
            .ok_or_else(|| too_short(start, content.len()))?;
        let (content, start) = if !self.binary {
            let count = size / self.voxel_type.bytes();
            // Like MetaIO, which swaps the bytes also of what was text.
            (self.voxel_type.parse_text(data, count)?, 0)
        } else if self.compressed {
            let data = match self.compressed_size {
                Some(length) => data.get(..length).ok_or_else(|| too_short(length, data.len()))?,
                None if self.data_file.is_some() => data,
                // MetaIO would take the header for compressed voxels.
                None => return Err("CompressedDataSize is missing".into()),
            };
            let inflated = if gzip::is_gzip(data) {
                gzip::inflate(data, size)?
            } else {
                gzip::inflate_zlib(data, size)?
            };
            (inflated, 0)
        } else {
            (content, start)
        };
        Ok(ItkImage {
            dims: self.dims,
            space: self.space,
            voxels: Voxels {
                voxel_type: self.voxel_type,
                big_endian: self.big_endian,
                scaling: Scaling::Itk,
                content,
                start,
            },
        })
    }
}

/// The header's fields and its length. It ends with the field ElementDataFile.
fn fields(file: &[u8]) -> Result<(HashMap<&'static str, String>, usize), String> {
    let mut fields = HashMap::new();
    let mut length = 0;
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        length += line.len();
        let line = String::from_utf8_lossy(line);
        if line.trim().is_empty() {
            continue;
        }
        let Some(separator) = line.find(['=', ':']) else {
            return Err(format!(
                "expected a line KEY = VALUE, found {:?}",
                line.trim().chars().take(80).collect::<String>()
            ));
        };
        let key = line[..separator].trim();
        let value = line[separator + 1..].trim().to_owned();
        let Some(&known) = KEYS.iter().find(|known| **known == key) else {
            continue;
        };
        // NDims must come first where lists depend on it.
        if matches!(known, "DimSize" | "ElementSpacing" | "ElementSize") && !fields.contains_key("NDims") {
            return Err(format!("{known} stands before NDims"));
        }
        fields.insert(known, value);
        if known == "ElementDataFile" {
            return Ok((fields, length));
        }
    }
    Err("ElementDataFile is missing".into())
}

/// The fields that matter. MetaIO keeps others without a look at them.
const KEYS: [&str; 20] = [
    "NDims",
    "DimSize",
    "Offset",
    "Position",
    "Origin",
    "ImagePosition",
    "ElementSize",
    "ElementSpacing",
    "Orientation",
    "Rotation",
    "TransformMatrix",
    "ElementNumberOfChannels",
    "ElementType",
    "BinaryData",
    "BinaryDataByteOrderMSB",
    "ElementByteOrderMSB",
    "CompressedData",
    "CompressedDataSize",
    "HeaderSize",
    "ElementDataFile",
];

fn voxel_type(name: &str) -> Result<VoxelType, String> {
    Ok(match name {
        "MET_CHAR" | "MET_ASCII_CHAR" => VoxelType::I8,
        "MET_UCHAR" => VoxelType::U8,
        "MET_SHORT" => VoxelType::I16,
        "MET_USHORT" => VoxelType::U16,
        "MET_INT" | "MET_LONG" => VoxelType::I32,
        "MET_UINT" | "MET_ULONG" => VoxelType::U32,
        "MET_LONG_LONG" => VoxelType::I64,
        "MET_ULONG_LONG" => VoxelType::U64,
        "MET_FLOAT" => VoxelType::F32,
        "MET_DOUBLE" => VoxelType::F64,
        other => return Err(format!("ElementType {other} is not a real number")),
    })
}

/// The first `count` numbers of a value.
fn numbers(value: &str, count: usize, key: &str) -> Result<Vec<f64>, String> {
    let numbers: Vec<f64> = value
        .split_whitespace()
        .take(count)
        .map_while(|word| word.parse().ok())
        .collect();
    if numbers.len() == count {
        Ok(numbers)
    } else {
        Err(format!("{key} is {value:?}, expected {count} numbers"))
    }
}

/// A number of things. MetaIO reads it as a real number.
fn whole(value: &str, key: &str) -> Result<usize, String> {
    let number: f64 = value.trim().parse().unwrap_or(f64::NAN);
    if number.fract() == 0.0 && (0.0..9e15).contains(&number) {
        Ok(number as usize)
    } else {
        Err(format!("{key} is {value:?}, expected a whole number"))
    }
}

/// The files of a segmentation: compressed, as nnU-Net has ITK write it.
pub(super) fn write(
    dims: &[usize],
    space: &ItkSpace,
    values: LabelBytes,
    file: &Path,
    detached: bool,
) -> Result<Vec<Content>, String> {
    let compressed = gzip::deflate_zlib(&values.bytes)?;
    let data_file = detached.then(|| data_file_of(file, "zraw")).transpose()?;
    let axes = dims.len();
    let list = |numbers: &mut dyn Iterator<Item = String>| numbers.collect::<Vec<_>>().join(" ");
    let floats = |values: &[f64]| list(&mut values.iter().map(f64::to_string));
    let directions: Vec<f64> = (0..axes).flat_map(|axis| space.axis(axis)).collect();
    let mut header = String::new();
    let mut field = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(header, "{key} = {value}");
    };
    field("ObjectType", "Image");
    field("NDims", &axes.to_string());
    field("BinaryData", "True");
    field("BinaryDataByteOrderMSB", "False");
    field("CompressedData", "True");
    field("CompressedDataSize", &compressed.len().to_string());
    field("TransformMatrix", &floats(&directions));
    field("Offset", &floats(&space.origin));
    field("CenterOfRotation", &floats(&vec![0.0; axes]));
    field("ElementSpacing", &floats(&space.spacing));
    field("DimSize", &list(&mut dims.iter().map(usize::to_string)));
    let voxel_type = if values.size == 1 {
        "MET_UCHAR"
    } else {
        "MET_USHORT"
    };
    field("ElementType", voxel_type);
    let place = data_file.as_ref().map_or("LOCAL", |(_, name)| name);
    field("ElementDataFile", place);
    let data_file = data_file.map(|(path, _)| path);
    Ok(header_and_data(file, header, compressed, data_file))
}
