//! Gaussian noise (batchgeneratorsv2 `GaussianNoiseTransform`).

use super::{
    patch::Patch,
    random::{seed, uniform},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::Serialize;

/// Additive noise of one deviation for all channels; the noise itself differs between channels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Noise {
    /// Standard deviation. nnU-Net calls it a variance, but uses it as a deviation.
    pub sigma: f64,
    /// Seed of the field.
    pub seed: [u8; 32],
}

impl Noise {
    /// Uniform in 0..0.1.
    pub fn draw(random: &mut ChaCha8Rng) -> Self {
        Noise {
            sigma: uniform(random, 0.0, 0.1),
            seed: seed(random),
        }
    }

    /// Adds the noise.
    pub fn apply(&self, patch: &mut Patch) {
        let mut random = ChaCha8Rng::from_seed(self.seed);
        let sigma = self.sigma as f32;
        for v in &mut patch.data {
            let normal: f32 = random.sample(StandardNormal);
            *v += sigma * normal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_and_differs_between_channels() {
        let mut patch = Patch {
            data: vec![1.0; 2 * 32 * 32 * 32],
            seg: vec![0; 32768],
            channels: 2,
            size: [32; 3],
        };
        Noise {
            sigma: 0.08,
            seed: [9; 32],
        }
        .apply(&mut patch);
        let n = patch.data.len() as f64;
        let mean = patch.data.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let moment = |k: i32| {
            patch
                .data
                .iter()
                .map(|v| ((f64::from(*v) - mean) / 0.08).powi(k))
                .sum::<f64>()
                / n
        };
        assert!((mean - 1.0).abs() < 2e-3 && (moment(2) - 1.0).abs() < 0.02);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
        assert_ne!(patch.data[..32768], patch.data[32768..]);
    }
}
