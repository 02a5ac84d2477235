//! Brightness, contrast and gamma (batchgeneratorsv2 `transforms/intensity`).

use super::{
    patch::Patch,
    random::{around_one, some_channels},
    statistics::Statistics,
};
use crate::wide::wide;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A number per channel; None leaves the channel alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerChannel(pub Vec<Option<f32>>);

impl PerChannel {
    /// One factor per channel: a coin flip between `[low, 1)` and `[1, high)`.
    pub fn around_one(channels: usize, low: f64, high: f64, random: &mut ChaCha8Rng) -> Self {
        PerChannel(
            (0..channels)
                .map(|_| Some(around_one(random, low, high) as f32))
                .collect(),
        )
    }

    /// A number for each channel with probability 0.5.
    pub fn some(
        channels: usize,
        random: &mut ChaCha8Rng,
        mut draw: impl FnMut(&mut ChaCha8Rng) -> f64,
    ) -> Self {
        PerChannel(some_channels(channels, random, |random| draw(random) as f32))
    }

    /// The channels that are not left alone, with their numbers.
    pub(super) fn chosen(&self) -> impl Iterator<Item = (usize, f32)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(c, value)| Some((c, (*value)?)))
    }
}

/// Multiplies each channel by its factor (`MultiplicativeBrightnessTransform`).
pub fn brightness(patch: &mut Patch, factors: &PerChannel) {
    for (c, factor) in factors.chosen() {
        patch.channel(c).iter_mut().for_each(|v| *v *= factor);
    }
}

/// Adds its summand to each channel (`BrightnessAdditiveTransform`).
pub fn shift(patch: &mut Patch, summands: &PerChannel) {
    for (c, summand) in summands.chosen() {
        patch.channel(c).iter_mut().for_each(|v| *v += summand);
    }
}

/// Stretches each channel about its mean by its factor, within its range where `keep_range`
/// (`ContrastTransform`).
pub fn contrast(patch: &mut Patch, factors: &PerChannel, keep_range: bool) {
    for (c, factor) in factors.chosen() {
        let values = patch.channel(c);
        let before = Statistics::of(values);
        let (low, high) = if keep_range {
            (before.min, before.max)
        } else {
            (f32::NEG_INFINITY, f32::INFINITY)
        };
        stretch(values, before.mean(), factor, low, high);
    }
}

/// Raises each channel, scaled to 0..1, to the power of its factor, and restores mean and deviation
/// (`GammaTransform`, p_retain_stats 1). `inverted` does so to the negated image.
pub fn gamma(patch: &mut Patch, exponents: &PerChannel, inverted: bool) {
    const EPSILON: f32 = 1e-7;
    let sign = if inverted { -1.0 } else { 1.0 };
    for (c, exponent) in exponents.chosen() {
        let values = patch.channel(c);
        let before = Statistics::of(values);
        let before = if inverted { before.negated() } else { before };
        let range = before.max - before.min;
        let mut after = Statistics::empty();
        for block in values.chunks_mut(4096) {
            power(block, sign, before.min, range.max(EPSILON), exponent, range);
            after.add(block);
        }
        let factor = before.deviation() / after.deviation().max(EPSILON);
        restore(values, after.mean(), factor, before.mean(), sign);
    }
}

wide! {
    fn stretch(values: &mut [f32], mean: f32, factor: f32, low: f32, high: f32) {
        for v in values {
            let stretched = (*v - mean) * factor + mean;
            let stretched = if stretched < low { low } else { stretched };
            *v = if stretched > high { high } else { stretched };
        }
    }
}

wide! {
    fn power(values: &mut [f32], sign: f32, low: f32, denominator: f32, exponent: f32, range: f32) {
        for v in values {
            *v = pow_unit((sign * *v - low) / denominator, exponent) * range + low;
        }
    }
}

wide! {
    fn restore(values: &mut [f32], from: f32, factor: f32, to: f32, sign: f32) {
        for v in values {
            *v = sign * ((*v - from) * factor + to);
        }
    }
}

/// `x` to the power of `exponent` for x in 0..1, within 3e-7: the library's pow does not vectorise.
#[inline(always)]
pub(super) fn pow_unit(x: f32, exponent: f32) -> f32 {
    let power = exp2(exponent * log2(x));
    if x < f32::MIN_POSITIVE { 0.0 } else { power }
}

/// Base-2 logarithm of a normal positive number: exponent plus Cephes' polynomial for ln(1 + f).
#[inline(always)]
fn log2(x: f32) -> f32 {
    // Bits of sqrt(1/2): the mantissa is brought into sqrt(1/2)..sqrt(2).
    const HALF_ROOT: i32 = 0x3f35_04f3;
    let bits = x.to_bits() as i32 - HALF_ROOT;
    let exponent = (bits >> 23) as f32;
    let f = f32::from_bits(((bits & 0x007f_ffff) + HALF_ROOT) as u32) - 1.0;
    let mut p = 7.037_683_6e-2_f32;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * f + c;
    }
    let square = f * f;
    let ln = p * f * square - 0.5 * square + f;
    ln * std::f32::consts::LOG2_E + exponent
}

/// 2 to the power of y, for y up to 127; 0 to rounding below -126.
#[inline(always)]
fn exp2(y: f32) -> f32 {
    let y = if y < -126.0 { -126.0 } else { y };
    let y = if y > 127.0 { 127.0 } else { y };
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = y + ROUND;
    let whole = shifted - ROUND;
    let r = y - whole;
    let mut p = 1.535_336_2e-4_f32;
    for c in [
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_5e-2,
        2.402_264_8e-1,
        6.931_472e-1,
        1.0,
    ] {
        p = p * r + c;
    }
    let scale = f32::from_bits((((shifted.to_bits() as i32) - (ROUND.to_bits() as i32) + 127) << 23) as u32);
    p * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_is_within_3e_7() {
        let mut worst = 0f64;
        for exponent in [0.01f32, 0.3, 0.7, 0.83, 1.0, 1.2, 1.5, 4.0] {
            for i in 0..=100_000 {
                let x = i as f32 / 100_000.0;
                worst = worst
                    .max((f64::from(pow_unit(x, exponent)) - f64::from(x).powf(f64::from(exponent))).abs());
            }
        }
        assert!(worst < 3e-7, "{worst:e}");
        assert_eq!(
            (pow_unit(0.0, 0.7), pow_unit(1.0, 1.3), pow_unit(1e-42, 0.9)),
            (0.0, 1.0, 0.0)
        );
    }

    #[test]
    fn a_constant_channel_survives() {
        let mut patch = Patch {
            data: vec![3.0; 8],
            seg: vec![0; 8],
            channels: 1,
            size: [2, 2, 2],
        };
        gamma(&mut patch, &PerChannel(vec![Some(0.8)]), true);
        contrast(&mut patch, &PerChannel(vec![Some(1.2)]), true);
        assert_eq!(patch.data, vec![3.0; 8]);
    }
}
