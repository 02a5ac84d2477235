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
    /// The `sitk_stuff` of SimpleITKIOWithReorient: axes run to the patient's right, anterior and superior, as
    /// nearly as they can without resampling.
    SimpleItkReoriented {
        /// As above, of the reoriented image.
        spacing: Vec<f64>,
        /// As above, of the reoriented image.
        origin: Vec<f64>,
        /// As above, of the reoriented image.
        direction: Vec<f64>,
        /// Where the file's axes run to, a letter per axis: `LPS` is the identity.
        original_orientation: String,
    },
    /// nnU-Net's `nibabel_stuff`.
    Nibabel {
        /// From voxel (x, y, z, 1) to the patient's right, anterior and superior in mm.
        original_affine: [[f64; 4]; 4],
    },
    /// The `nibabel_stuff` of NibabelIOWithReorient.
    NibabelReoriented {
        /// As above, of the file.
        original_affine: [[f64; 4]; 4],
        /// As above, of the reoriented image.
        reoriented_affine: [[f64; 4]; 4],
    },
    /// Natural images and TIFF say nothing of the patient.
    SpacingOnly {
        /// Spacing in mm, (z, y, x).
        spacing: [f64; 3],
    },
}

impl Geometry {
    /// True where both lie alike, as numpy's `allclose` sees it. Unlike kinds never do.
    pub fn is_close_to(&self, other: &Geometry) -> bool {
        let (numbers, others) = (self.numbers(), other.numbers());
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && numbers.len() == others.len()
            && numbers.iter().zip(&others).all(|(a, b)| all_close(a, b))
    }

    /// What nnU-Net compares: spacing, origin and direction, or the file's affine.
    fn numbers(&self) -> Vec<&[f64]> {
        match self {
            Geometry::SimpleItk {
                spacing,
                origin,
                direction,
            }
            | Geometry::SimpleItkReoriented {
                spacing,
                origin,
                direction,
                ..
            } => vec![spacing, origin, direction],
            Geometry::Nibabel { original_affine } | Geometry::NibabelReoriented { original_affine, .. } => {
                vec![original_affine.as_flattened()]
            }
            Geometry::SpacingOnly { .. } => Vec::new(),
        }
    }
}

/// Where ITK sees an image. Axes x, y, z (t).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ItkSpace {
    /// Spacing in mm, one per axis.
    pub spacing: Vec<f64>,
    /// The first voxel's centre in mm, one per axis.
    pub origin: Vec<f64>,
    /// Direction cosines, row by row.
    pub direction: Vec<f64>,
}

impl ItkSpace {
    /// Spacing 1 at the origin, along the patient's axes.
    pub fn identity(axes: usize) -> ItkSpace {
        ItkSpace {
            spacing: vec![1.0; axes],
            origin: vec![0.0; axes],
            direction: (0..axes * axes)
                .map(|i| f64::from(u8::from(i % (axes + 1) == 0)))
                .collect(),
        }
    }

    /// Number of axes.
    pub fn axes(&self) -> usize {
        self.spacing.len()
    }

    /// Where an axis of the image runs to.
    pub fn axis(&self, axis: usize) -> impl Iterator<Item = f64> {
        self.direction.iter().skip(axis).step_by(self.axes()).copied()
    }

    /// Sets where an axis runs to.
    pub fn set_axis(&mut self, axis: usize, direction: &[f64]) {
        let axes = self.axes();
        for (row, &cosine) in direction.iter().enumerate() {
            self.direction[row * axes + axis] = cosine;
        }
    }

    /// What ITK does with a file's geometry before it believes it (itkImageFileReader.hxx, itkImageBase.hxx):
    /// a negative spacing turns its axis around; no spacing, or axes in one plane, are refused.
    pub fn checked(mut self) -> Result<ItkSpace, String> {
        let axes = self.axes();
        for axis in 0..axes {
            let spacing = self.spacing[axis];
            if !spacing.is_finite() || spacing == 0.0 {
                return Err(format!("the spacing of axis {axis} is {spacing}"));
            }
            if spacing < 0.0 {
                self.spacing[axis] = -spacing;
                for row in 0..axes {
                    self.direction[row * axes + axis] *= -1.0;
                }
            }
        }
        if !self.origin.iter().chain(&self.direction).all(|x| x.is_finite()) {
            return Err("its origin or direction holds what is no number".into());
        }
        if determinant(&self.direction, axes) == 0.0 {
            return Err("its axes lie in one plane".into());
        }
        Ok(self)
    }
}

/// By Gaussian elimination with pivots.
fn determinant(matrix: &[f64], size: usize) -> f64 {
    let mut rows: Vec<Vec<f64>> = matrix.chunks(size).map(<[f64]>::to_vec).collect();
    let mut product = 1.0;
    for column in 0..size {
        let largest = |a: &usize, b: &usize| rows[*a][column].abs().total_cmp(&rows[*b][column].abs());
        let pivot = (column..size).max_by(largest).unwrap_or(column);
        if rows[pivot][column] == 0.0 {
            return 0.0;
        }
        if pivot != column {
            rows.swap(pivot, column);
            product = -product;
        }
        product *= rows[column][column];
        let (above, below) = rows.split_at_mut(column + 1);
        let pivot = &above[column];
        for row in below {
            let factor = row[column] / pivot[column];
            for (value, pivot) in row.iter_mut().zip(pivot) {
                *value -= factor * pivot;
            }
        }
    }
    product
}

/// numpy's `allclose(a, b)` with its default tolerances; false where the lengths differ.
pub(crate) fn all_close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a == b || (a - b).abs() <= 1e-8 + 1e-5 * b.abs())
}
