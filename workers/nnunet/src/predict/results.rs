//! Logits that torch adds up in memory of ours, so that they need not be copied to leave it: those of a large scan
//! take most of what a prediction takes.

use half::f16;
use ndarray::Array4;
use tch::{Device, Kind, Tensor};

use super::{Logits, Precision};
use crate::{Error, Result};

/// Logits (heads, z, y, x) in main memory, and a tensor that is a view of them.
pub(super) struct Results {
    // Goes first: it looks into the memory.
    tensor: Tensor,
    memory: Memory,
    shape: (usize, usize, usize, usize),
}

enum Memory {
    Half(Vec<f16>),
    Single(Vec<f32>),
}

impl Results {
    /// Zeros.
    ///
    /// # Errors
    /// More than there can be.
    pub fn zeros(shape: [i64; 4], precision: Precision) -> Result<Self> {
        let count = shape
            .iter()
            .try_fold(1usize, |n, &axis| n.checked_mul(usize::try_from(axis).ok()?))
            .ok_or_else(|| Error::invalid("logits", format!("no memory holds the shape {shape:?}")))?;
        let (mut memory, kind) = match precision {
            Precision::Half => (Memory::Half(vec![f16::ZERO; count]), Kind::Half),
            Precision::Single => (Memory::Single(vec![0.0; count]), Kind::Float),
        };
        let data: *mut u8 = match &mut memory {
            Memory::Half(values) => values.as_mut_ptr().cast(),
            Memory::Single(values) => values.as_mut_ptr().cast(),
        };
        let [_, z, y, x] = shape;
        // SAFETY: the memory has as many elements of that type, is not moved or resized, and is dropped after the
        // tensor; views of the tensor stay in the function that collects tiles.
        let tensor =
            unsafe { Tensor::f_from_blob(data, &shape, &[z * y * x, y * x, x, 1], kind, Device::Cpu) }?;
        let [heads, z, y, x] = shape.map(|axis| axis as usize);
        Ok(Self {
            tensor,
            memory,
            shape: (heads, z, y, x),
        })
    }

    /// The view: another handle of the tensor, which must not outlive this.
    pub fn tensor(&self) -> Tensor {
        self.tensor.shallow_clone()
    }

    /// The logits, without a copy.
    pub fn into_logits(self) -> Result<Logits> {
        let Self {
            tensor,
            memory,
            shape,
        } = self;
        drop(tensor);
        let bad = |e: ndarray::ShapeError| Error::invalid("logits", e);
        Ok(match memory {
            Memory::Half(values) => Logits::Half(Array4::from_shape_vec(shape, values).map_err(bad)?),
            Memory::Single(values) => Logits::Single(Array4::from_shape_vec(shape, values).map_err(bad)?),
        })
    }
}
