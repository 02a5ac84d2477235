//! NRRD files, with their voxels behind the header (`.nrrd`) or in a file that it names (`.nhdr`).
//! (encodingRaw.c, encodingGzip.c, encodingAscii.c, encodingHex.c of NrrdIO; itkNrrdImageIO.cxx)

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use super::{
    files::{self, Content},
    geometry::ItkSpace,
    grid::LabelBytes,
    gzip,
    nrrd_header::Header,
    nrrd_words::Encoding,
    simple_itk::{ItkImage, data_file_of, header_and_data, with_voxels},
    voxels::{Scaling, Voxels, byte_size, too_short},
};
use crate::{Error, Result};

/// Reads a file that has been read from `path`, and the file that it names.
pub(super) fn read(file: Vec<u8>, path: &Path) -> Result<ItkImage> {
    let header = Header::parse(&file).map_err(|reason| Error::bad_file(path, reason))?;
    let named = header.data_file.as_deref();
    with_voxels(path, file, header.length, named, |content, start| {
        image(&header, content, start)
    })
}

/// The file that a header names.
pub(super) fn data_file(path: &Path) -> Option<PathBuf> {
    let header = Header::parse(&std::fs::read(path).ok()?).ok()?;
    files::beside(path, &header.data_file?).ok()
}

/// The image whose data begin in `content` at `start`.
fn image(header: &Header, content: Vec<u8>, mut start: usize) -> Result<ItkImage, String> {
    let (dims, space) = header.grid()?;
    let voxel_type = header.voxel_type();
    let size = byte_size(&dims, voxel_type)?;
    for _ in 0..header.line_skip {
        let rest = content.get(start..).unwrap_or_default();
        let line = rest.iter().position(|&byte| byte == b'\n');
        start += 1 + line.ok_or_else(|| format!("it has no {} lines to skip", header.line_skip))?;
    }
    // Compressed data are skipped once they are inflated.
    let skip = |length: usize, start: usize| match usize::try_from(header.byte_skip) {
        Ok(bytes) => Ok(start.saturating_add(bytes)),
        // -1 takes the last bytes, -2 those before the last, and so on.
        Err(_) => length
            .checked_sub(size)
            .and_then(|end| end.checked_sub(usize::try_from(-1 - header.byte_skip).ok()?))
            .ok_or_else(|| too_short(size, length)),
    };
    let data = content.get(start..).unwrap_or_default();
    let (content, start) = match header.encoding() {
        Encoding::Raw => {
            let start = skip(content.len(), start)?;
            (content, start)
        }
        Encoding::Gzip => {
            let Ok(skipped) = usize::try_from(header.byte_skip) else {
                return Err("byte skip counts from the end of what is compressed".into());
            };
            if !gzip::is_gzip(data) {
                return Err("its data are not gzipped".into());
            }
            (gzip::inflate(data, size.saturating_add(skipped))?, skipped)
        }
        encoding => {
            let data = &data[skip(data.len(), 0)?.min(data.len())..];
            let bytes = match encoding {
                Encoding::Text => voxel_type.parse_text(data, size / voxel_type.bytes())?,
                _ => hexadecimal(data, size)?,
            };
            (bytes, 0)
        }
    };
    Ok(ItkImage {
        dims,
        space,
        voxels: Voxels {
            voxel_type,
            big_endian: header.is_big_endian(),
            scaling: Scaling::Itk,
            content,
            start,
        },
    })
}

/// Two digits a byte, with white space anywhere.
fn hexadecimal(text: &[u8], size: usize) -> Result<Vec<u8>, String> {
    if size > text.len() / 2 {
        return Err(too_short(size, text.len() / 2));
    }
    let digits = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .take(2 * size)
        .map(|&byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<Vec<u8>>>()
        .ok_or("its data are not hexadecimal digits")?;
    let bytes: Vec<u8> = digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[high, low]| 16 * high + low)
        .collect();
    if bytes.len() < size {
        return Err(too_short(size, bytes.len()));
    }
    Ok(bytes)
}

/// The files of a segmentation, compressed.
pub(super) fn write(
    dims: &[usize],
    space: &ItkSpace,
    values: LabelBytes,
    file: &Path,
    detached: bool,
) -> Result<Vec<Content>, String> {
    let compressed = gzip::deflate(&values.bytes)?;
    let data_file = detached.then(|| data_file_of(file, "raw.gz")).transpose()?;
    let axes = dims.len();
    let vector = |numbers: &mut dyn Iterator<Item = f64>| {
        let numbers: Vec<String> = numbers.map(|x| x.to_string()).collect();
        format!("({})", numbers.join(","))
    };
    let mut header = String::from("NRRD0004\n");
    let mut field = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(header, "{key}: {value}");
    };
    field(
        "type",
        if values.size == 1 {
            "unsigned char"
        } else {
            "unsigned short"
        },
    );
    field("dimension", &axes.to_string());
    match axes {
        3 => field("space", "left-posterior-superior"),
        _ => field("space dimension", &axes.to_string()),
    }
    field(
        "sizes",
        &dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
    );
    let directions: Vec<String> = (0..axes)
        .map(|axis| vector(&mut space.axis(axis).map(|cosine| cosine * space.spacing[axis])))
        .collect();
    field("space directions", &directions.join(" "));
    field("kinds", &vec!["domain"; axes].join(" "));
    if values.size > 1 {
        field("endian", "little");
    }
    field("encoding", "gzip");
    field("space origin", &vector(&mut space.origin.iter().copied()));
    match &data_file {
        Some((_, name)) => field("data file", name),
        None => header.push('\n'),
    }
    let data_file = data_file.map(|(path, _)| path);
    Ok(header_and_data(file, header, compressed, data_file))
}
