//! How the values of one weight at all sites become one.

use std::path::PathBuf;

use super::Contribution;
use crate::{Error, Result, wide::wide};

/// How updates are combined.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// The weighted mean.
    Mean,
    /// The median of each coordinate; of an even number of sites the mean of the two in the middle (Yin et al., arXiv
    /// 1803.01498). A site counts once, whatever its weight.
    Median,
    /// The mean of each coordinate without the `trim` smallest and the `trim` largest values (Yin et al., arXiv
    /// 1803.01498). A site counts once, whatever its weight.
    TrimmedMean {
        /// Values that are cut at each end.
        trim: usize,
    },
    /// The weighted mean of updates whose L2 distance from `base` is at most `norm_bound` times the median of all
    /// sites' distances: one that is farther is scaled down to it (norm clipping: Sun et al., arXiv 1911.07963).
    BoundedMean {
        /// How many medians.
        norm_bound: f64,
        /// The weights that the round started from, a safetensors file.
        base: PathBuf,
    },
}

impl Rule {
    /// Whether these may be combined.
    pub(super) fn check(&self, contributions: &[&Contribution]) -> Result<()> {
        let sites = contributions.len();
        match self {
            Rule::Mean | Rule::BoundedMean { .. } => {
                if contributions.iter().map(|c| u128::from(c.weight)).sum::<u128>() == 0 {
                    return Err(Error::invalid(
                        "average",
                        "no site contributes, or all weights are zero",
                    ));
                }
            }
            Rule::Median if sites == 0 => return Err(Error::invalid("average", "no site contributes")),
            Rule::TrimmedMean { trim } if sites <= trim.saturating_mul(2) => {
                let reason = format!(
                    "{sites} sites contribute: expected more than the {trim} that are cut at each end together"
                );
                return Err(Error::invalid("average", reason));
            }
            Rule::Median | Rule::TrimmedMean { .. } => {}
        }
        match self {
            Rule::BoundedMean { norm_bound, .. } if !(*norm_bound > 0.0 && norm_bound.is_finite()) => Err(
                Error::invalid("norm_bound", format!("is {norm_bound}, expected above 0")),
            ),
            _ => Ok(()),
        }
    }
}

/// The place of a site among those who contribute, and its little-endian values.
pub(super) type Values<'a> = (usize, &'a [[u8; 4]]);

/// The weighted mean. A site without values counts as 0.
pub(super) fn mean(contributions: &[&Contribution], inputs: &[Values], out: &mut [f32]) {
    let mut sum = vec![0f64; out.len()];
    for (place, values) in inputs {
        add(&mut sum, values, contributions[*place].weight as f64);
    }
    let total = total(contributions);
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = (sum / total) as f32;
    }
}

wide! {
    /// Adds the values times `weight`.
    fn add(sum: &mut [f64], values: &[[u8; 4]], weight: f64) {
        for (sum, bytes) in sum.iter_mut().zip(values) {
            *sum += weight * f64::from(f32::from_le_bytes(*bytes));
        }
    }
}

wide! {
    /// Whether all values are finite. All are looked at, without a branch: several at once.
    pub(super) fn all_finite(values: &[[u8; 4]]) -> bool {
        let finite = |finite, bytes: &[u8; 4]| finite & f32::from_le_bytes(*bytes).is_finite();
        values.iter().fold(true, finite)
    }
}

/// The weighted mean of `base` plus each site's update times its factor.
pub(super) fn bounded_mean(
    contributions: &[&Contribution],
    inputs: &[Values],
    base: &[[u8; 4]],
    factors: &[f64],
    out: &mut [f32],
) {
    let mut sum = vec![0f64; out.len()];
    for (place, values) in inputs {
        let (weight, factor) = (contributions[*place].weight as f64, factors[*place]);
        for ((sum, bytes), base) in sum.iter_mut().zip(*values).zip(base) {
            let (value, base) = (
                f64::from(f32::from_le_bytes(*bytes)),
                f64::from(f32::from_le_bytes(*base)),
            );
            // Within the bound it counts bit for bit as in the mean.
            *sum += weight
                * if factor < 1.0 {
                    base + factor * (value - base)
                } else {
                    value
                };
        }
    }
    let total = total(contributions);
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = (sum / total) as f32;
    }
}

fn total(contributions: &[&Contribution]) -> f64 {
    contributions.iter().map(|c| u128::from(c.weight)).sum::<u128>() as f64
}

/// The median of each coordinate.
pub(super) fn median(inputs: &[Values], out: &mut [f32]) {
    sorted(inputs, out, |values| {
        let middle = values.len() / 2;
        match values.len() % 2 {
            0 => (f64::from(values[middle - 1]) + f64::from(values[middle])) / 2.0,
            _ => f64::from(values[middle]),
        }
    });
}

/// The mean of each coordinate without `trim` values at each end.
pub(super) fn trimmed_mean(inputs: &[Values], trim: usize, out: &mut [f32]) {
    sorted(inputs, out, |values| {
        let kept = &values[trim..values.len() - trim];
        kept.iter().map(|value| f64::from(*value)).sum::<f64>() / kept.len() as f64
    });
}

/// Gives each coordinate's values in ascending order to `combine`: whoever sent them, the result is the same.
fn sorted(inputs: &[Values], out: &mut [f32], combine: impl Fn(&[f32]) -> f64) {
    let mut values = vec![0f32; inputs.len()];
    for (index, out) in out.iter_mut().enumerate() {
        for (value, (_, bytes)) in values.iter_mut().zip(inputs) {
            *value = f32::from_le_bytes(bytes[index]);
        }
        values.sort_unstable_by(f32::total_cmp);
        *out = combine(&values) as f32;
    }
}
