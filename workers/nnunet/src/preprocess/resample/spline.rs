//! Order 3: cubic B-splines, as scipy.ndimage.zoom(order=3, mode="nearest", grid_mode=True).
//!
//! scipy pads the volume by 12 voxels of edge, filters it into spline coefficients with mirrored ends, and sums
//! 64 coefficients an output voxel. Every step is separable, so here each axis is a pass of its own: pad a line,
//! filter it, evaluate it. Axes that keep their length need no pass; axes that shrink go first.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView2, ArrayView3, ArrayViewMut2, Axis};

use super::{Sample, coordinate, limits};

/// Edge voxels that scipy adds at each end.
const PAD: usize = 12;
/// Lines that are filtered side by side.
const LANES: usize = 16;

type Lanes = [f64; LANES];

/// Resizes a volume; the length along `separate` does not change.
pub(super) fn resize<T: Sample, U: Sample>(
    volume: ArrayView3<T>,
    shape: [usize; 3],
    separate: Option<usize>,
) -> Array3<U> {
    let inputs = <[usize; 3]>::from(volume.dim());
    let mut axes: Vec<usize> = (0..3).filter(|&axis| inputs[axis] != shape[axis]).collect();
    axes.sort_by(|&a, &b| (shape[a] * inputs[b]).cmp(&(shape[b] * inputs[a])));
    let limits = limits(volume, separate);
    let clip = |position: [usize; 3], value: f64| {
        let (low, high) = limits[separate.map_or(0, |axis| position[axis])];
        U::narrow(value.max(low).min(high))
    };
    let unclipped = |_: [usize; 3], value: f64| value;
    match axes.as_slice() {
        [] => volume.as_standard_layout().mapv(|v| U::narrow(v.widen())),
        [only] => pass(volume, *only, shape[*only], clip),
        [first, rest @ .., last] => {
            let mut current: Array3<f64> = pass(volume, *first, shape[*first], unclipped);
            for &axis in rest {
                current = pass(current.view(), axis, shape[axis], unclipped);
            }
            pass(current.view(), *last, shape[*last], clip)
        }
    }
}

/// Resizes one axis. `finish` turns a value at an output position into what is stored.
fn pass<T: Sample, U: Sample>(
    volume: ArrayView3<T>,
    axis: usize,
    outputs: usize,
    finish: impl Fn([usize; 3], f64) -> U + Sync,
) -> Array3<U> {
    let line = Line::new(volume.len_of(Axis(axis)), outputs);
    let mut shape = <[usize; 3]>::from(volume.dim());
    shape[axis] = outputs;
    let mut resized = Array3::from_elem(shape, U::narrow(0.0));
    // Slabs along `across` are independent; inside of a slab, lines run along `axis`, `LANES` of them side by side.
    let across = if axis == 0 { 1 } else { 0 };
    let along = 3 - axis - across;
    resized
        .axis_iter_mut(Axis(across))
        .into_par_iter()
        .zip(volume.axis_iter(Axis(across)))
        .enumerate()
        .for_each_init(
            || vec![[0.0; LANES]; line.inputs + 2 * PAD],
            |coefficients, (slab, (mut to, from))| {
                // (line position, which line)
                if axis > along {
                    to.swap_axes(0, 1);
                }
                let from = if axis > along { from.reversed_axes() } else { from };
                line.slab(from, to.view_mut(), coefficients, |k, lane, value| {
                    let mut position = [0; 3];
                    position[across] = slab;
                    position[axis] = k;
                    position[along] = lane;
                    finish(position, value)
                });
            },
        );
    resized
}

/// How a line of `inputs` voxels becomes one of another length.
struct Line {
    inputs: usize,
    /// For each output: the first of its four coefficients, and their weights.
    taps: Vec<(usize, [f64; 4])>,
}

impl Line {
    fn new(inputs: usize, outputs: usize) -> Self {
        let taps = (0..outputs)
            .map(|k| {
                let at = coordinate(k, inputs, outputs) + PAD as f64;
                let y = at - at.floor();
                let z = 1.0 - y;
                let first = z * z * z / 6.0;
                let second = (y * y * (y - 2.0) * 3.0 + 4.0) / 6.0;
                let third = (z * z * (z - 2.0) * 3.0 + 4.0) / 6.0;
                (
                    at.floor() as usize - 1,
                    [first, second, third, 1.0 - first - second - third],
                )
            })
            .collect();
        Line { inputs, taps }
    }

    /// Resizes the lines of a slab (line position, which line), some at a time.
    fn slab<T: Sample, U>(
        &self,
        from: ArrayView2<T>,
        mut to: ArrayViewMut2<U>,
        coefficients: &mut [Lanes],
        finish: impl Fn(usize, usize, f64) -> U,
    ) {
        let lines = from.ncols();
        for start in (0..lines).step_by(LANES) {
            let width = LANES.min(lines - start);
            let inside = &mut coefficients[PAD..PAD + self.inputs];
            if from.strides()[1] == 1 {
                for (lanes, row) in inside.iter_mut().zip(from.outer_iter()) {
                    for lane in 0..width {
                        lanes[lane] = row[start + lane].widen();
                    }
                }
            } else {
                for lane in 0..width {
                    for (lanes, value) in inside.iter_mut().zip(from.column(start + lane)) {
                        lanes[lane] = value.widen();
                    }
                }
            }
            let (first, last) = (coefficients[PAD], coefficients[PAD + self.inputs - 1]);
            coefficients[..PAD].fill(first);
            coefficients[PAD + self.inputs..].fill(last);
            filter(coefficients);
            for (k, (at, weights)) in self.taps.iter().enumerate() {
                let taps = &coefficients[*at..at + 4];
                let mut sums = [0.0; LANES];
                for (tap, weight) in taps.iter().zip(weights) {
                    for lane in 0..LANES {
                        sums[lane] += tap[lane] * weight;
                    }
                }
                for (lane, sum) in sums.into_iter().enumerate().take(width) {
                    to[[k, start + lane]] = finish(k, start + lane, sum);
                }
            }
        }
    }
}

/// Turns samples into cubic spline coefficients, with ends mirrored about the edge of the last voxel
/// (scipy/ndimage/src/ni_splines.c; Unser, IEEE Signal Processing Magazine 1999).
fn filter(samples: &mut [Lanes]) {
    let pole = 3f64.sqrt() - 2.0;
    let gain = (1.0 - pole) * (1.0 - 1.0 / pole);
    let n = samples.len();
    for lanes in samples.iter_mut() {
        for v in lanes {
            *v *= gain;
        }
    }
    let pole_n = pole.powi(n as i32);
    let first = samples[0];
    let last = samples[n - 1];
    let mut start: Lanes = std::array::from_fn(|lane| first[lane] + pole_n * last[lane]);
    let mut power = pole;
    for i in 1..n {
        for lane in 0..LANES {
            start[lane] += power * (samples[i][lane] + pole_n * samples[n - 1 - i][lane]);
        }
        power *= pole;
        // What follows is below the smallest difference that f64 can hold.
        if power.abs() < 1e-40 {
            break;
        }
    }
    for lane in 0..LANES {
        samples[0][lane] = start[lane] * (pole / (1.0 - pole_n * pole_n)) + first[lane];
    }
    for i in 1..n {
        let before = samples[i - 1];
        for lane in 0..LANES {
            samples[i][lane] += pole * before[lane];
        }
    }
    for v in &mut samples[n - 1] {
        *v *= pole / (pole - 1.0);
    }
    for i in (0..n - 1).rev() {
        let after = samples[i + 1];
        for lane in 0..LANES {
            samples[i][lane] = pole * (after[lane] - samples[i][lane]);
        }
    }
}
