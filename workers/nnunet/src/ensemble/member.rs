//! The probabilities of one member, read class by class from a `.npz` of Python's or of ours.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use half::f16;
use zip::{ZipArchive, read::ZipFile};

use crate::{Error, Result};

const NAME: &str = "probabilities.npy";
/// Deflate makes at most 1032 bytes of one: what promises more is no archive of probabilities.
const LARGEST_EXPANSION: u64 = 1100;
/// No header of numpy's is longer.
const LONGEST_HEADER: usize = 1 << 16;

pub(super) type Archive = ZipArchive<BufReader<File>>;

/// Opens a `.npz`.
pub(super) fn open(path: &Path) -> Result<Archive> {
    let file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    ZipArchive::new(file)
        .map_err(|e| Error::bad_file(path, format!("not a whole .npz archive, cut short? {e}")))
}

/// A number type that probabilities are kept in.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Half,
    Single,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Kind::Half => 2,
            Kind::Single => 4,
        }
    }

    fn read(self, bytes: &[u8]) -> f32 {
        match self {
            Kind::Half => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Kind::Single => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }
}

/// The array `probabilities` (classes, z, y, x) of an archive, from its first class on.
pub(super) struct Member<'a> {
    path: PathBuf,
    content: ZipFile<'a, BufReader<File>>,
    shape: [usize; 4],
    kind: Kind,
    /// All of it, where the first axis changes fastest: numpy keeps a transposed array of one class so.
    fortran: Option<Vec<u8>>,
    next: usize,
}

impl<'a> Member<'a> {
    /// Reads the array's header.
    ///
    /// # Errors
    /// No such array, or one of other axes or another type.
    pub fn start(archive: &'a mut Archive, path: &Path) -> Result<Self> {
        let bad = |reason: &str| Error::bad_file(path, format!("array 'probabilities': {reason}"));
        let compressed = archive.decompressed_size().unwrap_or(u128::MAX);
        let length = std::fs::metadata(path).map_err(Error::io(path))?.len();
        let mut content = archive.by_name(NAME).map_err(|e| bad(&e.to_string()))?;
        if compressed > u128::from(length) * u128::from(LARGEST_EXPANSION) {
            return Err(bad("it promises more than its file can hold"));
        }
        let (header, header_length) = header(&mut content).map_err(|reason| bad(&reason))?;
        let field = |name: &str| {
            let (_, rest) = header.split_once(&format!("'{name}':"))?;
            Some(rest.trim_start())
        };
        let kind = match field("descr").and_then(|text| text.get(..5)) {
            Some("'<f4'") => Kind::Single,
            Some("'<f2'") => Kind::Half,
            found => return Err(bad(&format!("expected float32 or float16, found {found:?}"))),
        };
        let is_fortran = field("fortran_order").is_some_and(|text| text.starts_with("True"));
        let shape = field("shape")
            .and_then(|text| text.strip_prefix('(')?.split_once(')'))
            .and_then(|(axes, _)| {
                let axes = axes.split(',').map(str::trim).filter(|axis| !axis.is_empty());
                axes.map(|axis| axis.parse().ok()).collect::<Option<Vec<usize>>>()
            })
            .and_then(|axes| <[usize; 4]>::try_from(axes).ok())
            .filter(|axes| !axes.contains(&0))
            .ok_or_else(|| bad("expected four axes: classes, z, y, x"))?;
        let expected = shape.iter().try_fold(kind.size(), |n, &axis| n.checked_mul(axis));
        let found = content.size().checked_sub(header_length as u64);
        if expected.map(|n| n as u64) != found {
            return Err(bad(&format!("{found:?} bytes do not hold the shape {shape:?}")));
        }
        let fortran = if is_fortran {
            let mut all = vec![0; expected.unwrap_or(0)];
            content.read_exact(&mut all).map_err(Error::io(path))?;
            Some(all)
        } else {
            None
        };
        Ok(Member {
            path: path.to_owned(),
            content,
            shape,
            kind,
            fortran,
            next: 0,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// (classes, z, y, x).
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Hands the values of the next class to `add`, each with its place in `out`, which are the voxels in C order.
    ///
    /// # Errors
    /// The file ends too early, or holds a value that is no number.
    pub fn next(&mut self, add: impl Fn(&mut f32, f32), out: &mut [f32]) -> Result<()> {
        let [_, slices, rows, columns] = self.shape;
        let (kind, class) = (self.kind, self.next);
        self.next += 1;
        let mut buffer = vec![0; rows * columns * kind.size()];
        let mut unknown = false;
        for (z, plane) in out.chunks_mut((rows * columns).max(1)).enumerate() {
            match &self.fortran {
                None => self
                    .content
                    .read_exact(&mut buffer)
                    .map_err(Error::io(&self.path))?,
                Some(all) => {
                    let [classes, ..] = self.shape;
                    for (place, bytes) in buffer.chunks_exact_mut(kind.size()).enumerate() {
                        let (y, x) = (place / columns, place % columns);
                        let from = (class + classes * (z + slices * (y + rows * x))) * kind.size();
                        bytes.copy_from_slice(&all[from..from + kind.size()]);
                    }
                }
            }
            for (out, bytes) in plane.iter_mut().zip(buffer.chunks_exact(kind.size())) {
                let value = kind.read(bytes);
                unknown |= value.is_nan();
                add(out, value);
            }
        }
        if unknown {
            return Err(Error::bad_file(
                &self.path,
                format!("a probability of class {class} is no number"),
            ));
        }
        Ok(())
    }

    /// Reads to the end, where the archive's checksum is held against what was read.
    pub fn finish(&mut self) -> Result<()> {
        let rest = std::io::copy(&mut self.content, &mut std::io::sink()).map_err(Error::io(&self.path))?;
        match rest {
            0 => Ok(()),
            _ => Err(Error::bad_file(
                &self.path,
                format!("{rest} bytes behind the array"),
            )),
        }
    }
}

/// The dictionary in front of an array, as text, and how many bytes it took with what is before it.
fn header(content: &mut impl Read) -> Result<(String, usize), String> {
    let mut read = |n: usize| {
        let mut bytes = vec![0; n];
        content.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok::<_, String>(bytes)
    };
    let start = read(8)?;
    let width = match start.strip_prefix(b"\x93NUMPY") {
        Some([1, _]) => 2,
        Some([2 | 3, _]) => 4,
        _ => return Err("not an .npy of versions 1 to 3".into()),
    };
    let length = read(width)?
        .iter()
        .rev()
        .fold(0usize, |n, &byte| n << 8 | usize::from(byte));
    if length > LONGEST_HEADER {
        return Err(format!("a header of {length} bytes"));
    }
    let text = String::from_utf8(read(length)?).map_err(|e| e.to_string())?;
    Ok((text, 8 + width + length))
}
