//! The random numbers of training: a counter-based generator with one key per sample.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

/// What a sample's random numbers are a function of. Threads, clocks and other samples have no part in it.
#[derive(Debug, Clone, Copy)]
pub struct SampleKey<'a> {
    /// What the numbers are for, such as `train-batch`.
    pub purpose: &'a str,
    /// The seed of the job.
    pub seed: u64,
    /// The site's name.
    pub site: &'a str,
    /// The epoch, counted over all rounds.
    pub epoch: u64,
    /// The iteration within the epoch.
    pub iteration: u64,
    /// The sample within the batch.
    pub sample: u64,
}

impl SampleKey<'_> {
    /// The generator of this key: ChaCha8 seeded with the sha256 of the key's parts.
    pub fn generator(&self) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        for text in ["rounds/sample/1", self.purpose, self.site] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        for number in [self.seed, self.epoch, self.iteration, self.sample] {
            hash.update(number.to_le_bytes());
        }
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

/// True with probability `p`.
pub fn chance(random: &mut ChaCha8Rng, p: f64) -> bool {
    random.random::<f64>() < p
}

/// Uniform in `[low, high)`; `low` where both are equal.
pub fn uniform(random: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * random.random::<f64>()
}

/// Uniform over the integers `low..=high`.
pub fn integer(random: &mut ChaCha8Rng, low: i64, high: i64) -> i64 {
    random.random_range(low..=high)
}

/// batchgeneratorsv2's `BGContrast`: a coin decides between `[low, 1)` and `[1, high)`.
pub fn around_one(random: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    let below = chance(random, 0.5);
    if below && low < 1.0 {
        uniform(random, low, 1.0)
    } else {
        uniform(random, low.max(1.0), high)
    }
}

/// Normal about 0.
pub fn normal(random: &mut ChaCha8Rng, deviation: f64) -> f64 {
    deviation * random.sample::<f64, _>(StandardNormal)
}

/// Something for each channel with probability 0.5, None for the others.
pub fn some_channels<T>(
    channels: usize,
    random: &mut ChaCha8Rng,
    mut draw: impl FnMut(&mut ChaCha8Rng) -> T,
) -> Vec<Option<T>> {
    let chosen: Vec<bool> = (0..channels).map(|_| chance(random, 0.5)).collect();
    chosen
        .into_iter()
        .map(|chosen| chosen.then(|| draw(random)))
        .collect()
}

/// A fresh seed for a field of numbers, such as the noise of a patch.
pub fn seed(random: &mut ChaCha8Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    random.fill_bytes(&mut seed);
    seed
}
