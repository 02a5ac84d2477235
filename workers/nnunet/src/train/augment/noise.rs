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
