//! Resampling as nnU-Net does it (nnunetv2/preprocessing/resampling). Its default function equals
//! skimage.transform.resize, which is scipy.ndimage.zoom in grid mode with the edge continued:
//!
//! - `spline`: order 3, separable, one pass per axis that changes
//! - `linear`: order 1, corners summed in scipy's order
//! - `labels`: segmentations, each label on its own, ties by the nearest voxel
//! - `nearest`: order 0
//!
//! Plans may name others (`arguments`): `torch`, or none at all.
//!
//! Thick-sliced volumes are resampled slice by slice, and along the thick axis the nearest slice is taken.

use half::slice::HalfFloatSliceExt;
use ndarray::{Array3, ArrayView3, Axis};
use schemas::nnunet::Configuration;

use crate::Result;

mod arguments;
mod labels;
mod linear;
mod nearest;
mod spline;
mod torch;

use torch::{Mode, Vote};

/// Above this ratio of coarsest to finest spacing, volumes are resampled slice by slice
/// (nnunetv2/configuration.py).
pub const ANISO_THRESHOLD: f64 = 3.0;

/// A voxel type that can be resampled. Sums are in f64, as in scipy.
pub trait Sample: Copy + Send + Sync {
    /// The value, widened.
    fn widen(self) -> f64;
    /// The value, rounded to this type.
    fn narrow(value: f64) -> Self;
    /// As many values, rounded.
    fn narrow_all(values: &[f64], to: &mut [Self]) {
        for (to, value) in to.iter_mut().zip(values) {
            *to = Self::narrow(*value);
        }
    }
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
    fn narrow_all(values: &[f64], to: &mut [Self]) {
        to.convert_from_f64_slice(values);
    }
}

/// A resampling function of the plans with its arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resampling {
    method: Method,
    separate: Separate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    /// `resample_data_or_seg_to_shape`.
    Splines {
        /// Spline order in the plane, or in all axes: 0, 1 or 3.
        order: u8,
    },
    /// `resample_torch_fornnunet`.
    Torch {
        /// In the slices of a separate axis; volumes are resampled linearly.
        in_plane: Mode,
        /// Along a separate axis.
        across: Mode,
        /// How labels vote.
        vote: Vote,
    },
    /// `no_resampling_hack`.
    Unchanged,
}

/// When a volume is resampled slice by slice.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Separate {
    /// Whether to; None decides by the spacing.
    force: Option<bool>,
    /// Where None decides: the ratio of spacings above which to.
    threshold: f64,
}

impl Default for Separate {
    fn default() -> Self {
        Separate {
            force: None,
            threshold: ANISO_THRESHOLD,
        }
    }
}

impl Separate {
    /// The axis along which the nearest slice is taken, if it is: the coarsest one, by the current spacing or
    /// else by the new one. Not where two axes are equally coarse.
    fn axis(&self, current: [f64; 3], new: [f64; 3]) -> Option<usize> {
        let anisotropic =
            |s: [f64; 3]| largest(s) / s.into_iter().fold(f64::INFINITY, f64::min) > self.threshold;
        let spacing = match self.force {
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
}

impl Resampling {
    /// How images are resampled.
    pub fn of_data(configuration: &Configuration) -> Result<Self> {
        let (name, kwargs) = (
            &configuration.resampling_fn_data,
            &configuration.resampling_fn_data_kwargs,
        );
        Self::from_plans("resampling_fn_data", name, kwargs, false)
    }

    /// How segmentations are resampled.
    pub fn of_segmentation(configuration: &Configuration) -> Result<Self> {
        let (name, kwargs) = (
            &configuration.resampling_fn_seg,
            &configuration.resampling_fn_seg_kwargs,
        );
        Self::from_plans("resampling_fn_seg", name, kwargs, true)
    }

    /// How logits and probabilities are resampled.
    pub fn of_probabilities(configuration: &Configuration) -> Result<Self> {
        let (name, kwargs) = (
            &configuration.resampling_fn_probabilities,
            &configuration.resampling_fn_probabilities_kwargs,
        );
        Self::from_plans("resampling_fn_probabilities", name, kwargs, false)
    }

    /// Whether volumes keep their shape, whatever the spacing (`no_resampling_hack`).
    pub fn keeps_shape(&self) -> bool {
        self.method == Method::Unchanged
    }

    /// Whether results are in single precision, whatever goes in; else they are in the input's.
    pub fn gives_single_precision(&self) -> bool {
        matches!(self.method, Method::Torch { .. })
    }

    /// The shape that a volume of `shape` has after it was resampled from one spacing to another, in mm.
    pub fn shape(&self, shape: [usize; 3], current_spacing: [f64; 3], new_spacing: [f64; 3]) -> [usize; 3] {
        if self.keeps_shape() {
            shape
        } else {
            resampled_shape(shape, current_spacing, new_spacing)
        }
    }

    /// Resamples one channel (z, y, x) to `shape`. A channel that has the shape already comes back as it is, as
    /// does every channel where [`Resampling::keeps_shape`]. Spacings in mm, in the order of the axes.
    ///
    /// The result is in C order. Called channel by channel, so that a caller need not hold all of them; parallel inside.
    pub fn channel<T: Sample, U: Sample>(
        &self,
        channel: ArrayView3<T>,
        shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
    ) -> Array3<U> {
        let convert = |v: T| U::narrow(v.widen());
        let has_shape = |volume: ArrayView3<T>, shape: [usize; 3]| volume.dim() == shape.into();
        if self.keeps_shape() || has_shape(channel, shape) {
            return channel.as_standard_layout().mapv(convert);
        }
        let separate = self.separate.axis(current_spacing, new_spacing);
        match self.method {
            Method::Unchanged => channel.as_standard_layout().mapv(convert),
            Method::Splines { order } => resample(channel, shape, separate, |plane, shape| {
                if has_shape(plane, shape) {
                    return plane.as_standard_layout().mapv(convert);
                }
                match order {
                    0 => nearest::resize(plane, shape).mapv(convert),
                    1 => linear::resize(plane, shape, separate),
                    _ => spline::resize(plane, shape, separate),
                }
            }),
            Method::Torch { in_plane, across, .. } => {
                let single = |v: f32| U::narrow(v.into());
                let Some(axis) = separate else {
                    return torch::resize(channel, shape, Mode::Linear).mapv(single);
                };
                let mut plane = shape;
                plane[axis] = channel.len_of(Axis(axis));
                let planes = torch::resize(channel, plane, in_plane);
                torch::resize(planes.view(), shape, across).mapv(single)
            }
        }
    }

    /// Resamples a segmentation (z, y, x) to `shape`. Spacings in mm, in the order of the axes.
    pub fn segmentation(
        &self,
        labels: ArrayView3<i16>,
        shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
    ) -> Array3<i16> {
        if self.keeps_shape() || labels.dim() == shape.into() {
            return labels.as_standard_layout().into_owned();
        }
        let separate = self.separate.axis(current_spacing, new_spacing);
        match self.method {
            Method::Unchanged => labels.as_standard_layout().into_owned(),
            Method::Splines { order } => resample(labels, shape, separate, |plane, shape| match order {
                0 => nearest::resize(plane, shape),
                _ => labels::resize(plane, shape),
            }),
            Method::Torch {
                in_plane,
                across,
                vote,
            } => {
                let Some(axis) = separate else {
                    return torch::labels(labels, shape, Mode::Linear, vote);
                };
                let mut plane = shape;
                plane[axis] = labels.len_of(Axis(axis));
                let planes = torch::labels(labels, plane, in_plane, vote);
                torch::labels(planes.view(), shape, across, vote)
            }
        }
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
