//! Label maps. nnU-Net resizes the indicator of each label linearly and takes the label with the largest value;
//! of equal ones the nearest voxel's if it is among them, else the smallest
//! (batchgenerators/augmentations/utils.py, resize_segmentation).
//!
//! Only the labels at the eight corners around a position can win, so one pass finds what nnU-Net finds with a
//! volume per label. The sums are taken in scipy's order: ties are common, and decided by exact equality.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView3, Axis};

use super::{linear::Table, nearest};

/// Resizes a label map at order 1. Axes that keep their length are left alone.
pub(super) fn resize(volume: ArrayView3<i16>, shape: [usize; 3]) -> Array3<i16> {
    if volume.dim() == (shape[0], shape[1], shape[2]) {
        return volume.as_standard_layout().into_owned();
    }
    let volume = volume.as_standard_layout();
    let inputs = volume.dim();
    let (z, y, x) = (
        Table::new(inputs.0, shape[0]),
        Table::new(inputs.1, shape[1]),
        Table::new(inputs.2, shape[2]),
    );
    let nearest_z = nearest::indices(inputs.0, shape[0]);
    let nearest_y = nearest::indices(inputs.1, shape[1]);
    let nearest_x = nearest::indices(inputs.2, shape[2]);
    let mut resized = Array3::zeros(shape);
    resized
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(k, mut slab)| {
            for (j, mut out) in slab.outer_iter_mut().enumerate() {
                let rows: Vec<_> = z
                    .at(k)
                    .flat_map(|(iz, wz)| y.at(j).map(move |(iy, wy)| (iz, iy, wz * wy)))
                    .map(|(iz, iy, w)| (volume.index_axis(Axis(0), iz).index_axis_move(Axis(0), iy), w))
                    .collect();
                let nearest_row = volume
                    .index_axis(Axis(0), nearest_z[k])
                    .index_axis_move(Axis(0), nearest_y[j]);
                for (i, to) in out.iter_mut().enumerate() {
                    let (low, high) = (x.low[i], x.high[i]);
                    let first = rows[0].0[low];
                    if rows
                        .iter()
                        .all(|(row, _)| row[low] == first && row[high] == first)
                    {
                        *to = first;
                        continue;
                    }
                    let mut scores = Scores::default();
                    for (row, weight) in &rows {
                        scores.add(row[low], weight * x.weight_low[i]);
                        scores.add(row[high], weight * x.weight_high[i]);
                    }
                    *to = scores.winner(nearest_row[nearest_x[i]]);
                }
            }
        });
    resized
}

/// The sums of the labels at up to eight corners.
#[derive(Default)]
struct Scores {
    labels: [i16; 8],
    sums: [f64; 8],
    count: usize,
}

impl Scores {
    fn add(&mut self, label: i16, weight: f64) {
        match self.labels[..self.count].iter().position(|&l| l == label) {
            Some(i) => self.sums[i] += weight,
            None => {
                self.labels[self.count] = label;
                self.sums[self.count] = weight;
                self.count += 1;
            }
        }
    }

    fn winner(&self, nearest: i16) -> i16 {
        // An indicator does not exceed one.
        let scores = || {
            self.labels
                .iter()
                .zip(&self.sums)
                .take(self.count)
                .map(|(&label, &sum)| (label, sum.min(1.0)))
        };
        let best = scores().map(|(_, sum)| sum).fold(0.0, f64::max);
        let mut tied = scores().filter(|&(_, sum)| sum == best).map(|(label, _)| label);
        if tied.clone().any(|label| label == nearest) {
            return nearest;
        }
        let first = tied.next().unwrap_or(nearest);
        tied.fold(first, i16::min)
    }
}
