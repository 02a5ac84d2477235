//! Changes around a place: a brightness gradient and a local gamma (batchgeneratorsv2
//! `BrightnessGradientAdditiveTransform`, `LocalGammaTransform`).

use super::{intensity::pow_unit, patch::Patch, random::uniform, statistics::Statistics};
use crate::wide::wide;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A value and where it counts: with weight 1 where the Gaussian is largest within the patch, 0 where least.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Local {
    /// The Gaussian's centre (z, y, x) in voxels, 0.5 being the centre of the first; it may lie outside of the patch.
    pub centre: [f64; 3],
    /// Its deviations in voxels.
    pub sigma: [f64; 3],
    /// The value.
    pub value: f32,
}

impl Local {
    /// A centre uniform from half a patch before the patch to half a patch behind it, deviations from a sixth of
    /// the patch's size to all of it, uniform in their logarithm.
    pub fn draw(
        size: [usize; 3],
        random: &mut ChaCha8Rng,
        value: impl FnOnce(&mut ChaCha8Rng) -> f64,
    ) -> Self {
        let centre = size.map(|n| uniform(random, -0.5, 1.5) * n as f64);
        // The sixth is a whole number; for fewer than 6 voxels it would be 0, where Python stops with an error.
        let sigma = size.map(|n| uniform(random, ((n / 6).max(1) as f64).ln(), (n as f64).ln()).exp());
        Local {
            centre,
            sigma,
            value: value(random) as f32,
        }
    }

    /// The weights' factors along each axis: the Gaussian's mass in each voxel. An axis of one voxel has no part.
    fn factors(&self, size: [usize; 3]) -> [Vec<f32>; 3] {
        std::array::from_fn(|d| {
            (0..size[d])
                .map(|i| match size[d] {
                    1 => 1.0,
                    _ => mass(i as f64 - 0.5, self.centre[d], self.sigma[d]) as f32,
                })
                .collect()
        })
    }

    /// Calls `change` for each row of a channel with the weights of its voxels.
    fn for_rows(&self, channel: &mut [f32], size: [usize; 3], mut change: impl FnMut(&mut [f32], &[f32])) {
        let [along_z, along_y, along_x] = self.factors(size);
        let extremes = |of: fn(f32, f32) -> f32| {
            let [z, y, x] = [&along_z, &along_y, &along_x]
                .map(|factors| factors.iter().copied().reduce(of).unwrap_or(1.0));
            z * y * x
        };
        let least = extremes(f32::min);
        let range = extremes(f32::max) - least;
        if range <= 0.0 {
            return;
        }
        let mut weights = vec![0.0; size[2]];
        for (zy, row) in channel.chunks_exact_mut(size[2]).enumerate() {
            let factor = along_z[zy / size[1]] * along_y[zy % size[1]];
            weigh(&mut weights, &along_x, factor, least, range);
            change(row, &weights);
        }
    }
}

/// The mass of a normal distribution from `start` to `start` + 1, by Gauss and Legendre's rule with four nodes:
/// within 1e-7 of its peak for deviations of 1 and more.
fn mass(start: f64, centre: f64, sigma: f64) -> f64 {
    const NODES: [(f64, f64); 2] = [
        (0.339_981_043_584_856_3, 0.652_145_154_862_546_1),
        (0.861_136_311_594_052_6, 0.347_854_845_137_453_9),
    ];
    let density = |x: f64| {
        let deviations = (x - centre) / sigma;
        (-0.5 * deviations * deviations).exp() / (sigma * (2.0 * std::f64::consts::PI).sqrt())
    };
    let middle = start + 0.5;
    let sum: f64 = NODES
        .iter()
        .map(|(node, weight)| weight * (density(middle - node / 2.0) + density(middle + node / 2.0)))
        .sum();
    sum / 2.0
}

/// Adds to each channel its value times the weight.
pub fn gradient(patch: &mut Patch, summands: &[Option<Local>]) {
    let size = patch.size;
    for (c, local) in summands.iter().enumerate() {
        let Some(local) = local else { continue };
        local.for_rows(patch.channel(c), size, |row, weights| {
            add(row, weights, local.value)
        });
    }
}

/// Blends each channel, by the weights, with itself scaled to 0..1, raised to the power of its value and scaled back.
pub fn gamma(patch: &mut Patch, exponents: &[Option<Local>]) {
    let size = patch.size;
    for (c, local) in exponents.iter().enumerate() {
        let Some(local) = local else { continue };
        let channel = patch.channel(c);
        let Statistics { min, max, .. } = Statistics::of(channel);
        let range = (max - min).max(1e-8);
        local.for_rows(channel, size, |row, weights| {
            blend_power(row, weights, min, range, local.value)
        });
    }
}

wide! {
    fn weigh(weights: &mut [f32], along_x: &[f32], factor: f32, least: f32, range: f32) {
        for (weight, x) in weights.iter_mut().zip(along_x) {
            *weight = (factor * x - least) / range;
        }
    }
}

wide! {
    fn add(row: &mut [f32], weights: &[f32], value: f32) {
        for (v, weight) in row.iter_mut().zip(weights) {
            *v += value * weight;
        }
    }
}

wide! {
    fn blend_power(row: &mut [f32], weights: &[f32], min: f32, range: f32, exponent: f32) {
        for (v, weight) in row.iter_mut().zip(weights) {
            let unit = (*v - min) / range;
            *v = (pow_unit(unit, exponent) * weight + unit * (1.0 - weight)) * range + min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::augment::distribution::{close, fill};
    use rand::SeedableRng;

    #[test]
    fn masses_are_those_of_the_normal_distribution() {
        // Python: norm.cdf(i + 1, 2.3, 1.1) - norm.cdf(i, 2.3, 1.1) for i in (-1, 0, 2, 7)
        for (start, wanted) in [
            (-1.0, 0.016_918_208_979_910_57),
            (0.0, 0.100_370_818_922_598_55),
            (2.0, 0.345_198_847_508_563_8),
            (7.0, 9.544_962_160_656_922e-6),
        ] {
            let got = mass(start, 2.3, 1.1);
            assert!((got - wanted).abs() < 3e-8, "{got} for {wanted}");
        }
        let all: f64 = (-20..20).map(|i| mass(f64::from(i), 0.7, 1.0)).sum();
        assert!((all - 1.0).abs() < 1e-7);
    }

    #[test]
    fn places_and_sizes_are_nnunets() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let drawn: Vec<Local> = (0..20_000)
            .map(|_| Local::draw([1, 4, 60], &mut random, |_| 2.0))
            .collect();
        for (d, low, high) in [(1, -2.0, 6.0), (2, -30.0, 90.0)] {
            fill(&drawn.iter().map(|l| l.centre[d]).collect::<Vec<_>>(), low, high);
        }
        assert!(drawn.iter().all(|l| l.sigma[0] == 1.0 && l.value == 2.0));
        for (d, low, high) in [(1, 1.0, 4.0), (2, 10.0, 60.0f64)] {
            let sigmas: Vec<f64> = drawn.iter().map(|l| l.sigma[d]).collect();
            fill(&sigmas, low, high);
            let below = sigmas.iter().filter(|s| **s < (low * high).sqrt()).count();
            close(below as f64 / sigmas.len() as f64, 0.5);
        }
    }

    #[test]
    fn weights_go_from_0_to_1_and_constants_stay() {
        let mut patch = Patch {
            data: vec![3.0; 7 * 9 * 11],
            seg: vec![0; 7 * 9 * 11],
            channels: 1,
            size: [7, 9, 11],
        };
        let local = Local {
            centre: [2.0, 4.5, 14.0],
            sigma: [3.0, 2.0, 9.0],
            value: -2.0,
        };
        gamma(&mut patch, &[Some(local.clone())]);
        assert!(patch.data.iter().all(|v| *v == 3.0));
        gradient(&mut patch, &[Some(local)]);
        let Statistics { min, max, .. } = Statistics::of(&patch.data);
        assert_eq!((min, max), (1.0, 3.0));
    }
}
