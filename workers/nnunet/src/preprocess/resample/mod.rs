//! Resampling as nnU-Net does it (nnunetv2/preprocessing/resampling/default_resampling.py), equal to
//! skimage.transform.resize, which is scipy.ndimage.zoom in grid mode with the edge continued.
//!
//! - `spline`: order 3, separable, one pass per axis that changes
//! - `linear`: order 1, corners summed in scipy's order
//! - `labels`: segmentations, each label on its own, ties by the nearest voxel
//! - `nearest`: order 0
//!
//! Thick-sliced volumes are resampled slice by slice, and along the thick axis the nearest slice is taken.

use ndarray::{Array3, ArrayView3, Axis};
use schemas::nnunet::Configuration;
use serde_json::{Map, Value};

use crate::{Error, Result};

mod labels;
mod linear;
mod nearest;
mod spline;

/// Above this ratio of coarsest to finest spacing, volumes are resampled slice by slice
/// (nnunetv2/configuration.py).
pub const ANISO_THRESHOLD: f64 = 3.0;

/// The only resampling function that is implemented.
const IMPLEMENTED: &str = "resample_data_or_seg_to_shape";

/// A voxel type that can be resampled. Sums are in f64, as in scipy.
pub trait Sample: Copy + Send + Sync {
    /// The value, widened.
    fn widen(self) -> f64;
    /// The value, rounded to this type.
    fn narrow(value: f64) -> Self;
}

impl Sample for f32 {
    fn widen(self) -> f64 {
        self.into()
    }
    fn narrow(value: f64) -> Self {
        value as f32
    }
}

impl Sample for f64 {
    fn widen(self) -> f64 {
        self
    }
    fn narrow(value: f64) -> Self {
        value
    }
}

impl Sample for half::f16 {
    fn widen(self) -> f64 {
        self.to_f64()
    }
    fn narrow(value: f64) -> Self {
        half::f16::from_f64(value)
    }
}

/// A resampling function of the plans with its arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resampling {
    /// Whether label maps are resampled.
    is_seg: bool,
    /// Spline order in the plane, or in all axes: 0, 1 or 3.
    order: u8,
    /// Whether to go slice by slice; None decides by the spacing.
    force_separate_z: Option<bool>,
    /// Where None decides: the ratio of spacings above which to go slice by slice.
    threshold: f64,
}

impl Resampling {
    /// How images are resampled.
    pub fn of_data(configuration: &Configuration) -> Result<Self> {
        let (name, kwargs) = (
            &configuration.resampling_fn_data,
            &configuration.resampling_fn_data_kwargs,
        );
        Self::from_plans("resampling_fn_data", name, kwargs)
    }

    /// How segmentations are resampled.
    pub fn of_segmentation(configuration: &Configuration) -> Result<Self> {
        let (name, kwargs) = (
            &configuration.resampling_fn_seg,
            &configuration.resampling_fn_seg_kwargs,
        );
        Self::from_plans("resampling_fn_seg", name, kwargs)
    }

    /// How logits and probabilities are resampled.
    pub fn of_probabilities(configuration: &Configuration) -> Result<Self> {
        let name = &configuration.resampling_fn_probabilities;
        Self::from_plans(
            "resampling_fn_probabilities",
            name,
            &configuration.resampling_fn_probabilities_kwargs,
        )
    }

    /// The function `name` of the plans' entry `entry`.
    ///
    /// # Errors
    /// A function or an argument that is not implemented, by name.
    pub fn from_plans(entry: &str, name: &str, kwargs: &Map<String, Value>) -> Result<Self> {
        if name != IMPLEMENTED {
            return Err(Error::invalid(
                format!("plans: {entry}"),
                format!("'{name}' is not implemented; {IMPLEMENTED} is"),
            ));
        }
        // nnU-Net's own defaults.
        let mut found = Self {
            is_seg: false,
            order: 3,
            force_separate_z: Some(false),
            threshold: ANISO_THRESHOLD,
        };
        for (key, value) in kwargs {
            let known = match key.as_str() {
                "is_seg" => value.as_bool().map(|v| found.is_seg = v),
                "order" => value
                    .as_u64()
                    .filter(|v| [0, 1, 3].contains(v))
                    .map(|v| found.order = v as u8),
                "order_z" => value.as_u64().filter(|&v| v == 0).map(|_| ()),
                "force_separate_z" if value.is_null() => {
                    found.force_separate_z = None;
                    Some(())
                }
                "force_separate_z" => value.as_bool().map(|v| found.force_separate_z = Some(v)),
                "separate_z_anisotropy_threshold" => value.as_f64().map(|v| found.threshold = v),
                _ => None,
            };
            if known.is_none() {
                return Err(Error::invalid(
                    format!("plans: {entry}_kwargs.{key}"),
                    format!("{value} is not implemented"),
                ));
            }
        }
        if found.is_seg && found.order == 3 {
            return Err(Error::invalid(
                format!("plans: {entry}_kwargs.order"),
                "3 is not implemented for segmentations; 0 and 1 are",
            ));
        }
        Ok(found)
    }

    /// The axis along which the nearest slice is taken, if it is: the coarsest one, by the current spacing or
    /// else by the new one. Not where two axes are equally coarse.
    fn separate_axis(&self, current: [f64; 3], new: [f64; 3]) -> Option<usize> {
        let anisotropic =
            |s: [f64; 3]| largest(s) / s.into_iter().fold(f64::INFINITY, f64::min) > self.threshold;
        let spacing = match self.force_separate_z {
            Some(false) => return None,
            Some(true) => current,
            None if anisotropic(current) => current,
            None if anisotropic(new) => new,
            None => return None,
        };
        let coarsest = largest(spacing);
        let mut axes = (0..3).filter(|&axis| coarsest / spacing[axis] == 1.0);
        axes.next().filter(|_| axes.next().is_none())
    }

    /// Resamples one channel (z, y, x) to `shape`. A channel that has the shape already comes back as it is.
    /// Spacings in mm, in the order of the axes.
    ///
    /// The result is in C order. Called channel by channel, so that a caller need not hold all of them; parallel inside.
    pub fn channel<T: Sample, U: Sample>(
        &self,
        channel: ArrayView3<T>,
        shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
    ) -> Array3<U> {
        let separate = self.separate_axis(current_spacing, new_spacing);
        resample(channel, shape, separate, |plane, shape| {
            if plane.dim() == (shape[0], shape[1], shape[2]) {
                return plane.as_standard_layout().mapv(|v| U::narrow(v.widen()));
            }
            match self.order {
                0 => nearest::resize(plane, shape).mapv(|v: T| U::narrow(v.widen())),
                1 => linear::resize(plane, shape, separate),
                _ => spline::resize(plane, shape, separate),
            }
        })
    }

    /// Resamples a segmentation (z, y, x) to `shape`. Spacings in mm, in the order of the axes.
    pub fn segmentation(
        &self,
        labels: ArrayView3<i16>,
        shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
    ) -> Array3<i16> {
        let separate = self.separate_axis(current_spacing, new_spacing);
        resample(labels, shape, separate, |plane, shape| match self.order {
            0 => nearest::resize(plane, shape),
            _ => labels::resize(plane, shape),
        })
    }
}

/// The shape that `shape` has at another spacing: rounded, halves to even (compute_new_shape).
pub fn resampled_shape(shape: [usize; 3], old_spacing: [f64; 3], new_spacing: [f64; 3]) -> [usize; 3] {
    std::array::from_fn(|i| (old_spacing[i] / new_spacing[i] * shape[i] as f64).round_ties_even() as usize)
}

/// Calls `in_plane` with the shape that leaves the separate axis alone, and takes the nearest slices along it,
/// before where that makes less work, else after.
fn resample<T: Copy + Send + Sync, U: Copy + Send + Sync>(
    volume: ArrayView3<T>,
    shape: [usize; 3],
    separate: Option<usize>,
    in_plane: impl Fn(ArrayView3<T>, [usize; 3]) -> Array3<U>,
) -> Array3<U> {
    let Some(axis) = separate else {
        return in_plane(volume, shape);
    };
    let slices = volume.len_of(Axis(axis));
    let mut plane_shape = shape;
    if shape[axis] == slices {
        return in_plane(volume, plane_shape);
    }
    let picked: Vec<usize> = nearest::indices(slices, shape[axis]);
    if shape[axis] < slices {
        return in_plane(nearest::select(volume, axis, &picked).view(), plane_shape);
    }
    plane_shape[axis] = slices;
    nearest::select(in_plane(volume, plane_shape).view(), axis, &picked)
}

fn largest(spacing: [f64; 3]) -> f64 {
    spacing.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// Where output voxel `k` lies in the input, in voxels: the centres of the first and last voxel are half a
/// voxel inside of the volume's ends.
fn coordinate(k: usize, inputs: usize, outputs: usize) -> f64 {
    (k as f64 + 0.5) * (inputs as f64 / outputs as f64) - 0.5
}

/// The smallest and largest value of each slab along `separate`, or of the whole volume. Interpolation must
/// not leave them (skimage's clip).
fn limits<T: Sample>(volume: ArrayView3<T>, separate: Option<usize>) -> Vec<(f64, f64)> {
    use ndarray::parallel::prelude::*;
    let of = |view: ArrayView3<T>| {
        view.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v.widen()), high.max(v.widen()))
        })
    };
    let join = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.max(b.1));
    match separate {
        Some(axis) => volume
            .axis_chunks_iter(Axis(axis), 1)
            .into_par_iter()
            .map(of)
            .collect(),
        None => vec![
            volume
                .axis_chunks_iter(Axis(0), 1)
                .into_par_iter()
                .map(of)
                .reduce(|| (f64::INFINITY, f64::NEG_INFINITY), join),
        ],
    }
}

#[cfg(test)]
mod tests;
