//! Learning rates. Set once at the start of an epoch.

/// How the learning rate falls with the epochs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// `initial (1 - epoch / total)^0.9` (nnunetv2/training/lr_scheduler/polylr.py).
    Poly,
    /// `initial (1 + cos(pi epoch / total)) / 2` (`nnUNetTrainerCosAnneal`).
    Cosine,
    /// Linear up to the initial rate in the first `epochs`, then poly over the rest (`nnUNetTrainer_warmup`).
    WarmUpThenPoly {
        /// Length of the rise.
        epochs: usize,
    },
}

impl Schedule {
    /// The learning rate of `epoch` (from 0) of `total` epochs; 0 from `total` on. `total` is the horizon of the
    /// whole training, over all rounds.
    pub fn learning_rate(self, initial: f64, epoch: usize, total: usize) -> f64 {
        if epoch >= total {
            return 0.0;
        }
        let poly = |epoch: usize, total: usize| initial * (1.0 - epoch as f64 / total as f64).powf(0.9);
        match self {
            Self::Poly => poly(epoch, total),
            Self::Cosine => {
                initial * (1.0 + (std::f64::consts::PI * epoch as f64 / total as f64).cos()) / 2.0
            }
            Self::WarmUpThenPoly { epochs } if epoch < epochs => initial / epochs as f64 * (1 + epoch) as f64,
            Self::WarmUpThenPoly { epochs } => poly(epoch - epochs, total - epochs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by nnU-Net's PolyLRScheduler, CosineAnnealingLR and nnUNetTrainer_warmup's schedulers.
    #[test]
    fn rates_are_pythons() {
        for (schedule, epoch, total, expected) in [
            (Schedule::Poly, 0, 1000, 0.01),
            (Schedule::Poly, 7, 20, 0.006786127592581251),
            (Schedule::Poly, 999, 1000, 1.995262314968881e-05),
            (Schedule::Cosine, 250, 1000, 0.008535533905932738),
            (Schedule::WarmUpThenPoly { epochs: 50 }, 0, 1000, 0.0002),
            (Schedule::WarmUpThenPoly { epochs: 50 }, 49, 1000, 0.01),
            (
                Schedule::WarmUpThenPoly { epochs: 50 },
                525,
                1000,
                0.005358867312681466,
            ),
        ] {
            let rate = schedule.learning_rate(0.01, epoch, total);
            assert!(
                (rate - expected).abs() < 1e-15,
                "{schedule:?} {epoch}: {rate} for {expected}"
            );
        }
        assert_eq!(Schedule::Poly.learning_rate(0.01, 5, 5), 0.0);
    }
}
