//! Scans and segmentations: reading, writing, and where in the patient they lie.

mod geometry;
mod gzip;
mod nifti;
mod nifti_geometry;
mod reader;
mod voxels;

use ndarray::{Array3, Array4};

pub use geometry::Geometry;
pub(crate) use geometry::all_close;
pub use reader::Reader;

/// A scan: its channels on one grid, with everything that nnU-Net knows of the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Intensities, (c, z, y, x).
    pub data: Array4<f32>,
    /// Spacing in mm, (z, y, x). A 2D image has one slice, 999 times as thick as its larger spacing.
    pub spacing: [f64; 3],
    /// What it takes to write a segmentation of this scan.
    pub geometry: Geometry,
}

/// A segmentation of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// Label values, (z, y, x). Outside the nonzero region, preprocessing writes -1.
    pub labels: Array3<i16>,
    /// Spacing in mm, (z, y, x).
    pub spacing: [f64; 3],
    /// Where it lies.
    pub geometry: Geometry,
}
