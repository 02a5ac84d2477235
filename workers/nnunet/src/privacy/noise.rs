//! What a round adds to the weights, cut to a length, with noise.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;

use crate::{
    Error, Result,
    network::{StateDict, Tensor32},
};

/// Values that one thread takes at a time: an even number.
const CHUNK: usize = 1 << 16;

/// `base` plus what `weights` add to it, scaled down to the L2 length `clip` where it is longer, plus Gaussian noise of
/// standard deviation `deviation` in each value. All of it is a function of the arguments: a seed must not be used for
/// two updates, and nobody else may know it.
///
/// # Errors
/// The two have other tensors, or what was added is not finite.
pub fn protect(
    weights: &StateDict,
    base: &StateDict,
    clip: f64,
    deviation: f64,
    seed: [u8; 32],
) -> Result<StateDict> {
    let mut sum = 0f64;
    for (name, tensor) in weights.iter() {
        let base = of(base, name, tensor)?;
        let differences = tensor.data.iter().zip(&base.data);
        let squares = differences.map(|(value, base)| (f64::from(*value) - f64::from(*base)).powi(2));
        sum += squares.sum::<f64>();
    }
    if !sum.is_finite() {
        return Err(Error::NotFinite("what the round added to the weights".to_owned()));
    }
    let factor = (clip / sum.sqrt()).min(1.0);
    let mut protected = StateDict::new();
    let mut first = 0u64;
    for (name, tensor) in weights.iter() {
        let base = of(base, name, tensor)?;
        let mut data = vec![0f32; tensor.data.len()];
        data.par_chunks_mut(CHUNK)
            .zip(tensor.data.par_chunks(CHUNK).zip(base.data.par_chunks(CHUNK)))
            .enumerate()
            .for_each(|(chunk, (out, (values, base)))| {
                let mut noise = Noise::from(seed, first + (chunk * CHUNK) as u64);
                for ((out, value), base) in out.iter_mut().zip(values).zip(base) {
                    let (value, base) = (f64::from(*value), f64::from(*base));
                    *out = (base + factor * (value - base) + deviation * noise.next()) as f32;
                }
            });
        first += (data.len() as u64).next_multiple_of(2);
        protected.insert(name, Tensor32::new(tensor.shape.clone(), data)?)?;
    }
    Ok(protected)
}

fn of<'a>(base: &'a StateDict, name: &str, tensor: &Tensor32) -> Result<&'a Tensor32> {
    base.get(name)
        .filter(|base| base.shape == tensor.shape)
        .ok_or_else(|| {
            let reason = format!(
                "of shape {:?}: the round started from no such tensor",
                tensor.shape
            );
            Error::invalid(format!("tensor {name}"), reason)
        })
}

/// Standard normal numbers by place: Box and Muller's pairs, of two numbers of ChaCha20 each.
struct Noise {
    random: ChaCha20Rng,
    second: Option<f64>,
}

impl Noise {
    /// Those from the even place `first` on.
    fn from(seed: [u8; 32], first: u64) -> Self {
        let mut random = ChaCha20Rng::from_seed(seed);
        random.set_word_pos(2 * u128::from(first));
        Self { random, second: None }
    }

    fn next(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        // 53 bits: above 0 and up to 1, and from 0 to below 1.
        let mut uniform = || (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let (radius, angle) = (1.0 - uniform(), uniform());
        let radius = (-2.0 * radius.ln()).sqrt();
        let angle = std::f64::consts::TAU * angle;
        self.second = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(values: &[f32], count: usize) -> StateDict {
        let mut state = StateDict::new();
        let odd: Vec<f32> = values.iter().copied().cycle().take(3).collect();
        let long: Vec<f32> = values.iter().copied().cycle().take(count).collect();
        for (name, data) in [("odd", odd), ("long", long)] {
            state
                .insert(name, Tensor32::new(vec![data.len()], data).unwrap())
                .unwrap();
        }
        state
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_short_stays() {
        let (base, weights) = (state(&[1.0], 1), state(&[4.0], 1));
        // It added 3 to each of 4 values: its length is 6.
        assert_eq!(protect(&weights, &base, 6.0, 0.0, [0; 32]).unwrap(), weights);
        assert_eq!(
            protect(&weights, &base, 2.0, 0.0, [0; 32]).unwrap(),
            state(&[2.0], 1)
        );
        let cut = protect(&weights, &base, 0.5, 0.0, [0; 32]).unwrap();
        assert!((cut.distance(&base) - 0.5).abs() < 1e-6);
        assert_eq!(protect(&base, &base, 2.0, 0.0, [0; 32]).unwrap(), base);
        let error = protect(&weights, &state(&[1.0], 2), 1.0, 1.0, [0; 32]).unwrap_err();
        assert!(
            error.to_string().starts_with("tensor long: of shape [1]"),
            "{error}"
        );
        let infinite = state(&[f32::INFINITY], 1);
        assert!(protect(&infinite, &base, 1.0, 1.0, [0; 32]).is_err());
    }

    #[test]
    fn the_noise_is_gaussian_the_same_again_and_another_by_seed() {
        let (count, deviation) = (2 * CHUNK + 7, 0.5);
        let base = state(&[0.25], count);
        let noisy = |seed| protect(&base, &base, 1.0, deviation, [seed; 32]).unwrap();
        let drawn = noisy(1);
        assert_eq!(drawn, noisy(1));
        let other = noisy(2);
        let values = |state: &StateDict| -> Vec<f64> {
            let all = state.iter().flat_map(|(_, tensor)| &tensor.data);
            all.map(|value| (f64::from(*value) - 0.25) / deviation).collect()
        };
        let (one, two) = (values(&drawn), values(&other));
        let n = one.len() as f64;
        let moment = |power: i32| one.iter().map(|value| value.powi(power)).sum::<f64>() / n;
        // Within four standard errors: of the mean 1, of the square 2, of the fourth power 96, by n.
        assert!(moment(1).abs() < 4.0 / n.sqrt());
        assert!((moment(2) - 1.0).abs() < 4.0 * (2.0 / n).sqrt());
        assert!((moment(4) - 3.0).abs() < 4.0 * (96.0 / n).sqrt());
        let beyond = one.iter().filter(|value| value.abs() > 1.959_964).count() as f64 / n;
        assert!((beyond - 0.05).abs() < 4.0 * (0.05 * 0.95 / n).sqrt());
        // Neither the next value nor another seed's tells one.
        let next = one.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / n;
        let across = one.iter().zip(&two).map(|(a, b)| a * b).sum::<f64>() / n;
        assert!(next.abs() < 4.0 / n.sqrt() && across.abs() < 4.0 / n.sqrt());
    }

    #[test]
    fn a_value_gets_its_own_place_of_the_noise() {
        // What each tensor draws does not depend on how the tensors before it are cut into chunks.
        let mut all = Noise::from([3; 32], 0);
        let all: Vec<f64> = (0..40).map(|_| all.next()).collect();
        for first in [0, 2, 16, 38] {
            let mut some = Noise::from([3; 32], first);
            assert_eq!(some.next(), all[first as usize]);
        }
    }
}
