//! Resampling as torch.nn.functional.interpolate does it (nnunetv2/preprocessing/resampling/resample_torch.py):
//! single precision, corners not aligned, no filter before shrinking.
//!
//! torch interpolates along x, then y, then z, and rounds `low * weight + (high * weight)` once after the
//! product with the high voxel. The same is done here, with fused multiply-adds whatever the CPU, so that ties
//! between labels fall as in torch. Slices of a separate axis torch may sum in another order (its kernels for few
//! voxels); that moves the last bit.

use half::f16;
use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis, Zip};

use super::{Sample, nearest::select};

/// How values along an axis become others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Between the two voxels around a position: `linear`, `bilinear`, `trilinear`.
    Linear,
    /// The voxel that holds the position: `nearest-exact`.
    NearestExact,
    /// The voxel that holds the position's lower end: `nearest`.
    Nearest,
}

/// How the winner among labels is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    /// The largest indicator, compared in half precision after scaling; of equal ones the smallest label.
    Largest,
    /// The largest label whose indicator exceeds one half, else 0 (`memefficient_seg_resampling`).
    Majority,
}

/// The indicators are scaled by this before they are compared in half precision.
const SCALE: f32 = 1000.0;

/// Along one axis, for each output position: the two voxels around it and the weight of the second.
struct Steps {
    low: Vec<usize>,
    high: Vec<usize>,
    weight: Vec<f32>,
}

/// Where output voxel `k` lies in the input, in voxels, in torch's precision; not before the first voxel.
fn source(k: usize, inputs: usize, outputs: usize) -> f32 {
    let scale = inputs as f32 / outputs as f32;
    scale.mul_add(k as f32 + 0.5, -0.5).max(0.0)
}

impl Steps {
    fn new(inputs: usize, outputs: usize) -> Self {
        let last = inputs.saturating_sub(1);
        let (mut low, mut high, mut weight) = (vec![], vec![], vec![]);
        for k in 0..outputs {
            let at = if inputs == outputs {
                k as f32
            } else {
                source(k, inputs, outputs)
            };
            let below = (at.floor() as usize).min(last);
            low.push(below);
            high.push((below + 1).min(last));
            weight.push((at - below as f32).clamp(0.0, 1.0));
        }
        Steps { low, high, weight }
    }

    /// Along z, y and x.
    fn of((depth, height, width): (usize, usize, usize), [z, y, x]: [usize; 3]) -> [Self; 3] {
        [(depth, z), (height, y), (width, x)].map(|(inputs, outputs)| Steps::new(inputs, outputs))
    }
}

/// For each of `outputs` positions along an axis, the voxel of `inputs` that a nearest mode takes.
fn picked(mode: Mode, inputs: usize, outputs: usize) -> Vec<usize> {
    let last = inputs.saturating_sub(1);
    (0..outputs)
        .map(|k| match mode {
            _ if inputs == outputs => k,
            Mode::Nearest => (k as f32 * (inputs as f32 / outputs as f32)) as usize,
            Mode::NearestExact | Mode::Linear => (source(k, inputs, outputs) + 0.5) as usize,
        })
        .map(|i| i.min(last))
        .collect()
}

/// Takes voxels along every axis that changes.
fn pick<T: Copy>(volume: ArrayView3<T>, shape: [usize; 3], mode: Mode) -> Array3<T> {
    let mut resized = volume.as_standard_layout().into_owned();
    for axis in (0..3).filter(|&axis| volume.len_of(Axis(axis)) != shape[axis]) {
        let picked = picked(mode, volume.len_of(Axis(axis)), shape[axis]);
        resized = select(resized.view(), axis, &picked);
    }
    resized
}

/// Resizes a volume (z, y, x) of any kind into single precision.
pub(super) fn resize<T: Sample>(volume: ArrayView3<T>, shape: [usize; 3], mode: Mode) -> Array3<f32> {
    let single = |v: T| f32::narrow(v.widen());
    if mode != Mode::Linear {
        return pick(volume, shape, mode).mapv(single);
    }
    let volume = volume.as_standard_layout();
    let (depth, height, width) = volume.dim();
    let [z, y, x] = Steps::of(volume.dim(), shape);
    // Along x and y, plane by plane.
    let mut planes = Array3::<f32>::zeros((depth, shape[1], shape[2]));
    planes
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .zip(volume.axis_iter(Axis(0)))
        .for_each(|(mut to, from)| {
            let mut rows = Vec::with_capacity(height);
            for row in from.outer_iter() {
                let row: Vec<f32> = row.iter().map(|&v| single(v)).collect();
                rows.push(if width == shape[2] { row } else { stretch(&row, &x) });
            }
            for (k, mut to) in to.outer_iter_mut().enumerate() {
                // Rows of a new array are slices.
                let to = to.as_slice_mut().unwrap_or_default();
                if height == shape[1] {
                    to.copy_from_slice(&rows[k]);
                } else {
                    blend(to, &rows[y.low[k]], &rows[y.high[k]], y.weight[k]);
                }
            }
        });
    if depth == shape[0] {
        return planes;
    }
    // Along z.
    let mut resized = Array3::<f32>::zeros(shape);
    resized
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(k, mut to)| {
            let plane = |i: usize| planes.index_axis(Axis(0), i);
            let (low, high) = (plane(z.low[k]), plane(z.high[k]));
            if let (Some(to), Some(low), Some(high)) = (to.as_slice_mut(), low.as_slice(), high.as_slice()) {
                blend(to, low, high, z.weight[k]);
            }
        });
    resized
}

/// `low` and `high` weighted, with torch's rounding.
#[inline(always)]
fn between(low: f32, high: f32, weight: f32) -> f32 {
    low.mul_add(1.0 - weight, high * weight)
}

fn stretch(row: &[f32], steps: &Steps) -> Vec<f32> {
    let ends = steps.low.iter().zip(&steps.high).zip(&steps.weight);
    ends.map(|((&low, &high), &weight)| between(row[low], row[high], weight))
        .collect()
}

fn blend(to: &mut [f32], low: &[f32], high: &[f32], weight: f32) {
    #[inline(always)]
    fn each(to: &mut [f32], low: &[f32], high: &[f32], weight: f32) {
        for ((to, &low), &high) in to.iter_mut().zip(low).zip(high) {
            *to = between(low, high, weight);
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide(to: &mut [f32], low: &[f32], high: &[f32], weight: f32) {
            each(to, low, high, weight);
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has what the function asks for.
            return unsafe { wide(to, low, high, weight) };
        }
    }
    each(to, low, high, weight);
}

/// Resizes a label map (z, y, x). The indicator of each label is resized, and the labels vote.
///
/// Only labels at the eight corners around a position can win, so one pass finds what nnU-Net finds with a volume
/// per label.
pub(super) fn labels(volume: ArrayView3<i16>, shape: [usize; 3], mode: Mode, vote: Vote) -> Array3<i16> {
    if mode != Mode::Linear || volume.dim() == shape.into() {
        return pick(volume, shape, mode);
    }
    let volume = volume.as_standard_layout();
    let [z, y, x] = Steps::of(volume.dim(), shape);
    let mut resized = Array3::<i16>::zeros(shape);
    let slabs = resized.axis_iter_mut(Axis(0)).into_par_iter().enumerate();
    slabs.for_each(|(k, mut slab)| {
        for (j, mut out) in slab.outer_iter_mut().enumerate() {
            let row = |z: usize, y: usize| volume.index_axis(Axis(0), z).index_axis_move(Axis(0), y);
            let rows = [
                row(z.low[k], y.low[j]),
                row(z.low[k], y.high[j]),
                row(z.high[k], y.low[j]),
                row(z.high[k], y.high[j]),
            ];
            let weights = [z.weight[k], y.weight[j]];
            Zip::indexed(&mut out).for_each(|i, to| {
                let corners = rows.map(|row| [row[x.low[i]], row[x.high[i]]]);
                *to = elect(corners, [weights[0], weights[1], x.weight[i]], vote);
            });
        }
    });
    resized
}

/// The winner among the labels at eight corners, [low or high (z, y)][low or high x], weighted along (z, y, x).
fn elect(corners: [[i16; 2]; 4], weights: [f32; 3], vote: Vote) -> i16 {
    let first = corners[0][0];
    if corners.iter().flatten().all(|&label| label == first) {
        return first;
    }
    let mut candidates: [i16; 8] = std::array::from_fn(|i| corners[i / 2][i % 2]);
    candidates.sort_unstable();
    let full = match vote {
        Vote::Largest => SCALE,
        Vote::Majority => 1.0,
    };
    let indicator = |label: i16| {
        let of = |corner: i16| if corner == label { full } else { 0.0 };
        let [wz, wy, wx] = weights;
        let rows = corners.map(|[low, high]| between(of(low), of(high), wx));
        between(between(rows[0], rows[1], wy), between(rows[2], rows[3], wy), wz)
    };
    let mut winner = 0;
    let mut most = f16::NEG_INFINITY;
    for (i, &label) in candidates.iter().enumerate() {
        if i > 0 && candidates[i - 1] == label {
            continue;
        }
        let score = indicator(label);
        match vote {
            Vote::Largest if f16::from_f32(score) > most => {
                most = f16::from_f32(score);
                winner = label;
            }
            Vote::Majority if score > 0.5 => winner = label,
            Vote::Largest | Vote::Majority => {}
        }
    }
    winner
}
