//! What the rounds brought: losses, the pooled pseudo Dice, and the best average.
//!
//! nnU-Net: `nnUNetTrainer.on_validation_epoch_end` (counts summed over ranks, Dice per class, mean over the
//! classes that appeared) and `nnUNetLogger.log` (0.9 of the last moving average, 0.1 of the new value).

use schemas::{
    event::{Accepted, Best, History, HistoryEpoch, Release, Score},
    names::Phase,
    task::{EpochReport, TaskInput, TaskOutput, Validation, Weights},
};

use super::{
    next::Outputs,
    plan_verify,
    record::{Record, Step},
};

/// A job's history, with the earlier rounds that it continues, and its best average.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scored {
    /// All rounds so far.
    pub history: History,
    /// The average with the strictly greatest moving average; none before one was scored.
    pub best: Option<Best>,
    /// How many of the job's releases were looked at.
    releases: usize,
}

impl Scored {
    /// What a job that was just accepted goes on from.
    pub fn at_start(accepted: &Accepted) -> Self {
        let earlier = accepted.continues.as_ref();
        Self {
            history: earlier.map(|earlier| earlier.history.clone()).unwrap_or_default(),
            best: earlier.and_then(|earlier| earlier.best.clone()),
            releases: 0,
        }
    }

    /// Takes the releases that another one follows: nothing that is said late changes what they brought.
    pub fn go_on(&mut self, record: &Record) {
        let Some(accepted) = &record.accepted else {
            return;
        };
        while let Some(release) = record.releases.get(self.releases)
            && self.releases + 1 < record.releases.len()
        {
            // The release behind it may be read before the results that it follows from.
            let Some(outputs) = record.outputs(release) else {
                return;
            };
            self.step(record, accepted, release, &outputs);
            self.releases += 1;
        }
    }

    /// Takes a step that sites have trained or scored in; others bring nothing.
    fn step(&mut self, record: &Record, accepted: &Accepted, release: &Release, outputs: &Outputs) {
        let step = Step::of(release);
        let Some(TaskInput::TrainRound {
            base, epochs_before, ..
        }) = release.work.first().map(|work| &work.input)
        else {
            return;
        };
        let cases = plan_verify::training_cases(record);
        let trained = outputs.iter().filter_map(|(site, outputs)| match &outputs[..] {
            [
                TaskOutput::Trained {
                    epochs, validation, ..
                },
            ] => Some(Trained {
                site,
                weight: cases.get(site).copied().map_or(0.0, f64::from),
                epochs,
                validation,
            }),
            _ => None,
        });
        let trained: Vec<Trained<'_>> = trained.collect();
        let absent = accepted.members.iter().map(|member| &member.site);
        let absent = absent.filter(|site| !trained.iter().any(|part| part.site == *site));
        self.score(step.round + step.pass, base, &trained, absent.cloned().collect());
        if step.phase == Phase::TrainRound && step.pass == 0 {
            self.epochs(step.round, *epochs_before, &trained);
        }
    }
}

/// The history of all training rounds that are done, the last release's too.
pub(super) fn of(record: &Record, accepted: &Accepted) -> Scored {
    let mut scored = record.scored().clone();
    if let Some(last) = record.releases.last()
        && let Some(outputs) = record.outputs(last)
    {
        scored.step(record, accepted, last, &outputs);
    }
    scored
}

/// One site's part in a round.
struct Trained<'a> {
    site: &'a str,
    weight: f64,
    epochs: &'a [EpochReport],
    validation: &'a Validation,
}

impl Scored {
    fn score(&mut self, round: u32, weights: &Weights, trained: &[Trained<'_>], without: Vec<String>) {
        let dice = pooled_dice(trained.iter().map(|part| part.validation));
        let mean_dice = mean_of(&dice);
        let last = self.history.scores.last().and_then(|score| score.ema_dice);
        let ema_dice = match (weights, last, mean_dice) {
            (Weights::Initial { .. }, ..) => None,
            (_, Some(last), Some(mean)) => Some(0.9 * last + 0.1 * mean),
            (_, last, mean) => mean.or(last),
        };
        if let (Weights::Average { artifact }, Some(ema_dice)) = (weights, ema_dice)
            && self.best.as_ref().is_none_or(|best| ema_dice > best.ema_dice)
        {
            self.best = Some(Best {
                ema_dice,
                weights: artifact.clone(),
            });
        }
        self.history.scores.push(Score {
            round,
            weights: weights.digest().to_owned(),
            dice,
            mean_dice,
            ema_dice,
            loss: weighted(trained.iter().map(|part| (part.validation.loss, part.weight))),
            on_training_cases: trained.iter().any(|part| part.validation.on_training_cases),
            without,
        });
    }

    fn epochs(&mut self, round: u32, epochs_before: u32, trained: &[Trained<'_>]) {
        // Where a round's time is limited, not all sites come to its last epochs.
        let count = trained.iter().map(|part| part.epochs.len()).max().unwrap_or(0);
        for index in 0..count {
            let came = || {
                trained
                    .iter()
                    .filter_map(|part| Some((part, part.epochs.get(index)?)))
            };
            let losses = came().map(|(part, epoch)| (epoch.train_loss, part.weight));
            let sites = came().map(|(part, epoch)| (part.site.to_owned(), epoch.train_loss));
            self.history.epochs.push(HistoryEpoch {
                epoch: epochs_before + index as u32,
                round,
                learning_rate: came().next().map_or(0.0, |(_, epoch)| epoch.learning_rate),
                train_loss: weighted(losses),
                sites: sites.collect(),
            });
        }
    }
}

/// 2 TP / (2 TP + FP + FN) per class, of counts summed over sites; none where the class never appeared.
pub(super) fn pooled_dice<'a>(parts: impl Iterator<Item = &'a Validation>) -> Vec<Option<f64>> {
    let mut sums: Vec<[u64; 3]> = Vec::new();
    for part in parts {
        sums.resize(sums.len().max(part.true_positives.len()), [0; 3]);
        let counts = part
            .true_positives
            .iter()
            .zip(&part.false_positives)
            .zip(&part.false_negatives);
        for (sum, ((tp, fp), fn_)) in sums.iter_mut().zip(counts) {
            *sum = [
                sum[0].saturating_add(*tp),
                sum[1].saturating_add(*fp),
                sum[2].saturating_add(*fn_),
            ];
        }
    }
    let dice = |counts: [u64; 3]| {
        let [tp, fp, fn_] = counts.map(|count| count as f64);
        let denominator = 2.0 * tp + fp + fn_;
        (denominator > 0.0).then(|| 2.0 * tp / denominator)
    };
    sums.into_iter().map(dice).collect()
}

/// The mean over the classes that appeared; none where none did.
pub(super) fn mean_of(dice: &[Option<f64>]) -> Option<f64> {
    let appeared: Vec<f64> = dice.iter().flatten().copied().collect();
    (!appeared.is_empty()).then(|| appeared.iter().sum::<f64>() / appeared.len() as f64)
}

/// The mean of values by weights; the plain mean where no weight is above 0.
fn weighted(values: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let total: f64 = values.clone().map(|(_, weight)| weight).sum();
    if total > 0.0 {
        return values.map(|(value, weight)| value * weight).sum::<f64>() / total;
    }
    let count = values.clone().count().max(1);
    values.map(|(value, _)| value).sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validation(tp: &[u64], fp: &[u64], fn_: &[u64]) -> Validation {
        Validation {
            true_positives: tp.to_vec(),
            false_positives: fp.to_vec(),
            false_negatives: fn_.to_vec(),
            loss: 0.0,
            on_training_cases: false,
        }
    }

    #[test]
    fn dice_pools_counts_not_scores() {
        let a = validation(&[8, 0], &[2, 0], &[2, 0]);
        let b = validation(&[0, 0], &[10, 0], &[10, 0]);
        assert_eq!(pooled_dice([&a, &b].into_iter()), [Some(0.4), None]);
    }

    #[test]
    fn the_moving_average_starts_at_the_first_average() {
        let mut scored = Scored::default();
        let artifact = |digest: &str| schemas::task::ArtifactRef {
            owner: "global".into(),
            job: "j".into(),
            digest: digest.into(),
            size: 1,
        };
        let initial = Weights::Initial { digest: "0".into() };
        let weights = [("1", 5), ("2", 3), ("3", 9), ("4", 3)];
        scored.score(0, &initial, &[], Vec::new());
        for (digest, tp) in weights {
            let validation = validation(&[tp], &[10 - tp], &[10 - tp]);
            let part = Trained {
                site: "a",
                weight: 1.0,
                epochs: &[],
                validation: &validation,
            };
            let average = Weights::Average {
                artifact: artifact(digest),
            };
            scored.score(0, &average, &[part], Vec::new());
        }
        let emas: Vec<_> = scored.history.scores.iter().map(|score| score.ema_dice).collect();
        assert_eq!(emas[0], None);
        let expected = [0.5, 0.48, 0.522, 0.4998];
        for (ema, expected) in emas[1..].iter().zip(expected) {
            assert!((ema.unwrap() - expected).abs() < 1e-12, "{emas:?}");
        }
        assert_eq!(scored.best.unwrap().weights.digest, "3");
    }
}
