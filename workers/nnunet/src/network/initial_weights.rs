//! Weights before the first round. Pure and without libtorch: every site, and the orchestrator, gets the same bytes.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Layout, ParameterRole, StateDict, Tensor32};
use crate::Result;

/// Slope that He's gain assumes; nnU-Net's `InitWeights_He(1e-2)`.
const SLOPE: f64 = 0.01;

/// Initial weights: nnU-Net's distributions, drawn from a generator of our own.
///
/// Convolutions: normal with He et al.'s deviation `sqrt(2 / (1 + 0.01^2) / fan_in)`, biases 0; norms 1 and 0, but 0
/// and 0 for the last norm of a residual block (dynamic_network_architectures, initialization/weight_init.py); running
/// statistics 0 and 1.
/// Each tensor has a generator keyed by (seed, name), so the values do not depend on order or threads.
pub fn initial_weights(layout: &Layout, seed: u64) -> Result<StateDict> {
    let tensors: Vec<_> = layout
        .parameters()
        .par_iter()
        .map(|parameter| {
            let n: usize = parameter.shape.iter().product();
            let data = match parameter.role {
                ParameterRole::Convolution { fan_in } => normal(seed, &parameter.name, fan_in, n),
                ParameterRole::NormScale { zero: false } | ParameterRole::RunningVariance => vec![1.0; n],
                ParameterRole::NormScale { zero: true }
                | ParameterRole::NormShift
                | ParameterRole::Bias
                | ParameterRole::RunningMean
                | ParameterRole::BatchCount => vec![0.0; n],
            };
            Tensor32::new(parameter.shape.clone(), data)
        })
        .collect::<Result<_>>()?;
    let mut state = StateDict::new();
    for (parameter, tensor) in layout.parameters().iter().zip(tensors) {
        state.insert(&parameter.name, tensor)?;
    }
    Ok(state)
}

fn normal(seed: u64, name: &str, fan_in: usize, n: usize) -> Vec<f32> {
    let deviation = (2.0 / (1.0 + SLOPE * SLOPE) / fan_in as f64).sqrt();
    let key = Sha256::new()
        .chain_update(b"initial-weights\0")
        .chain_update(seed.to_le_bytes())
        .chain_update(name);
    let mut generator = ChaCha8Rng::from_seed(key.finalize().into());
    (0..n)
        .map(|_| (deviation * generator.sample::<f64, _>(StandardNormal)) as f32)
        .collect()
}
