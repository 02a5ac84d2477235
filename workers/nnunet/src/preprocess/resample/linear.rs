//! Order 1. The corners are weighted and summed in scipy's order, because rounding decides ties.

use ndarray::{Array3, ArrayView1, ArrayView3, s};
use rayon::prelude::*;

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

/// A row of the input, spread over the output's positions along x: the two voxels of each.
struct Spread {
    row: Option<usize>,
    low: Vec<f64>,
    high: Vec<f64>,
}

impl Spread {
    fn new(length: usize) -> Self {
        Spread {
            row: None,
            low: vec![0.0; length],
            high: vec![0.0; length],
        }
    }

    /// Spreads the `values` of a row, unless it is the one that is here.
    fn hold<T: Sample>(&mut self, row: usize, values: ArrayView1<T>, x: &Table) {
        if self.row == Some(row) {
            return;
        }
        self.row = Some(row);
        for (to, &from) in self.low.iter_mut().zip(&x.low) {
            *to = values[from].widen();
        }
        for (to, &from) in self.high.iter_mut().zip(&x.high) {
            *to = values[from].widen();
        }
    }

    /// Adds the row, weighted by z and y, to the sums along x: ((value * wz) * wy) * wx, a pair at a time.
    fn add(&self, sums: &mut [f64], wz: f64, wy: f64, x: &Table) {
        let pairs = self.low.iter().zip(&self.high);
        let weights = x.weight_low.iter().zip(&x.weight_high);
        for (sum, ((low, high), (weight_low, weight_high))) in sums.iter_mut().zip(pairs.zip(weights)) {
            *sum += low * wz * wy * weight_low;
            *sum += high * wz * wy * weight_high;
        }
    }
}

/// Resizes a volume; the length along `separate` does not change.
pub(super) fn resize<T: Sample, U: Sample>(
    volume: ArrayView3<T>,
    shape: [usize; 3],
    separate: Option<usize>,
) -> Array3<U> {
    let volume = volume.as_standard_layout();
    let inputs = volume.dim();
    let limits = limits(volume.view(), separate);
    let (z, y, x) = (
        Table::new(inputs.0, shape[0]),
        Table::new(inputs.1, shape[1]),
        Table::new(inputs.2, shape[2]),
    );
    let mut resized = Array3::from_elem(shape, U::narrow(0.0));
    if resized.is_empty() {
        return resized;
    }
    let length = shape[2];
    // It was just made, so it is a slice.
    let all = resized.as_slice_mut().unwrap_or_default();
    all.par_chunks_mut(shape[1] * length)
        .enumerate()
        .for_each(|(k, slab)| {
            let slices: Vec<(usize, f64)> = z.at(k).collect();
            // Of each slice the two rows that are being read: neighbours, so they differ in their last bit.
            let mut rows: Vec<[Spread; 2]> = slices
                .iter()
                .map(|_| [Spread::new(length), Spread::new(length)])
                .collect();
            let mut sums = vec![0.0; length];
            for (j, out) in slab.chunks_exact_mut(length).enumerate() {
                sums.fill(0.0);
                for ((iz, wz), rows) in slices.iter().zip(&mut rows) {
                    for (iy, wy) in y.at(j) {
                        let spread = &mut rows[iy & 1];
                        spread.hold(iy, volume.slice(s![*iz, iy, ..]), &x);
                        spread.add(&mut sums, *wz, wy, &x);
                    }
                }
                match separate {
                    Some(2) => sums
                        .iter_mut()
                        .zip(&limits)
                        .for_each(|(sum, (low, high))| *sum = sum.max(*low).min(*high)),
                    axis => {
                        let (low, high) = limits[axis.map_or(0, |axis| [k, j][axis])];
                        sums.iter_mut().for_each(|sum| *sum = sum.max(low).min(high));
                    }
                }
                U::narrow_all(&sums, out);
            }
        });
    resized
}
