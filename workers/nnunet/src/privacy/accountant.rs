//! The epsilon of a number of rounds, by Rényi differential privacy (Mironov 2017).
//!
//! The Gaussian mechanism of noise multiplier z has the Rényi divergence a / (2 z^2) at order a; rounds add up. What
//! epsilon follows at a delta is Balle et al. 2020 ("Hypothesis testing interpretations and Rényi differential
//! privacy"), proposition 12 in the form of Canonne et al. 2020, as Google's dp-accounting has it; the best order is
//! sought.

/// Orders that are tried, from 1.01 to a million.
const ORDERS: u32 = 20_000;

/// The epsilon at `delta` of `rounds` releases with this noise multiplier: the noise's standard deviation by the length
/// to which each update is cut. Two sets of data differ in whether they hold one unit or not.
pub fn epsilon(noise_multiplier: f64, rounds: u32, delta: f64) -> f64 {
    if rounds == 0 {
        return 0.0;
    }
    let divergence = f64::from(rounds) / (2.0 * noise_multiplier * noise_multiplier);
    let at = |order: f64| {
        let rdp = order * divergence;
        // The total variation is then below delta (Bretagnolle and Huber).
        if delta * delta + (-rdp).exp_m1() > 0.0 {
            return 0.0;
        }
        rdp + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0)
    };
    let orders = (0..=ORDERS).map(|step| 1.0 + 10f64.powf(-2.0 + 8.0 * f64::from(step) / f64::from(ORDERS)));
    orders.map(at).fold(f64::INFINITY, f64::min).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tests/oracle/privacy.py prints it.
    const DP_ACCOUNTING: &[(f64, u32, f64, f64)] = &[
        (0.3, 1, 1e-05, 20.3916),
        (0.3, 10, 1e-03, 92.5255),
        (0.3, 50, 1e-05, 388.189),
        (0.3, 50, 1e-08, 418.365),
        (0.3, 1000, 1e-05, 6057.26),
        (0.5, 1, 1e-05, 10.7249),
        (0.5, 10, 1e-03, 41.7142),
        (0.5, 50, 1e-05, 165.622),
        (0.5, 50, 1e-08, 183.8),
        (0.5, 1000, 1e-05, 2299.87),
        (1.0, 1, 1e-05, 4.72842),
        (1.0, 10, 1e-03, 15.4582),
        (1.0, 50, 1e-05, 57.2534),
        (1.0, 50, 1e-08, 66.4191),
        (1.0, 1000, 1e-05, 648.783),
        (2.0, 1, 1e-05, 2.16572),
        (2.0, 10, 1e-03, 6.23484),
        (2.0, 50, 1e-05, 22.0197),
        (2.0, 50, 1e-08, 26.6608),
        (2.0, 1000, 1e-05, 198.536),
        (4.0, 1, 1e-05, 1.01229),
        (4.0, 10, 1e-03, 2.66294),
        (4.0, 50, 1e-05, 9.23405),
        (4.0, 50, 1e-08, 11.5942),
        (4.0, 1000, 1e-05, 67.4225),
        (10.0, 1, 1e-05, 0.375265),
        (10.0, 10, 1e-03, 0.904526),
        (10.0, 50, 1e-05, 3.18898),
        (10.0, 50, 1e-08, 4.16007),
        (10.0, 1000, 1e-05, 19.0474),
        (30.0, 1, 1e-05, 0.114464),
        (30.0, 10, 1e-03, 0.251137),
        (30.0, 50, 1e-05, 0.949458),
        (30.0, 50, 1e-08, 1.28662),
        (30.0, 1000, 1e-05, 5.02393),
        (100.0, 1, 1e-05, 0.0308213),
        (100.0, 10, 1e-03, 0.0590575),
        (100.0, 50, 1e-05, 0.258118),
        (100.0, 50, 1e-08, 0.364621),
        (100.0, 1000, 1e-05, 1.30812),
    ];

    #[test]
    fn epsilons_are_those_of_dp_accounting() {
        for &(noise_multiplier, rounds, delta, expected) in DP_ACCOUNTING {
            let found = epsilon(noise_multiplier, rounds, delta);
            let differ = (found / expected - 1.0).abs();
            assert!(
                differ < 0.01,
                "{noise_multiplier}, {rounds}, {delta}: {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn more_rounds_and_less_noise_give_more_away() {
        assert_eq!(epsilon(1.0, 0, 1e-5), 0.0);
        for rounds in 1..50 {
            assert!(epsilon(1.0, rounds + 1, 1e-5) > epsilon(1.0, rounds, 1e-5));
            assert!(epsilon(1.1, rounds, 1e-5) < epsilon(1.0, rounds, 1e-5));
            assert!(epsilon(1.0, rounds, 1e-6) > epsilon(1.0, rounds, 1e-5));
        }
    }
}
