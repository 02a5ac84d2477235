//! Where a scan lies in the patient, in the terms of the library that nnU-Net would have read it with.

use serde::{Deserialize, Serialize};

/// The geometry of a scan, as nnU-Net's readers keep it in a case's properties.
///
/// Rounds never computes with it: it is kept to write segmentations that lie where the scan lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Geometry {
    /// nnU-Net's `sitk_stuff`. Axes in ITK's order x, y, z (x, y for a 2D image; x, y, z, t where one file
    /// holds all channels). The patient's coordinates run to the left, posterior and superior.
    SimpleItk {
        /// Spacing in mm, one per axis.
        spacing: Vec<f64>,
        /// The position of the first voxel's centre in mm, one per axis.
        origin: Vec<f64>,
        /// Direction cosines, row by row: axes squared.
        direction: Vec<f64>,
    },
    /// nnU-Net's `nibabel_stuff`.
    Nibabel {
        /// From voxel (x, y, z, 1) to the patient's right, anterior and superior in mm.
        original_affine: [[f64; 4]; 4],
    },
}

impl Geometry {
    /// True where both lie alike, as numpy's `allclose` sees it. Unlike kinds never do.
    pub fn is_close_to(&self, other: &Geometry) -> bool {
        match (self, other) {
            (
                Geometry::SimpleItk {
                    spacing: s,
                    origin: o,
                    direction: d,
                },
                Geometry::SimpleItk {
                    spacing: s2,
                    origin: o2,
                    direction: d2,
                },
            ) => all_close(s, s2) && all_close(o, o2) && all_close(d, d2),
            (Geometry::Nibabel { original_affine: a }, Geometry::Nibabel { original_affine: b }) => {
                all_close(a.as_flattened(), b.as_flattened())
            }
            _ => false,
        }
    }
}

/// numpy's `allclose(a, b)` with its default tolerances; false where the lengths differ.
pub(crate) fn all_close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a == b || (a - b).abs() <= 1e-8 + 1e-5 * b.abs())
}
