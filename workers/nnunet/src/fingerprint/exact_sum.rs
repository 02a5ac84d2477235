//! Sums without rounding.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A sum in fixed point, in two's complement over 64 bits times `LIMBS`, least significant limb first.
///
/// Adding is exact and so independent of order. Serialised as hex, most significant digit first.
/// The last bit is worth 2^-149 in a sum of float32 values, 2^-298 in a sum of their squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExactSum<const LIMBS: usize> {
    limbs: [u64; LIMBS],
}

/// Holds the sum of 2^64 float32 values.
pub type Sum = ExactSum<6>;
/// Holds the sum of 2^64 squares of float32 values.
pub type SumOfSquares = ExactSum<10>;

/// The exponent of the last bit of a float32.
const LAST_BIT: i32 = -149;

impl<const LIMBS: usize> Default for ExactSum<LIMBS> {
    fn default() -> Self {
        Self { limbs: [0; LIMBS] }
    }
}

impl Sum {
    /// Adds a finite value `count` times.
    pub fn add(&mut self, value: f32, count: u32) {
        let (mantissa, shift) = parts(value);
        self.add_shifted(
            u128::from(mantissa) * u128::from(count),
            shift,
            value.is_sign_negative(),
        );
    }
}

impl SumOfSquares {
    /// Adds the square of a finite value `count` times.
    pub fn add_square(&mut self, value: f32, count: u32) {
        let (mantissa, shift) = parts(value);
        let square = u128::from(mantissa) * u128::from(mantissa);
        self.add_shifted(square * u128::from(count), 2 * shift, false);
    }
}

/// |value| = mantissa * 2^(shift - 149), the mantissa under 2^24.
fn parts(value: f32) -> (u32, usize) {
    let bits = value.to_bits();
    let (exponent, fraction) = (bits >> 23 & 0xff, bits & 0x7f_ffff);
    if exponent == 0 {
        (fraction, 0)
    } else {
        (fraction | 0x80_0000, exponent as usize - 1)
    }
}

impl<const LIMBS: usize> ExactSum<LIMBS> {
    /// How many numbers [`halves`](Self::halves) gives.
    pub(super) const HALVES: usize = 2 * LIMBS;

    /// The limbs cut in two, least significant first: numbers below 2^32, which add up without carrying.
    pub(super) fn halves(&self) -> impl Iterator<Item = u64> + '_ {
        let cut = |limb: &u64| [limb & 0xffff_ffff, limb >> 32];
        self.limbs.iter().flat_map(cut)
    }

    /// The sum of which these are the halves of the limbs, or the sums of the halves of fewer than 2^32 such sums.
    pub(super) fn from_halves(halves: &[u64]) -> Self {
        let mut sum = Self::default();
        let mut carry = 0u64;
        for (limb, pair) in sum.limbs.iter_mut().zip(halves.chunks_exact(2)) {
            for (place, half) in pair.iter().enumerate() {
                let total = half.wrapping_add(carry);
                *limb |= (total & 0xffff_ffff) << (32 * place);
                carry = total >> 32;
            }
        }
        sum
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, &other) in self.limbs.iter_mut().zip(&other.limbs) {
            (*limb, carry) = limb.carrying_add_(other, carry);
        }
    }

    /// Adds or subtracts `magnitude` * 2^`shift`.
    fn add_shifted(&mut self, magnitude: u128, shift: usize, negative: bool) {
        let (first, bits) = (shift / 64, shift % 64);
        let low = u128::from(magnitude as u64) << bits;
        let high = (magnitude >> 64) << bits;
        let middle = (low >> 64) + u128::from(high as u64);
        let addend = [low as u64, middle as u64, ((high >> 64) + (middle >> 64)) as u64];
        let mut carry = false;
        for (i, limb) in self.limbs[first..].iter_mut().enumerate() {
            let part = addend.get(i).copied().unwrap_or(0);
            if i >= addend.len() && !carry {
                break;
            }
            (*limb, carry) = if negative {
                limb.borrowing_sub_(part, carry)
            } else {
                limb.carrying_add_(part, carry)
            };
        }
    }

    /// The sign and the magnitude, least significant limb first.
    fn magnitude(&self) -> (bool, Vec<u64>) {
        let negative = self.limbs[LIMBS - 1] >> 63 == 1;
        let mut limbs = self.limbs.to_vec();
        if negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).carrying_add_(0, carry);
            }
        }
        (negative, limbs)
    }
}

/// Mean and standard deviation (without Bessel's correction) of `count` values. `count` is not 0.
pub(super) fn mean_and_deviation(count: u64, sum: &Sum, squares: &SumOfSquares) -> (f64, f64) {
    let n = count as f64;
    let (negative, magnitude) = sum.magnitude();
    let mean = to_f64(&magnitude, LAST_BIT) / n;
    // n * sum(x^2) - sum(x)^2 is exact and not negative; its last bit is that of the squares.
    let mut spread = multiply(&squares.magnitude().1, &[count]);
    subtract(&mut spread, &multiply(&magnitude, &magnitude));
    let variance = to_f64(&spread, 2 * LAST_BIT) / n / n;
    (if negative { -mean } else { mean }, variance.sqrt())
}

fn multiply(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut product = vec![0u64; a.len() + b.len()];
    for (i, &a) in a.iter().enumerate() {
        let mut carry = 0u128;
        for (j, &b) in b.iter().enumerate() {
            let term = u128::from(a) * u128::from(b) + u128::from(product[i + j]) + carry;
            product[i + j] = term as u64;
            carry = term >> 64;
        }
        product[i + b.len()] = carry as u64;
    }
    product
}

/// `a -= b`, both taken as unsigned; `a` is at least `b`.
fn subtract(a: &mut Vec<u64>, b: &[u64]) {
    a.resize(a.len().max(b.len()), 0);
    let mut borrow = false;
    for (i, limb) in a.iter_mut().enumerate() {
        (*limb, borrow) = limb.borrowing_sub_(b.get(i).copied().unwrap_or(0), borrow);
    }
}

/// magnitude * 2^exponent, rounded once.
fn to_f64(magnitude: &[u64], exponent: i32) -> f64 {
    let Some(top) = magnitude.iter().rposition(|&limb| limb != 0) else {
        return 0.0;
    };
    let below = |i: usize| if top >= i { magnitude[top - i] } else { 0 };
    // 128 bits hold the 53 that count; the last of them stands for all that was cut off.
    let sticky = magnitude[..top.saturating_sub(1)].iter().any(|&limb| limb != 0);
    let leading = u128::from(below(0)) << 64 | u128::from(below(1)) | u128::from(sticky);
    leading as f64 * 2f64.powi(exponent + 64 * (top as i32 - 1))
}

/// Addition and subtraction with carry; the standard library's are not stable yet.
trait Carrying: Sized {
    fn carrying_add_(self, other: Self, carry: bool) -> (Self, bool);
    fn borrowing_sub_(self, other: Self, borrow: bool) -> (Self, bool);
}

impl Carrying for u64 {
    fn carrying_add_(self, other: u64, carry: bool) -> (u64, bool) {
        let (sum, over) = self.overflowing_add(other);
        let (sum, over_again) = sum.overflowing_add(u64::from(carry));
        (sum, over | over_again)
    }

    fn borrowing_sub_(self, other: u64, borrow: bool) -> (u64, bool) {
        let (difference, under) = self.overflowing_sub(other);
        let (difference, under_again) = difference.overflowing_sub(u64::from(borrow));
        (difference, under | under_again)
    }
}

impl<const LIMBS: usize> Serialize for ExactSum<LIMBS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self
            .limbs
            .iter()
            .rev()
            .map(|limb| format!("{limb:016x}"))
            .collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de, const LIMBS: usize> Deserialize<'de> for ExactSum<LIMBS> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = || D::Error::custom(format!("expected {} hexadecimal digits", 16 * LIMBS));
        let digits = text.as_bytes();
        if digits.len() != 16 * LIMBS || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(expected());
        }
        let mut sum = Self::default();
        for (limb, digits) in sum.limbs.iter_mut().rev().zip(digits.chunks(16)) {
            let digits = std::str::from_utf8(digits).map_err(|_| expected())?;
            *limb = u64::from_str_radix(digits, 16).map_err(|_| expected())?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statistics(values: &[f32]) -> (f64, f64) {
        let (mut sum, mut squares) = (Sum::default(), SumOfSquares::default());
        for &value in values {
            sum.add(value, 1);
            squares.add_square(value, 1);
        }
        mean_and_deviation(values.len() as u64, &sum, &squares)
    }

    #[test]
    fn nothing_is_lost_to_cancellation() {
        assert_eq!(
            statistics(&[f32::MAX, 1e-45, -f32::MAX, 0.0]).0,
            f64::from(1e-45f32) / 4.0
        );
        assert_eq!(statistics(&[1e8, 1e8, 1e8]), (1e8, 0.0));
        assert_eq!(statistics(&[-1.0, 3.0]), (1.0, 2.0));
        let (mean, deviation) = statistics(&[f32::MAX; 7]);
        assert_eq!((mean, deviation), (f64::from(f32::MAX), 0.0));
    }

    proptest! {
        #[test]
        fn counts_and_order_do_not_matter(
            values in proptest::collection::vec((-1e30f32..1e30, 1u32..50), 1..20), cut in 0usize..20
        ) {
            let (mut whole, mut squares) = (Sum::default(), SumOfSquares::default());
            for &(value, count) in &values {
                whole.add(value, count);
                squares.add_square(value, count);
            }
            let cut = cut.min(values.len());
            let (mut first, mut second) = (Sum::default(), Sum::default());
            for &(value, count) in values[cut..].iter().rev() {
                for _ in 0..count {
                    first.add(value, 1);
                }
            }
            values[..cut].iter().for_each(|&(value, count)| second.add(value, count));
            first.merge(&second);
            prop_assert_eq!(first, whole);
            let text = serde_json::to_string(&whole).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sum>(&text).unwrap(), whole);
            // Against plain float64, which is good to about 1e-15 of the largest term.
            let n: u64 = values.iter().map(|&(_, count)| u64::from(count)).sum();
            let (mean, deviation) = mean_and_deviation(n, &whole, &squares);
            let weighted = |f: &dyn Fn(f64) -> f64| {
                values.iter().map(|&(value, count)| f(f64::from(value)) * f64::from(count)).sum::<f64>() / n as f64
            };
            let plain = weighted(&|x| x);
            prop_assert!((mean - plain).abs() <= 1e-12 * weighted(&f64::abs));
            let plain = weighted(&|x| (x - plain).powi(2)).sqrt();
            prop_assert!((deviation - plain).abs() <= 1e-9 * plain.max(1e-6 * mean.abs()));
        }
    }
}
