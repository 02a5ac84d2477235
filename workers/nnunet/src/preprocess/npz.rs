//! `.npz` files with stored, 64-byte aligned members: Python's `np.load` reads them, and Rust maps them.

use std::{
    fs::File,
    io::{Cursor, Seek, Write},
    ops::Range,
    path::Path,
};

use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{Error, Result};

// Members are the machine's own bytes, in little-endian order.
const _: () = assert!(cfg!(target_endian = "little"));

/// What data are aligned to in the file, and so in memory.
const ALIGNMENT: usize = 64;

/// A number type of numpy that is stored and mapped.
///
/// # Safety
/// Any bytes must be a value.
pub(crate) unsafe trait Number: Copy {
    /// numpy's name of the type.
    const DESCR: &'static str;
}

// SAFETY: any bytes are a value of these.
unsafe impl Number for f32 {
    const DESCR: &'static str = "<f4";
}
// SAFETY: as above.
unsafe impl Number for i16 {
    const DESCR: &'static str = "<i2";
}
// SAFETY: as above.
unsafe impl Number for u32 {
    const DESCR: &'static str = "<u4";
}

/// The bytes of numbers.
fn bytes_of<T: Number>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any alignment will do for bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The numbers that `bytes` are. None where the length or the alignment does not fit.
pub(super) fn numbers<T: Number>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: any bytes are a value, by the trait's promise.
    let (before, values, after) = unsafe { bytes.align_to() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// Writes an archive member by member.
pub(crate) struct Writer<'a, W: Write + Seek> {
    archive: ZipWriter<W>,
    path: &'a Path,
    method: CompressionMethod,
}

impl<'a, W: Write + Seek> Writer<'a, W> {
    /// `path` is what errors name.
    pub fn new(file: W, path: &'a Path) -> Self {
        Self {
            archive: ZipWriter::new(file),
            path,
            method: CompressionMethod::Stored,
        }
    }

    /// Members are compressed: Python reads them, but nothing can map them.
    pub fn compressed(file: W, path: &'a Path) -> Self {
        Self {
            method: CompressionMethod::Deflated,
            ..Self::new(file, path)
        }
    }

    fn start(&mut self, name: &str, bytes: usize) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(self.method)
            .with_alignment(ALIGNMENT as u16)
            .large_file(bytes >= u32::MAX as usize);
        self.archive
            .start_file(name, options)
            .map_err(|e| Error::bad_file(self.path, e))
    }

    /// Adds an array in C order as the member `name`.npy.
    pub fn array<T: Number>(&mut self, name: &str, shape: &[usize], values: &[T]) -> Result<()> {
        self.begin_array::<T>(name, shape)?;
        self.append(values)
    }

    /// Begins an array in C order, whose values [`Writer::append`] adds piece by piece.
    pub fn begin_array<T: Number>(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        let bytes = shape
            .iter()
            .fold(size_of::<T>(), |n, &axis| n.saturating_mul(axis));
        self.start(&format!("{name}.npy"), bytes)?;
        let mut header = b"\x93NUMPY\x01\x00\0\0".to_vec();
        let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
        let comma = if shape.len() == 1 { "," } else { "" };
        let axes = axes.join(", ");
        header.extend(
            format!(
                "{{'descr': '{}', 'fortran_order': False, 'shape': ({axes}{comma}), }}",
                T::DESCR
            )
            .bytes(),
        );
        while !(header.len() + 1).is_multiple_of(ALIGNMENT) {
            header.push(b' ');
        }
        header.push(b'\n');
        let length = (header.len() - 10) as u16;
        header[8..10].copy_from_slice(&length.to_le_bytes());
        self.write(&header)
    }

    /// Adds values to the array that was begun.
    pub fn append<T: Number>(&mut self, values: &[T]) -> Result<()> {
        self.write(bytes_of(values))
    }

    /// Adds plain bytes as the member `name`.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.start(name, bytes.len())?;
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.archive.write_all(bytes).map_err(Error::io(self.path))
    }

    /// Ends the archive and returns the file.
    pub fn finish(self) -> Result<W> {
        self.archive.finish().map_err(|e| Error::bad_file(self.path, e))
    }
}

/// An array inside of a mapped archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Array {
    /// Its length along each axis.
    pub shape: Vec<usize>,
    /// Where its numbers lie in the file.
    pub bytes: Range<usize>,
}

/// The members of an archive, found in `content`, the whole file.
pub(super) struct Reader<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    content: &'a [u8],
    path: &'a Path,
}

impl<'a> Reader<'a> {
    /// Finds the archive's directory. `path` is what errors name.
    pub fn new(content: &'a [u8], path: &'a Path) -> Result<Self> {
        let archive = ZipArchive::new(Cursor::new(content))
            .map_err(|e| Error::bad_file(path, format!("not a whole .npz archive, cut short? {e}")))?;
        Ok(Self {
            archive,
            content,
            path,
        })
    }

    fn member(&mut self, name: &str) -> Result<Range<usize>> {
        let bad = |reason: String| Error::bad_file(self.path, reason);
        let member = self
            .archive
            .by_name(name)
            .map_err(|e| bad(format!("member '{name}': {e}")))?;
        if member.compression() != CompressionMethod::Stored {
            return Err(bad(format!(
                "member '{name}' is compressed: it was not written by Rounds, preprocess again"
            )));
        }
        let (start, size) = (member.data_start() as usize, member.size() as usize);
        match start.checked_add(size) {
            Some(end) if end <= self.content.len() => Ok(start..end),
            _ => Err(bad(format!(
                "member '{name}' reaches over the end of the file, cut short?"
            ))),
        }
    }

    /// The plain bytes of the member `name`.
    pub fn bytes(&mut self, name: &str) -> Result<&'a [u8]> {
        let range = self.member(name)?;
        Ok(&self.content[range])
    }

    /// The array in the member `name`.npy, of type `T` and in C order.
    pub fn array<T: Number>(&mut self, name: &str) -> Result<Array> {
        let member = self.member(&format!("{name}.npy"))?;
        let content = &self.content[member.clone()];
        let bad = |reason: &str| Error::bad_file(self.path, format!("array '{name}': {reason}"));
        let header = content
            .get(10..)
            .filter(|_| content.starts_with(b"\x93NUMPY\x01\x00"));
        let header = header.ok_or_else(|| bad("not an .npy of version 1.0"))?;
        let length = usize::from(u16::from_le_bytes([content[8], content[9]]));
        let text = header
            .get(..length)
            .and_then(|h| std::str::from_utf8(h).ok())
            .ok_or_else(|| bad("no header"))?;
        if !text.contains(&format!("'descr': '{}'", T::DESCR)) || !text.contains("'fortran_order': False") {
            return Err(bad(&format!(
                "expected {} in C order, found {}",
                T::DESCR,
                text.trim()
            )));
        }
        let shape = text
            .split_once("'shape': (")
            .and_then(|(_, rest)| rest.split_once(')'))
            .and_then(|(shape, _)| {
                let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
                axes.map(|axis| axis.parse::<usize>().ok())
                    .collect::<Option<Vec<_>>>()
            })
            .ok_or_else(|| bad("no shape"))?;
        let bytes = member.start + 10 + length..member.end;
        let expected = shape
            .iter()
            .try_fold(size_of::<T>(), |n, &axis| n.checked_mul(axis));
        if expected != Some(bytes.len()) || numbers::<T>(&self.content[bytes.clone()]).is_none() {
            return Err(bad(&format!(
                "{} bytes do not hold the shape {shape:?}",
                bytes.len()
            )));
        }
        Ok(Array { shape, bytes })
    }
}

/// Maps a whole file into memory.
pub(super) fn map(path: &Path) -> Result<memmap2::Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: cases are written to a temporary and renamed, never changed in place.
    unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))
}
