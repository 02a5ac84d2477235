//! Gaussian blur (batchgeneratorsv2 `GaussianBlurTransform`).

use super::{
    patch::Patch,
    random::{some_channels, uniform},
};
use crate::wide::wide;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A blur per channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Blur {
    /// Per channel the deviations in voxels along (z, y, x); None leaves the channel alone, and in 2D
    /// the deviation along z is 0, which leaves that axis alone.
    pub sigmas: Vec<Option<[f64; 3]>>,
}

impl Blur {
    /// Each channel with probability 0.5, each axis uniform in 0.5..1.
    pub fn draw(channels: usize, is_2d: bool, random: &mut ChaCha8Rng) -> Self {
        let sigmas = some_channels(channels, random, |random| {
            std::array::from_fn(|d| {
                if is_2d && d == 0 {
                    0.0
                } else {
                    uniform(random, 0.5, 1.0)
                }
            })
        });
        Blur { sigmas }
    }

    /// As the heavy augmentation draws: each channel with probability 0.5, uniform in 0.3..1.5 for all axes.
    pub fn draw_wide(channels: usize, is_2d: bool, random: &mut ChaCha8Rng) -> Self {
        let sigmas = some_channels(channels, random, |random| {
            let sigma = uniform(random, 0.3, 1.5);
            [if is_2d { 0.0 } else { sigma }, sigma, sigma]
        });
        Blur { sigmas }
    }

    /// Blurs each channel along each axis, mirrored at the border.
    pub fn apply(&self, patch: &mut Patch) {
        let [nz, ny, nx] = patch.size;
        let plane = ny * nx;
        // The blur is separable: x and y plane by plane into `blurred`, then z back into the channel.
        let (mut row, mut along_x) = (Vec::new(), vec![0.0; plane]);
        let mut blurred = vec![0.0; nz * plane];
        for (c, sigmas) in self.sigmas.iter().enumerate() {
            let Some(sigmas) = sigmas else { continue };
            let [kernel_z, kernel_y, kernel_x] = sigmas.map(kernel);
            let channel = patch.channel(c);
            let half = kernel_x.len() / 2;
            for (source, target) in channel.chunks_exact(plane).zip(blurred.chunks_exact_mut(plane)) {
                for (from, to) in source.chunks_exact(nx).zip(along_x.chunks_exact_mut(nx)) {
                    row.clear();
                    row.extend((0..nx + 2 * half).map(|i| from[reflected(i as i64 - half as i64, nx)]));
                    weighted(to, &kernel_x, |j| &row[j..j + nx]);
                }
                for (y, to) in target.chunks_exact_mut(nx).enumerate() {
                    let half = kernel_y.len() / 2;
                    weighted(to, &kernel_y, |j| {
                        let from = reflected((y + j) as i64 - half as i64, ny) * nx;
                        &along_x[from..from + nx]
                    });
                }
            }
            for (z, to) in channel.chunks_exact_mut(plane).enumerate() {
                let half = kernel_z.len() / 2;
                for (y, to) in to.chunks_exact_mut(nx).enumerate() {
                    weighted(to, &kernel_z, |j| {
                        let from = reflected((z + j) as i64 - half as i64, nz) * plane + y * nx;
                        &blurred[from..from + nx]
                    });
                }
            }
        }
    }
}

/// The kernel of `_build_kernel` with truncate 6: odd size nearest to 6 sigma + 0.5. Sigma 0 is the identity.
pub fn kernel(sigma: f64) -> Vec<f32> {
    if sigma == 0.0 {
        return vec![1.0];
    }
    let wanted = sigma * 6.0 + 0.5;
    let rounded = wanted.round_ties_even();
    let size = if rounded % 2.0 == 1.0 {
        rounded
    } else if wanted - rounded >= 0.0 {
        rounded + 1.0
    } else {
        rounded - 1.0
    } as usize;
    let half = (size - 1) as f32 * 0.5;
    let values: Vec<f32> = (0..size)
        .map(|i| {
            let x = (i as f32 - half) / sigma as f32;
            (-0.5 * x * x).exp()
        })
        .collect();
    let sum: f32 = values.iter().sum();
    values.into_iter().map(|v| v / sum).collect()
}

/// Index `i` mirrored into `0..n` about the first and last element (torch's and numpy's `reflect`).
fn reflected(i: i64, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as i64 - 1);
    let i = i.rem_euclid(period);
    i.min(period - i) as usize
}

/// `to` = sum over j of `kernel[j] * from(j)`, for kernels of 1, 3, 5, 7, 9 and any other size.
fn weighted<'a>(to: &mut [f32], kernel: &[f32], from: impl Fn(usize) -> &'a [f32]) {
    match kernel.len() {
        1 => to.copy_from_slice(from(0)),
        3 => weighted_rows::<3>(to, kernel, &std::array::from_fn(&from)),
        5 => weighted_rows::<5>(to, kernel, &std::array::from_fn(&from)),
        7 => weighted_rows::<7>(to, kernel, &std::array::from_fn(&from)),
        9 => weighted_rows::<9>(to, kernel, &std::array::from_fn(&from)),
        _ => {
            to.fill(0.0);
            for (j, weight) in kernel.iter().enumerate() {
                to.iter_mut().zip(from(j)).for_each(|(t, f)| *t += weight * f);
            }
        }
    }
}

wide! {
    fn weighted_rows<const K: usize>(to: &mut [f32], kernel: &[f32], rows: &[&[f32]; K]) {
        let n = to.len();
        let kernel: [f32; K] = std::array::from_fn(|j| kernel[j]);
        let rows: [&[f32]; K] = std::array::from_fn(|j| &rows[j][..n]);
        for x in 0..n {
            let mut sum = kernel[0] * rows[0][x];
            for j in 1..K {
                sum += kernel[j] * rows[j][x];
            }
            to[x] = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_nnunets_sizes() {
        // Python: [_compute_kernel_size(s, 6) for s in (.3, .5, .58, .6, .75, .9, .95, 1., 1.5)]
        let sizes: Vec<usize> = [0.3, 0.5, 0.58, 0.6, 0.75, 0.9, 0.95, 1.0, 1.5]
            .iter()
            .map(|&s| kernel(s).len())
            .collect();
        assert_eq!(sizes, [3, 3, 3, 5, 5, 5, 7, 7, 9]);
        assert!((kernel(0.7).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn indices_are_mirrored_about_the_border_voxels() {
        let mirrored: Vec<usize> = (-3..7).map(|i| reflected(i, 4)).collect();
        assert_eq!(mirrored, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        assert_eq!(reflected(-5, 1), 0);
    }
}
