//! Order 1. The corners are weighted and summed in scipy's order, because rounding decides ties.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis};

use super::{Sample, coordinate, limits};

/// Along one axis, for each output position: the two voxels between which it lies, and their weights.
pub(super) struct Table {
    pub low: Vec<usize>,
    pub high: Vec<usize>,
    pub weight_low: Vec<f64>,
    pub weight_high: Vec<f64>,
}

impl Table {
    pub fn new(inputs: usize, outputs: usize) -> Self {
        let last = inputs.saturating_sub(1);
        let mut table = Table {
            low: vec![],
            high: vec![],
            weight_low: vec![],
            weight_high: vec![],
        };
        for k in 0..outputs {
            // Beyond the outermost centres both voxels are the edge's, with the weights that scipy gives them.
            let at = coordinate(k, inputs, outputs);
            let low = at.floor();
            let weight_low = 1.0 - (at - low);
            table.low.push(low.clamp(0.0, last as f64) as usize);
            table.high.push((low + 1.0).clamp(0.0, last as f64) as usize);
            table.weight_low.push(weight_low);
            // As scipy has it; not the same as `at - low` in the last bit.
            table.weight_high.push(1.0 - weight_low);
        }
        table
    }

    /// The voxels and weights at position `k` that count, lower one first.
    pub fn at(&self, k: usize) -> impl Iterator<Item = (usize, f64)> + Clone {
        [
            (self.low[k], self.weight_low[k]),
            (self.high[k], self.weight_high[k]),
        ]
        .into_iter()
        .filter(|(_, w)| *w != 0.0)
    }
}

/// Resizes a volume; the length along `separate` does not change.
pub(super) fn resize<T: Sample, U: Sample>(
    volume: ArrayView3<T>,
    shape: [usize; 3],
    separate: Option<usize>,
) -> Array3<U> {
    let volume = volume.as_standard_layout();
    let (inputs, row_length) = (volume.dim(), volume.dim().2);
    let limits = limits(volume.view(), separate);
    let limit = |position: [usize; 3]| limits[separate.map_or(0, |axis| position[axis])];
    let (z, y, x) = (
        Table::new(inputs.0, shape[0]),
        Table::new(inputs.1, shape[1]),
        Table::new(inputs.2, shape[2]),
    );
    let mut resized = Array3::from_elem(shape, U::narrow(0.0));
    resized
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(k, mut slab)| {
            // The rows, weighted by z and y: ((value * wz) * wy), then the pairs along x in order.
            let mut weighted = vec![0.0; row_length];
            let mut sums = vec![0.0; shape[2]];
            for (j, mut out) in slab.outer_iter_mut().enumerate() {
                sums.fill(0.0);
                for (iz, wz) in z.at(k) {
                    for (iy, wy) in y.at(j) {
                        for (to, from) in weighted
                            .iter_mut()
                            .zip(volume.index_axis(Axis(0), iz).index_axis(Axis(0), iy))
                        {
                            *to = from.widen() * wz * wy;
                        }
                        for i in 0..shape[2] {
                            sums[i] += weighted[x.low[i]] * x.weight_low[i];
                            sums[i] += weighted[x.high[i]] * x.weight_high[i];
                        }
                    }
                }
                for (i, (to, sum)) in out.iter_mut().zip(&sums).enumerate() {
                    let (low, high) = limit([k, j, i]);
                    *to = U::narrow(sum.max(low).min(high));
                }
            }
        });
    resized
}
