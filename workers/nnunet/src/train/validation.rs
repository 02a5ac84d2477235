//! How good the network is: counts of voxels, pseudo-Dice, its moving average, and which weights are the best.
//! nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py, `on_validation_epoch_end` and `on_epoch_end`.

use crate::{Error, Result};

/// Counts of voxels over the validation patches, one entry per foreground class or per region, and the loss.
/// Counts are integers, so sites are pooled in any order with the same result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidationCounts {
    /// Predicted and true.
    pub true_positives: Vec<u64>,
    /// Predicted, not true.
    pub false_positives: Vec<u64>,
    /// True, not predicted.
    pub false_negatives: Vec<u64>,
    /// Sum of the losses of the iterations.
    pub loss_sum: f64,
    /// Number of iterations.
    pub iterations: u64,
}

impl ValidationCounts {
    /// No voxel of `classes` foreground classes or regions.
    pub fn new(classes: usize) -> Self {
        Self {
            true_positives: vec![0; classes],
            false_positives: vec![0; classes],
            false_negatives: vec![0; classes],
            ..Self::default()
        }
    }

    /// Adds another site's counts, as nnU-Net's DDP pools its processes. Fails where the classes differ in number.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let classes = self.true_positives.len();
        for (ours, theirs) in [
            (&mut self.true_positives, &other.true_positives),
            (&mut self.false_positives, &other.false_positives),
            (&mut self.false_negatives, &other.false_negatives),
        ] {
            if theirs.len() != classes || ours.len() != classes {
                return Err(Error::invalid(
                    "validation counts",
                    format!("{} classes, expected {classes}", theirs.len()),
                ));
            }
            ours.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.loss_sum += other.loss_sum;
        self.iterations += other.iterations;
        Ok(())
    }

    /// Mean loss of an iteration; NaN without iterations.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.iterations as f64
    }

    /// Pseudo-Dice `2 TP / (2 TP + FP + FN)` per class or region, in float32 as nnU-Net's; NaN where a class is
    /// neither true nor predicted.
    pub fn dice(&self) -> Vec<f32> {
        (0..self.true_positives.len())
            .map(|i| {
                let tp = self.true_positives[i] as f32;
                2.0 * tp / (2.0 * tp + self.false_positives[i] as f32 + self.false_negatives[i] as f32)
            })
            .collect()
    }

    /// Mean of [`Self::dice`] over the classes that have one; NaN where none has.
    pub fn mean_dice(&self) -> f32 {
        let dice: Vec<f32> = self.dice().into_iter().filter(|d| !d.is_nan()).collect();
        dice.iter().sum::<f32>() / dice.len() as f32
    }
}

/// nnU-Net's moving average of the pseudo-Dice, by which the best weights are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BestByAverage {
    /// The moving average after the last epoch; None before the first.
    pub average: Option<f32>,
    /// The best so far; None before the first.
    pub best: Option<f32>,
}

impl BestByAverage {
    /// Takes the pseudo-Dice of the next epoch. True where the average is strictly better than all before: these
    /// weights are `checkpoint_best`. The average is `0.9 old + 0.1 new` in float32. As in nnU-Net a NaN, from an
    /// epoch without any foreground, stays in the average for good.
    pub fn update(&mut self, mean_dice: f32) -> bool {
        let average = self.average.map_or(mean_dice, |old| old * 0.9 + 0.1 * mean_dice);
        self.average = Some(average);
        let better = self.best.is_none_or(|best| average > best);
        if better {
            self.best = Some(average);
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_classes_do_not_count() {
        let mut counts = ValidationCounts::new(3);
        counts
            .merge(&ValidationCounts {
                true_positives: vec![3, 0, 0],
                false_positives: vec![1, 2, 0],
                false_negatives: vec![1, 0, 0],
                loss_sum: 0.5,
                iterations: 2,
            })
            .unwrap();
        assert_eq!(counts.dice()[..2], [0.75, 0.0]);
        assert!(counts.dice()[2].is_nan());
        assert_eq!(counts.mean_dice(), 0.375);
        assert_eq!(counts.loss(), 0.25);
        assert!(counts.merge(&ValidationCounts::new(2)).is_err());
    }

    #[test]
    fn best_needs_a_strictly_better_average() {
        let mut best = BestByAverage::default();
        assert!(best.update(0.5));
        assert!(!best.update(0.5));
        assert!(best.update(0.6));
        assert!(!best.update(0.0));
        assert_eq!(best.best, Some(0.5 * 0.9 + 0.1 * 0.6));
    }
}
