//! Shamir's secret sharing (1979) over GF(2^8), byte by byte: any `threshold` shares rebuild the secret, fewer say
//! nothing about it.
//!
//! The field is that of AES, x^8 + x^4 + x^3 + x + 1. No step depends on what is secret, in time or in memory.

use rand::RngCore;

use super::Bytes32;

/// The product in the field.
fn product(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= a & (b & 1).wrapping_neg();
        let carry = (a >> 7).wrapping_neg();
        a = (a << 1) ^ (carry & 0x1b);
        b >>= 1;
    }
    product
}

/// The inverse, a^254; of 0 it is 0.
fn inverse(a: u8) -> u8 {
    let mut power = a;
    let mut inverse = 1;
    // 254 is 11111110 in binary.
    for _ in 0..7 {
        power = product(power, power);
        inverse = product(inverse, power);
    }
    inverse
}

/// One share for each of the places, which are unlike and not 0: values of a random polynomial of degree
/// `threshold - 1` whose value at 0 is the secret.
pub fn split(secret: &Bytes32, threshold: usize, places: &[u8], random: &mut impl RngCore) -> Vec<Bytes32> {
    let mut coefficients = vec![*secret];
    coefficients.resize_with(threshold.max(1), || {
        let mut coefficient = [0; 32];
        random.fill_bytes(&mut coefficient);
        coefficient
    });
    let share = |&place: &u8| {
        let mut share = [0; 32];
        for coefficient in coefficients.iter().rev() {
            for (value, coefficient) in share.iter_mut().zip(coefficient) {
                *value = product(*value, place) ^ coefficient;
            }
        }
        share
    };
    places.iter().map(share).collect()
}

/// The secret of these shares, each with its place: the polynomial's value at 0 by Lagrange. Wrong where they are
/// fewer than the threshold, or one is wrong.
pub fn combine(shares: &[(u8, Bytes32)]) -> Bytes32 {
    let mut secret = [0; 32];
    for (place, share) in shares {
        let mut factor = 1;
        for (other, _) in shares.iter().filter(|(other, _)| other != place) {
            factor = product(factor, product(*other, inverse(*other ^ place)));
        }
        for (value, share) in secret.iter_mut().zip(share) {
            *value ^= product(*share, factor);
        }
    }
    secret
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, 4.2: {57} x {83} = {c1}, {57} x {13} = {fe}.
        assert_eq!((product(0x57, 0x83), product(0x57, 0x13)), (0xc1, 0xfe));
        for a in 1..=255 {
            assert_eq!(product(a, inverse(a)), 1, "{a}");
        }
    }

    #[test]
    fn any_threshold_of_shares_rebuild_the_secret_and_fewer_do_not() {
        let mut random = ChaCha20Rng::seed_from_u64(1);
        for (threshold, count) in [(1, 1), (2, 3), (3, 5), (20, 32), (255, 255)] {
            let mut secret = [0; 32];
            random.fill_bytes(&mut secret);
            let places: Vec<u8> = (1..=count).collect();
            let shares = split(&secret, threshold, &places, &mut random);
            let all: Vec<(u8, Bytes32)> = places.into_iter().zip(shares).collect();
            for start in [0, (all.len() - threshold) / 2, all.len() - threshold] {
                let mut some = all[start..start + threshold].to_vec();
                some.reverse();
                assert_eq!(combine(&some), secret);
                if threshold > 1 {
                    assert_ne!(combine(&some[1..]), secret);
                }
            }
        }
    }
}
