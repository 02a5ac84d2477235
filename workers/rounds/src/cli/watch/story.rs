//! What a watched job's messages tell, in lines and in figures. Knows no terminal.

use std::collections::BTreeMap;

use async_nats::datetime::parse_rfc3339;
use schemas::{
    event::{Accepted, Release},
    job::Payload,
    names::Phase,
    task::{Outcome, TaskOutput, TaskResult, Validation},
};

/// What was told so far.
#[derive(Default)]
pub struct Story {
    /// Rounds to train.
    pub rounds: u32,
    /// Rounds averaged.
    pub averaged: u32,
    /// The first round, where the job continues another.
    first: u32,
    /// The step that the job is at: phase, round and pass.
    pub at: Option<(Phase, u32, u32)>,
    /// Sites of that step that have not answered, with the shards that are open.
    pub open: BTreeMap<String, u32>,
    /// Mean pseudo Dice of the last scored weights.
    pub dice: Option<f64>,
    /// What the sites of the step found for the weights it started from.
    scores: Vec<Validation>,
    /// When rounds were averaged, by the orchestrator's clock, in seconds since 1970.
    times: Vec<f64>,
}

impl Story {
    /// The job was taken on.
    pub fn accepted(&mut self, accepted: &Accepted) {
        if let Payload::Training(training) = &accepted.message.payload {
            (self.rounds, self.first) = (training.num_rounds, training.starting_fed_round);
        }
    }

    /// A step was released.
    pub fn released(&mut self, release: &Release) -> Vec<String> {
        self.at = Some((release.phase, release.round, release.pass));
        self.open = release
            .work
            .iter()
            .map(|work| (work.site.clone(), work.shards))
            .collect();
        self.scores.clear();
        let sites: Vec<&str> = release.work.iter().map(|work| &*work.site).collect();
        let without = match &release.without[..] {
            [] => String::new(),
            late => format!(" (without {})", late.join(", ")),
        };
        vec![format!("{}: {}{without}", self.step(), sites.join(", "))]
    }

    /// What the job is at, in words.
    pub fn step(&self) -> String {
        match self.at {
            None => "waiting".to_owned(),
            Some((Phase::TrainRound, round, 0)) => format!("train-round {round}"),
            Some((Phase::TrainRound, round, 2)) => format!("train-round {round}, making keys"),
            Some((Phase::TrainRound, round, 3)) => format!("train-round {round}, sharing secrets"),
            Some((Phase::TrainRound, round, 4)) => format!("train-round {round}, taking the masks off"),
            Some((Phase::TrainRound, ..)) => "train-round, scoring the last average".to_owned(),
            Some((Phase::Average, round, 0)) => format!("average {round}"),
            Some((Phase::Average, ..)) => "average, writing the results folder".to_owned(),
            Some((phase, _, 0)) => phase.to_string(),
            Some((phase, _, pass)) => format!("{phase}, pass {pass}"),
        }
    }

    /// A task was answered.
    pub fn answered(&mut self, result: &TaskResult) -> Vec<String> {
        let key = &result.key;
        let current = self.at == Some((key.phase, key.round, key.pass));
        if current
            && matches!(result.outcome, Outcome::Done { .. })
            && let Some(shards) = self.open.get_mut(&key.site)
        {
            *shards = shards.saturating_sub(1);
            if *shards == 0 {
                self.open.remove(&key.site);
            }
        }
        match &result.outcome {
            Outcome::Done {
                output: TaskOutput::Trained {
                    epochs, validation, ..
                },
            } => {
                let loss = epochs.last().map_or(String::new(), |epoch| {
                    format!(", train_loss {:.4} ({:.0} s)", epoch.train_loss, epoch.seconds)
                });
                let site = &key.site;
                let mut lines = vec![format!(
                    "  {site}: val_loss {:.4} before the round{loss}",
                    validation.loss
                )];
                if current {
                    self.scores.push(validation.clone());
                    if self.open.is_empty() {
                        lines.extend(self.scored());
                    }
                }
                lines
            }
            Outcome::Done {
                output: TaskOutput::Averaged { .. },
            } if current => {
                let finished = result
                    .made
                    .as_ref()
                    .and_then(|made| parse_rfc3339(&made.finished).ok());
                self.times
                    .extend(finished.map(|time| time.unix_timestamp() as f64));
                self.averaged = key.round + 1 - self.first.min(key.round);
                let left = match self.seconds_left() {
                    Some(seconds) if self.averaged < self.rounds => {
                        format!(", about {} left", duration(seconds))
                    }
                    _ => String::new(),
                };
                vec![format!(
                    "  round {} of {} averaged{left}",
                    self.averaged, self.rounds
                )]
            }
            Outcome::Failed { failure } => vec![format!(
                "  {}: attempt {} failed: {}: {}",
                key.site, key.attempt, failure.code, failure.message
            )],
            Outcome::Done { .. } | Outcome::Closed { .. } => Vec::new(),
        }
    }

    /// The pooled Dice of the weights that the round started from, once all sites have scored them.
    fn scored(&mut self) -> Option<String> {
        let classes = self.scores.first()?.true_positives.len();
        let sum = |of: fn(&Validation) -> &Vec<u64>, class: usize| -> f64 {
            let counts = self.scores.iter().filter_map(|score| of(score).get(class));
            counts.map(|count| *count as f64).sum()
        };
        let dice = (0..classes).filter_map(|class| {
            let (tp, fp, fn_) = (
                sum(|score| &score.true_positives, class),
                sum(|score| &score.false_positives, class),
                sum(|score| &score.false_negatives, class),
            );
            let all = 2.0 * tp + fp + fn_;
            (all > 0.0).then_some(2.0 * tp / all)
        });
        let dice: Vec<f64> = dice.collect();
        if dice.is_empty() {
            return None;
        }
        let mean = dice.iter().sum::<f64>() / dice.len() as f64;
        self.dice = Some(mean);
        let of = match self.averaged {
            0 => "the weights it starts from".to_owned(),
            rounds => format!("the average after {rounds} of {} rounds", self.rounds),
        };
        let label = match self.scores.iter().all(|score| score.on_training_cases) {
            true => "Dice on training cases",
            false => "Dice",
        };
        Some(format!("  {of}: {label} {mean:.4}"))
    }

    /// Seconds until the last round is averaged, if the next rounds take as long as those seen. None before two
    /// rounds were averaged.
    pub fn seconds_left(&self) -> Option<f64> {
        let (first, last) = (self.times.first()?, self.times.last()?);
        let seen = self.times.len() - 1;
        let left = f64::from(self.rounds.saturating_sub(self.averaged));
        (seen > 0).then(|| (last - first).max(0.0) / seen as f64 * left)
    }
}

/// A length of time in words: `40 s`, `12 min`, `3 h 20 min`.
pub fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0..2 => format!("{seconds:.0} s"),
        2..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use schemas::task::{ArtifactRef, EpochReport, Made, TaskKey};
    use serde_json::json;

    use super::*;

    fn release(phase: Phase, round: u32, sites: &[&str]) -> Release {
        let work: Vec<_> = sites
            .iter()
            .map(|site| json!({ "site": site, "shards": 1, "input": { "kind": "inventory" } }))
            .collect();
        let release = json!({ "job": "j", "phase": phase, "round": round, "pass": 0, "work": work });
        serde_json::from_value(release).unwrap()
    }

    fn result(site: &str, phase: Phase, round: u32, finished: &str, output: TaskOutput) -> TaskResult {
        TaskResult {
            key: TaskKey {
                site: site.into(),
                phase,
                job: "j".into(),
                round,
                pass: 0,
                shard: 0,
                attempt: 1,
            },
            outcome: Outcome::Done { output },
            made: Some(Made {
                worker: "w".into(),
                version: "v".into(),
                device: "cpu".into(),
                threads: 1,
                instruction_set: String::new(),
                started: finished.into(),
                finished: finished.into(),
            }),
            signature: None,
        }
    }

    fn trained(tp: u64, wrong: u64) -> TaskOutput {
        TaskOutput::Trained {
            update: None,
            epochs: vec![EpochReport {
                epoch: 0,
                learning_rate: 0.01,
                train_loss: 0.5,
                iterations: 4,
                seconds: 3.0,
            }],
            validation: Validation {
                true_positives: vec![tp],
                false_positives: vec![wrong],
                false_negatives: vec![wrong],
                loss: 0.25,
                on_training_cases: false,
            },
            base: String::new(),
            update_norm: None,
        }
    }

    fn averaged() -> TaskOutput {
        TaskOutput::Averaged {
            global: ArtifactRef {
                owner: "global".into(),
                job: "j".into(),
                digest: String::new(),
                size: 1,
            },
            bounded: Vec::new(),
        }
    }

    #[test]
    fn rounds_are_told_with_dice_and_time_left() {
        let mut story = Story {
            rounds: 4,
            ..Story::default()
        };
        let mut told = Vec::new();
        for (round, minute) in [(0, "10:00"), (1, "10:10")] {
            let at = format!("2026-01-01T{minute}:00Z");
            told.extend(story.released(&release(Phase::TrainRound, round, &["a", "b"])));
            told.extend(story.answered(&result("a", Phase::TrainRound, round, &at, trained(40, 10))));
            assert_eq!(story.open.keys().collect::<Vec<_>>(), ["b"]);
            told.extend(story.answered(&result("b", Phase::TrainRound, round, &at, trained(10, 40))));
            told.extend(story.released(&release(Phase::Average, round, &["orchestrator"])));
            told.extend(story.answered(&result("orchestrator", Phase::Average, round, &at, averaged())));
        }
        assert_eq!(
            told,
            [
                "train-round 0: a, b",
                "  a: val_loss 0.2500 before the round, train_loss 0.5000 (3 s)",
                "  b: val_loss 0.2500 before the round, train_loss 0.5000 (3 s)",
                "  the weights it starts from: Dice 0.5000",
                "average 0: orchestrator",
                "  round 1 of 4 averaged",
                "train-round 1: a, b",
                "  a: val_loss 0.2500 before the round, train_loss 0.5000 (3 s)",
                "  b: val_loss 0.2500 before the round, train_loss 0.5000 (3 s)",
                "  the average after 1 of 4 rounds: Dice 0.5000",
                "average 1: orchestrator",
                "  round 2 of 4 averaged, about 20 min left",
            ]
        );
    }

    #[test]
    fn times_are_said_in_words() {
        let said = [0.4, 61.0, 600.0, 12_000.0].map(duration);
        assert_eq!(said, ["0 s", "61 s", "10 min", "3 h 20 min"]);
    }
}
