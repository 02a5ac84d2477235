//! Simulated low resolution (batchgeneratorsv2 `SimulateLowResolutionTransform`).

use super::{
    patch::Patch,
    random::{some_channels, uniform},
};
use crate::wide::wide;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A lower resolution per channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LowResolution {
    /// Per channel the scale along (z, y, x), at most 1; None leaves the channel alone.
    pub scales: Vec<Option<[f32; 3]>>,
}

impl LowResolution {
    /// Each channel with probability 0.5, one scale in `least`..1 for all its axes, or for y and x alone where
    /// `keep_z` (2D, dummy 2D).
    pub fn draw(channels: usize, keep_z: bool, least: f64, random: &mut ChaCha8Rng) -> Self {
        let scales = some_channels(channels, random, |random| {
            let scale = uniform(random, least, 1.0) as f32;
            [if keep_z { 1.0 } else { scale }, scale, scale]
        });
        LowResolution { scales }
    }

    /// Takes the nearest voxels of a coarser grid and interpolates linearly between them.
    pub fn apply(&self, patch: &mut Patch) {
        let size = patch.size;
        for (c, scales) in self.scales.iter().enumerate() {
            let Some(scales) = scales else { continue };
            // An axis of one or two voxels may round to none, where Python stops with an error.
            let coarse: [usize; 3] = std::array::from_fn(|d| scaled(size[d], f64::from(scales[d])).max(1));
            coarsen(patch.channel(c), size, coarse);
        }
    }
}

fn coarsen(channel: &mut [f32], [nz, ny, nx]: [usize; 3], coarse: [usize; 3]) {
    let plane = ny * nx;
    let [down_z, down_y, down_x] =
        [(nz, coarse[0]), (ny, coarse[1]), (nx, coarse[2])].map(|(n, k)| nearest_exact(n, k));
    let [up_z, up_y, up_x] = [(coarse[0], nz), (coarse[1], ny), (coarse[2], nx)].map(|(n, k)| linear(n, k));
    // Along x and y coarse plane by coarse plane, then along z into the channel.
    let mut planes = vec![0.0; coarse[0] * plane];
    let mut rows = vec![0.0; coarse[1] * nx];
    let mut row = vec![0.0; coarse[2]];
    for (&z, plane_out) in down_z.iter().zip(planes.chunks_exact_mut(plane)) {
        for (&y, row_out) in down_y.iter().zip(rows.chunks_exact_mut(nx)) {
            let from = &channel[z * plane + y * nx..][..nx];
            row.iter_mut().zip(&down_x).for_each(|(r, &x)| *r = from[x]);
            for (to, step) in row_out.iter_mut().zip(&up_x) {
                *to = (1.0 - step.weight) * row[step.low] + step.weight * row[step.high];
            }
        }
        for (row_out, step) in plane_out.chunks_exact_mut(nx).zip(&up_y) {
            blend(
                row_out,
                &rows[step.low * nx..][..nx],
                &rows[step.high * nx..][..nx],
                step.weight,
            );
        }
    }
    for (plane_out, step) in channel.chunks_exact_mut(plane).zip(&up_z) {
        blend(
            plane_out,
            &planes[step.low * plane..][..plane],
            &planes[step.high * plane..][..plane],
            step.weight,
        );
    }
}

wide! {
    fn blend(to: &mut [f32], low: &[f32], high: &[f32], weight: f32) {
        let other = 1.0 - weight;
        for ((t, l), h) in to.iter_mut().zip(low).zip(high) {
            *t = other * l + weight * h;
        }
    }
}

/// Python's `round(n * scale)`.
pub(super) fn scaled(n: usize, scale: f64) -> usize {
    (n as f64 * scale).round_ties_even() as usize
}

/// The input index of each of `to` outputs: torch's `nearest-exact` for `from` inputs.
pub(super) fn nearest_exact(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let source = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
            ((source + 0.5).floor() as usize).min(from - 1)
        })
        .collect()
}

struct Step {
    low: usize,
    high: usize,
    weight: f32,
}

/// Between which inputs each of `to` outputs lies: torch's linear interpolation, align_corners false.
fn linear(from: usize, to: usize) -> Vec<Step> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let source = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
            let low = (source as usize).min(from - 1);
            Step {
                low,
                high: (low + 1).min(from - 1),
                weight: source - low as f32,
            }
        })
        .collect()
}
