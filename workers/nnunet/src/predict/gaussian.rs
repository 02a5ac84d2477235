//! How much each voxel of a tile counts (inference/sliding_window_prediction.py, compute_gaussian).

use half::f16;

/// The standard deviation as a part of the tile.
const SIGMA: f64 = 1.0 / 8.0;
/// The weight of the centre. Large, so that few weights become zero in float16.
const CENTRE: f64 = 10.0;
/// Where scipy's `gaussian_filter` cuts its kernel, in standard deviations.
const TRUNCATE: f64 = 4.0;

/// The weights of a tile's voxels in C order: a Gaussian about voxel `n / 2` of each axis, float16. Weights that
/// would be zero are the smallest that is not, so that a sum of them can be divided by.
pub fn importance_map(tile: &[usize]) -> Vec<f16> {
    let axes: Vec<Vec<f64>> = tile.iter().map(|&n| profile(n)).collect();
    let mut map = vec![1.0f64];
    for axis in &axes {
        map = map.iter().flat_map(|m| axis.iter().map(move |w| m * w)).collect();
    }
    let highest = map.iter().copied().fold(0.0, f64::max);
    // torch converts float64 to float16 by way of float32.
    let mut map: Vec<f16> = map
        .iter()
        .map(|v| f16::from_f32((v / (highest / CENTRE)) as f32))
        .collect();
    let lowest = map
        .iter()
        .copied()
        .filter(|v| *v > f16::ZERO)
        .fold(f16::INFINITY, f16::min);
    map.iter_mut()
        .filter(|v| **v == f16::ZERO)
        .for_each(|v| *v = lowest);
    map
}

/// A unit impulse at `n / 2` through scipy's one-dimensional Gaussian filter, zero beyond the ends.
fn profile(n: usize) -> Vec<f64> {
    let sigma = n as f64 * SIGMA;
    let radius = (TRUNCATE * sigma + 0.5) as i64;
    let weight = |x: i64| (-0.5 / (sigma * sigma) * (x * x) as f64).exp();
    let sum: f64 = (-radius..=radius).map(weight).sum();
    let distance = |i: usize| i as i64 - (n / 2) as i64;
    (0..n)
        .map(|i| {
            if distance(i).abs() <= radius {
                weight(distance(i)) / sum
            } else {
                0.0
            }
        })
        .collect()
}
