//! Scans and segmentations: reading, writing, and where in the patient they lie.
//!
//! `reader` chooses among nnU-Net's readers: `simple_itk` (`nifti`, `nrrd`, `meta`, `gipl`; `orientation`), `nibabel`,
//! `natural` (PNG here, `bmp`) and `tiff3d`; the last two share `tiff`, `tiff_pixels`, `tiff_series`, `tiff_write`.

mod bmp;
mod files;
mod geometry;
mod gipl;
mod grid;
mod gzip;
mod meta;
mod natural;
mod nibabel;
mod nifti;
mod nifti_geometry;
mod nrrd;
mod nrrd_header;
mod nrrd_words;
mod orientation;
mod reader;
mod simple_itk;
mod tiff;
mod tiff3d;
mod tiff_pixels;
mod tiff_series;
mod tiff_write;
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
