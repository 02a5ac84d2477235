//! The sum of both convolutions.

use super::{
    Joined,
    axis::{CLASSES, Place},
};
use crate::{
    network::inference::{Element, in_parts},
    wide::wide,
};

impl Joined {
    /// Adds to all samples (b, c, ...) what the lower convolution made.
    pub(super) fn add<T: Element>(&self, made: &mut [T], low: &[T], size: &[i64], threads: usize) {
        let mut grid = [1; 3];
        for (n, &size) in grid.iter_mut().rev().zip(size[2..].iter().rev()) {
            *n = size as usize;
        }
        let channels = size[1] as usize;
        let mut low_grid = [0; 3];
        for ((low, n), axis) in low_grid.iter_mut().zip(grid).zip(self.axes) {
            *low = n / axis.stride + axis.more();
        }
        let parities: usize = self.axes.iter().map(|axis| axis.stride).product();
        let samples = made.chunks_exact_mut(grid.iter().product::<usize>() * channels);
        let low_samples = low.chunks_exact(low_grid.iter().product::<usize>() * parities * channels);
        for (sample, low) in samples.zip(low_samples) {
            let source = Source {
                values: low,
                grid: low_grid,
                strides: self.axes.map(|axis| axis.stride),
                places: [0, 1, 2].map(|axis| self.axes[axis].places(grid[axis])),
                border: &self.border,
                channels,
            };
            in_parts(sample, channels, threads, |first, part| add(part, first, &source));
        }
    }
}

/// What is added to a sample.
struct Source<'a, T> {
    values: &'a [T],
    grid: [usize; 3],
    strides: [usize; 3],
    places: [Vec<Place>; 3],
    border: &'a [f32],
    channels: usize,
}

wide! {
    /// Adds to the voxels from the sample's `first` on.
    fn add[T: Element](part: &mut [T], first: usize, source: &Source<'_, T>) {
        let Source { values, grid, strides, places: [along_z, along_y, along_x], border, channels } = source;
        let parities = strides[0] * strides[1] * strides[2];
        let (mut line, mut x) = (first / along_x.len(), first % along_x.len());
        let mut rest = part;
        while !rest.is_empty() {
            let (z, y) = (along_z[line / along_y.len()], along_y[line % along_y.len()]);
            let voxels = (along_x.len() - x).min(rest.len() / channels);
            let (own, more) = rest.split_at_mut(voxels * channels);
            for (voxel, x) in own.chunks_exact_mut(*channels).zip(&along_x[x..]) {
                let low = (z.low * grid[1] + y.low) * grid[2] + x.low;
                let parity = (z.parity * strides[1] + y.parity) * strides[2] + x.parity;
                let class = (z.class * CLASSES + y.class) * CLASSES + x.class;
                let low = &values[(low * parities + parity) * channels..][..*channels];
                let border = &border[class * channels..][..*channels];
                for ((value, low), border) in voxel.iter_mut().zip(low).zip(border) {
                    *value = T::narrow(value.widen() + low.widen() + border);
                }
            }
            rest = more;
            line += 1;
            x = 0;
        }
    }
}
