//! Cropping to the nonzero region. (nnunetv2/preprocessing/cropping/cropping.py)

use ndarray::{Array3, ArrayView3, ArrayView4, ArrayViewMut3};

/// A half-open box of voxels, [lower, upper) per axis (z, y, x).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundingBox {
    /// The first voxel.
    pub lower: [usize; 3],
    /// One past the last voxel.
    pub upper: [usize; 3],
}

impl BoundingBox {
    /// The number of voxels per axis.
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.upper[axis] - self.lower[axis])
    }
}

/// Where any channel of `data` (c, z, y, x) is not zero, with the holes filled.
pub fn nonzero_mask(data: ArrayView4<f32>) -> Array3<bool> {
    todo!("{data:?}")
}

/// The smallest box that holds the mask; everything where the mask is empty.
pub fn bounding_box(mask: ArrayView3<bool>) -> BoundingBox {
    todo!("{mask:?}")
}

/// nnU-Net's `crop_to_nonzero`: the box, and the mask (z, y, x) cropped to it.
///
/// The caller cuts the box out of image and segmentation, and calls [`mark_outside`].
pub fn crop_to_nonzero(data: ArrayView4<f32>) -> (BoundingBox, Array3<bool>) {
    todo!("{data:?}")
}

/// Labels of 0 outside the mask become -1. Both are cropped, (z, y, x).
pub fn mark_outside(labels: ArrayViewMut3<i16>, mask: ArrayView3<bool>) {
    todo!("{labels:?} {mask:?}")
}
