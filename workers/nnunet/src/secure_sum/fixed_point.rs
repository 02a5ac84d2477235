//! Weights as integers modulo 2^64: a value of -1024 to 1024 in steps of 2^-32, times what its site counts.
//!
//! A float32 of 2^-8 or more in size is held exactly, a smaller one within 2^-33 (1.2e-10). What all sites count
//! together stays below 2^21, so the sum of their integers stays below 2^63 and is known from itself modulo 2^64.

/// Steps of one.
pub const SCALE: f64 = 4_294_967_296.0;
/// What a weight's size must stay below.
pub const RANGE: f32 = 1_024.0;

/// A weight as an integer, times what its site counts; none where it is out of range or not finite.
pub fn encode(value: f32, weight: u64) -> Option<u64> {
    // A number that is not finite compares false.
    let within = value.abs() < RANGE;
    within.then(|| {
        let steps = (f64::from(value) * SCALE).round_ties_even() as i64;
        (steps as u64).wrapping_mul(weight)
    })
}

/// The mean of which this is the sum, `total` being what all sites count.
pub fn decode(sum: u64, total: u64) -> f32 {
    (sum as i64 as f64 / (total as f64 * SCALE)) as f32
}

#[cfg(test)]
mod tests {
    use schemas::masking::LARGEST_TOTAL;

    use super::*;

    #[test]
    fn weights_survive_and_what_is_out_of_range_has_none() {
        for value in [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.003_906_25,
            1_023.999_9,
            -1_023.999_9,
            0.1,
            -0.7,
        ] {
            for weight in [1, 7, LARGEST_TOTAL] {
                assert_eq!(decode(encode(value, weight).unwrap(), weight), value);
            }
        }
        let small = 1e-5f32;
        let error = (decode(encode(small, 3).unwrap(), 3) - small).abs();
        assert!(f64::from(error) <= 0.5 / SCALE);
        for value in [1_024.0, -1_024.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(encode(value, 1), None, "{value}");
        }
        // The largest sum of both signs.
        let most = encode(1_023.999_9, LARGEST_TOTAL).unwrap();
        assert!((most as i64) > 0);
        assert!((encode(-1_023.999_9, LARGEST_TOTAL).unwrap() as i64) < 0);
    }
}
