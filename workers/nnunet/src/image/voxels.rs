//! Voxel types of NIfTI-1 and how each library turns them into float32.

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
