//! Weights and momentum as safetensors: how they travel between sites, and how they rest on a disk.
//!
//! The tensors stand in the order of the state (nnU-Net's parameter order), float32, each once. A masked update is of
//! unsigned 64-bit integers in their place.
//! The same state gives the same bytes. The format is <https://huggingface.co/docs/safetensors>.

use std::{
    fs::File,
    io::Write,
    marker::PhantomData,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use sha2::{Digest, Sha256};

use crate::{
    Error, Result,
    network::{StateDict, Tensor32},
};

/// The bytes of `state`.
pub fn to_bytes(state: &StateDict) -> Vec<u8> {
    let shapes: Vec<_> = state
        .iter()
        .map(|(name, t)| (name.to_owned(), t.shape.clone()))
        .collect();
    let mut bytes = header::<f32>(&shapes);
    let values: usize = state.iter().map(|(_, tensor)| tensor.data.len()).sum();
    bytes.reserve_exact(f32::SIZE * values);
    for (_, tensor) in state.iter() {
        f32::put(&tensor.data, &mut bytes);
    }
    bytes
}

/// The state that `bytes` hold. `what` names them in errors.
///
/// # Errors
/// Where they are no safetensors, or a tensor is not float32 or not finite: the error names it.
pub fn from_bytes(bytes: &[u8], what: &str) -> Result<StateDict> {
    let tensors = parse::<f32>(bytes, Path::new(what))?;
    read_state(&tensors, bytes, Path::new(what))
}

/// Writes `state` to `path` by way of a temporary file beside it. Returns the digest of the bytes.
pub fn write(state: &StateDict, path: &Path) -> Result<String> {
    let shapes: Vec<_> = state
        .iter()
        .map(|(name, t)| (name.to_owned(), t.shape.clone()))
        .collect();
    let mut writer = Writer::<f32>::create(path, &shapes)?;
    for (_, tensor) in state.iter() {
        writer.push(&tensor.data)?;
    }
    writer.finish()
}

/// The state in the file `path`. Errors as in [`from_bytes`].
pub fn read(path: &Path) -> Result<StateDict> {
    TensorFile::open(path)?.state()
}

/// The sha256 of `bytes` in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Holds names and shapes against those that are expected.
///
/// # Errors
/// The first tensor that is missing, unexpected, or of another shape.
pub(crate) fn check_shapes(
    expected: &IndexMap<String, Vec<usize>>,
    found: &IndexMap<String, Vec<usize>>,
) -> Result<(), String> {
    for (name, shape) in expected {
        match found.get(name) {
            None => return Err(format!("tensor {name} is missing")),
            Some(other) if other != shape => {
                return Err(format!(
                    "tensor {name} has the shape {other:?}, expected {shape:?}"
                ));
            }
            _ => {}
        }
    }
    match found.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(format!("tensor {name} is not expected")),
        None => Ok(()),
    }
}

/// Values that are made bytes at a time: they stay in the processor's nearest cache.
const BLOCK: usize = 1024;

/// What tensors are of.
pub trait Value: Copy {
    /// Its name in a file's header.
    const DTYPE: Dtype;
    /// Bytes of one.
    const SIZE: usize;
    /// Adds the little-endian bytes of `values`.
    fn put(values: &[Self], bytes: &mut Vec<u8>);
}

impl Value for f32 {
    const DTYPE: Dtype = Dtype::F32;
    const SIZE: usize = 4;
    fn put(values: &[Self], bytes: &mut Vec<u8>) {
        let mut block = [[0; Self::SIZE]; BLOCK];
        for values in values.chunks(BLOCK) {
            for (bytes, value) in block.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
            bytes.extend_from_slice(block[..values.len()].as_flattened());
        }
    }
}

impl Value for u64 {
    const DTYPE: Dtype = Dtype::U64;
    const SIZE: usize = 8;
    fn put(values: &[Self], bytes: &mut Vec<u8>) {
        let mut block = [[0; Self::SIZE]; BLOCK];
        for values in values.chunks(BLOCK) {
            for (bytes, value) in block.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
            bytes.extend_from_slice(block[..values.len()].as_flattened());
        }
    }
}

/// A safetensors file whose tensors are read when they are asked for.
pub struct TensorFile<T = f32> {
    values: PhantomData<T>,
    path: PathBuf,
    file: File,
    map: Mmap,
    data_start: usize,
    tensors: IndexMap<String, (Vec<usize>, usize, usize)>,
}

impl<T: Value> TensorFile<T> {
    /// Opens `path` and checks its header against its size. The file must not change while it is open.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: artifacts are written to a temporary, renamed, and never changed.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let Parsed { data_start, tensors } = parse::<T>(&map, path)?;
        Ok(TensorFile {
            values: PhantomData,
            path: path.to_owned(),
            file,
            map,
            data_start,
            tensors,
        })
    }

    /// Names and shapes, in stored order.
    pub fn shapes(&self) -> IndexMap<String, Vec<usize>> {
        self.tensors
            .iter()
            .map(|(name, (shape, ..))| (name.clone(), shape.clone()))
            .collect()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Fills `bytes` with a tensor's values, little-endian, from value `first` on. What is read is copied, not mapped:
    /// whoever looks at many files at once holds no more of them than these bytes.
    pub fn read(&self, name: &str, first: usize, bytes: &mut [u8]) -> Result<()> {
        let tensor = self.tensors.get(name);
        let at = tensor.and_then(|(_, start, end)| {
            let at = start.checked_add(first.checked_mul(T::SIZE)?)?;
            (at.checked_add(bytes.len())? <= *end).then_some(self.data_start + at)
        });
        let at = at.ok_or_else(|| {
            let reason = format!("tensor {name} has no {} bytes from value {first} on", bytes.len());
            Error::bad_file(&self.path, reason)
        })?;
        let read = self.file.read_exact_at(bytes, at as u64);
        read.map_err(Error::io(&self.path))
    }
}

impl TensorFile {
    /// All tensors. Errors name the first that is not finite.
    pub fn state(&self) -> Result<StateDict> {
        let parsed = Parsed {
            data_start: self.data_start,
            tensors: self.tensors.clone(),
        };
        read_state(&parsed, &self.map, &self.path)
    }
}

/// Writes a safetensors file tensor by tensor.
pub struct Writer<T = f32> {
    values: PhantomData<T>,
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    hash: Sha256,
    shapes: std::vec::IntoIter<(String, Vec<usize>)>,
    /// Values that are not written yet.
    left: usize,
}

impl<T: Value> Writer<T> {
    /// Begins `path` with the header for tensors of these names and shapes. Until [`Writer::finish`] the bytes lie
    /// in a temporary file beside it.
    pub fn create(path: &Path, shapes: &[(String, Vec<usize>)]) -> Result<Self> {
        let temporary = path.with_extension("partial");
        let file = File::create(&temporary).map_err(Error::io(&temporary))?;
        let mut writer = Writer {
            values: PhantomData,
            path: path.to_owned(),
            temporary,
            file,
            hash: Sha256::new(),
            shapes: Vec::from(shapes).into_iter(),
            left: shapes
                .iter()
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum(),
        };
        writer.put(&header::<T>(shapes))?;
        Ok(writer)
    }

    /// Adds the values of the next tensor.
    pub fn push(&mut self, values: &[T]) -> Result<()> {
        let (name, shape) = self
            .shapes
            .next()
            .ok_or_else(|| Error::bad_file(&self.path, "more tensors than promised"))?;
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::bad_file(
                &self.path,
                format!("tensor {name} of shape {shape:?} has {} values", values.len()),
            ));
        }
        self.append(values)
    }

    /// Adds the next values, of however many tensors.
    pub(crate) fn append(&mut self, values: &[T]) -> Result<()> {
        self.left = self
            .left
            .checked_sub(values.len())
            .ok_or_else(|| Error::bad_file(&self.path, "more values than promised"))?;
        let mut bytes = Vec::new();
        for chunk in values.chunks(1 << 16) {
            bytes.clear();
            T::put(chunk, &mut bytes);
            self.put(&bytes)?;
        }
        Ok(())
    }

    /// Completes the file under its name, where a power cut leaves it. Returns the digest of its bytes.
    pub fn finish(self) -> Result<String> {
        self.file.sync_all().map_err(Error::io(&self.temporary))?;
        self.finish_scratch()
    }

    /// As [`Writer::finish`], of a file that nobody looks for after a crash: it is not synced.
    pub fn finish_scratch(self) -> Result<String> {
        if self.left > 0 {
            let reason = format!("{} values were not written", self.left);
            return Err(Error::bad_file(&self.path, reason));
        }
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        Ok(hex::encode(self.hash.finalize()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.temporary))
    }
}

/// The length and the JSON that a file begins with, padded with spaces so that the data is aligned.
fn header<T: Value>(shapes: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut json = serde_json::Map::new();
    let mut at = 0;
    for (name, shape) in shapes {
        let end = at + T::SIZE * shape.iter().product::<usize>();
        json.insert(
            name.clone(),
            serde_json::json!({"dtype": T::DTYPE, "shape": shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut text = serde_json::Value::Object(json).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(64) + 56, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

struct Parsed {
    data_start: usize,
    tensors: IndexMap<String, (Vec<usize>, usize, usize)>,
}

fn parse<T: Value>(bytes: &[u8], path: &Path) -> Result<Parsed> {
    let bad = |reason: String| Error::bad_file(path, format!("not safetensors as expected: {reason}"));
    let (length, metadata): (usize, Metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| bad(e.to_string()))?;
    let mut tensors = IndexMap::new();
    for name in metadata.offset_keys() {
        let info = metadata
            .info(&name)
            .ok_or_else(|| bad(format!("tensor {name} without a description")))?;
        if info.dtype != T::DTYPE {
            return Err(bad(format!(
                "tensor {name} has the type {:?}, expected {:?}",
                info.dtype,
                T::DTYPE
            )));
        }
        let (start, end) = info.data_offsets;
        tensors.insert(name, (info.shape.clone(), start, end));
    }
    Ok(Parsed {
        data_start: 8 + length,
        tensors,
    })
}

fn read_state(parsed: &Parsed, bytes: &[u8], path: &Path) -> Result<StateDict> {
    let read: Vec<(String, Tensor32)> = parsed
        .tensors
        .iter()
        .collect::<Vec<_>>()
        .par_iter()
        .map(|&(name, (shape, start, end))| {
            let bytes = bytes
                .get(parsed.data_start + start..parsed.data_start + end)
                .ok_or_else(|| Error::bad_file(path, format!("tensor {name} lies outside the file")))?;
            let data: Vec<f32> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            if let Some(value) = data.iter().find(|v| !v.is_finite()) {
                return Err(Error::bad_file(
                    path,
                    format!("tensor {name} holds the value {value}"),
                ));
            }
            Ok((name.clone(), Tensor32::new(shape.clone(), data)?))
        })
        .collect::<Result<_>>()?;
    let mut state = StateDict::new();
    for (name, tensor) in read {
        state.insert(name, tensor)?;
    }
    Ok(state)
}
