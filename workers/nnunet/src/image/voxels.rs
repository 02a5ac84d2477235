//! Stored values: their types, and how each library turns them into float32.

use ndarray::Array4;

/// The types that are read: real numbers of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoxelType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

/// The stored values of an image, x fastest.
pub(super) struct Voxels {
    /// What they are.
    pub voxel_type: VoxelType,
    /// Bytes are swapped.
    pub big_endian: bool,
    /// How they become intensities.
    pub scaling: Scaling,
    /// The file, or its inflated content.
    pub content: Vec<u8>,
    /// Where the values begin in `content`.
    pub start: usize,
}

impl Voxels {
    /// Intensities, (c, z, y, x); the error says what is missing.
    pub fn intensities(&self, shape: (usize, usize, usize, usize)) -> Result<Array4<f32>, String> {
        let size = byte_size(&[shape.0, shape.1, shape.2, shape.3], self.voxel_type)?;
        let end = self.start.saturating_add(size);
        let Some(bytes) = self.content.get(self.start..end) else {
            return Err(too_short(end, self.content.len()));
        };
        let mut data = vec![0.0; size / self.voxel_type.bytes()];
        self.voxel_type
            .decode(bytes, self.big_endian, self.scaling, &mut data);
        Array4::from_shape_vec(shape, data).map_err(|error| error.to_string())
    }
}

/// The bytes of so many values; the error says that nobody can hold them.
pub(super) fn byte_size(dims: &[usize], voxel_type: VoxelType) -> Result<usize, String> {
    dims.iter()
        .try_fold(voxel_type.bytes(), |size, &dim| size.checked_mul(dim))
        .filter(|&size| size < isize::MAX as usize)
        .ok_or_else(|| format!("{dims:?} are more voxels than can be addressed"))
}

/// What is said of a file that is cut short or promises too much.
pub(super) fn too_short(promised: usize, held: usize) -> String {
    format!("its header promises {promised} bytes, but it holds {held}")
}

/// How stored values become intensities. Both compute in float64 and round to float32 once more at the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scaling {
    /// As stored.
    Itk,
    /// ITK casts integers to float32 before it scales.
    ItkScaled { slope: f64, intercept: f64 },
    /// nibabel's get_fdata: by way of float64.
    Nibabel,
    /// As above, scaled.
    NibabelScaled { slope: f64, intercept: f64 },
}

impl VoxelType {
    /// The type of a NIfTI `datatype`.
    pub fn from_code(code: i16) -> Result<VoxelType, String> {
        Ok(match code {
            2 => VoxelType::U8,
            4 => VoxelType::I16,
            8 => VoxelType::I32,
            16 => VoxelType::F32,
            64 => VoxelType::F64,
            256 => VoxelType::I8,
            512 => VoxelType::U16,
            768 => VoxelType::U32,
            1024 => VoxelType::I64,
            1280 => VoxelType::U64,
            other => return Err(format!("datatype {other} is not a real number of up to 64 bits")),
        })
    }

    /// The NIfTI `datatype`.
    pub fn code(self) -> i16 {
        match self {
            VoxelType::U8 => 2,
            VoxelType::I16 => 4,
            VoxelType::I32 => 8,
            VoxelType::F32 => 16,
            VoxelType::F64 => 64,
            VoxelType::I8 => 256,
            VoxelType::U16 => 512,
            VoxelType::U32 => 768,
            VoxelType::I64 => 1024,
            VoxelType::U64 => 1280,
        }
    }

    /// Bytes of one voxel.
    pub fn bytes(self) -> usize {
        match self {
            VoxelType::U8 | VoxelType::I8 => 1,
            VoxelType::U16 | VoxelType::I16 => 2,
            VoxelType::U32 | VoxelType::I32 | VoxelType::F32 => 4,
            VoxelType::U64 | VoxelType::I64 | VoxelType::F64 => 8,
        }
    }

    /// Reads so many numbers in decimal, apart by white space or commas, into little-endian bytes.
    /// A number with a fraction is cut to an integer where integers are stored.
    pub fn parse_text(self, text: &[u8], count: usize) -> Result<Vec<u8>, String> {
        // A number takes at least one byte and a separator.
        if count > text.len().div_ceil(2) {
            return Err(format!(
                "its header promises {count} numbers, more than it can hold"
            ));
        }
        let mut bytes = Vec::with_capacity(count * self.bytes());
        let separator = |byte: &u8| byte.is_ascii_whitespace() || *byte == b',';
        let mut words = text.split(separator).filter(|word| !word.is_empty());
        for number in 0..count {
            let word = words
                .next()
                .ok_or_else(|| format!("it holds only {number} of {count} numbers"))?;
            let word = std::str::from_utf8(word).unwrap_or("?");
            self.append_text(word, &mut bytes)
                .ok_or_else(|| format!("{word:?} is not a number of its type"))?;
        }
        Ok(bytes)
    }

    fn append_text(self, word: &str, bytes: &mut Vec<u8>) -> Option<()> {
        macro_rules! append_as {
            ($type:ty) => {{
                let value = match word.parse::<$type>() {
                    Ok(value) => value,
                    Err(_) => {
                        let value = word.parse::<f64>().ok()?;
                        let fits = value > <$type>::MIN as f64 - 1.0 && value < <$type>::MAX as f64 + 1.0;
                        fits.then_some(value as $type)?
                    }
                };
                bytes.extend(value.to_le_bytes());
            }};
        }
        match self {
            VoxelType::U8 => append_as!(u8),
            VoxelType::I8 => append_as!(i8),
            VoxelType::U16 => append_as!(u16),
            VoxelType::I16 => append_as!(i16),
            VoxelType::U32 => append_as!(u32),
            VoxelType::I32 => append_as!(i32),
            VoxelType::U64 => append_as!(u64),
            VoxelType::I64 => append_as!(i64),
            VoxelType::F32 => bytes.extend(word.parse::<f32>().ok()?.to_le_bytes()),
            VoxelType::F64 => bytes.extend(word.parse::<f64>().ok()?.to_le_bytes()),
        }
        Some(())
    }

    /// Turns `bytes` into intensities, one for each value of `out`.
    pub fn decode(self, bytes: &[u8], big_endian: bool, scaling: Scaling, out: &mut [f32]) {
        macro_rules! decode_as {
            ($type:ty, $itk:expr) => {{
                let stored = |bytes: &[u8; size_of::<$type>()]| {
                    if big_endian {
                        <$type>::from_be_bytes(*bytes)
                    } else {
                        <$type>::from_le_bytes(*bytes)
                    }
                };
                let itk = $itk;
                let voxels = out.iter_mut().zip(bytes.as_chunks().0);
                match scaling {
                    Scaling::Itk => voxels.for_each(|(out, bytes)| *out = stored(bytes) as f32),
                    Scaling::ItkScaled { slope, intercept } => {
                        voxels.for_each(|(out, bytes)| *out = (itk(stored(bytes)) * slope + intercept) as f32)
                    }
                    Scaling::Nibabel => voxels.for_each(|(out, bytes)| *out = stored(bytes) as f64 as f32),
                    Scaling::NibabelScaled { slope, intercept } => voxels
                        .for_each(|(out, bytes)| *out = (stored(bytes) as f64 * slope + intercept) as f32),
                }
            }};
            ($type:ty) => {
                decode_as!($type, |value: $type| f64::from(value as f32))
            };
        }
        match self {
            VoxelType::U8 => decode_as!(u8),
            VoxelType::I8 => decode_as!(i8),
            VoxelType::U16 => decode_as!(u16),
            VoxelType::I16 => decode_as!(i16),
            VoxelType::U32 => decode_as!(u32),
            VoxelType::I32 => decode_as!(i32),
            VoxelType::U64 => decode_as!(u64),
            VoxelType::I64 => decode_as!(i64),
            VoxelType::F32 => decode_as!(f32),
            VoxelType::F64 => decode_as!(f64, |value: f64| value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn itk_rounds_integers_before_scaling() {
        // SimpleITK 2.5: 16777217 as int32 with slope 0.1 and intercept -1 reads as 1677720.625.
        let scaling = Scaling::ItkScaled {
            slope: f64::from(0.1f32),
            intercept: -1.0,
        };
        let mut out = [0.0];
        VoxelType::I32.decode(&16777217i32.to_be_bytes(), true, scaling, &mut out);
        assert_eq!(out, [1_677_720.6]);
    }

    #[test]
    fn codes_read_back() {
        for code in [2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280] {
            assert_eq!(VoxelType::from_code(code).unwrap().code(), code);
        }
        assert!(VoxelType::from_code(128).unwrap_err().contains("128"));
    }
}
