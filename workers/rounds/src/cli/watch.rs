//! `rounds watch`: a job, followed until it ends.

use std::{collections::BTreeMap, io::IsTerminal};

use anyhow::bail;
use clap::Args;
use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pipeline::{
    client::{Client, Watched},
    conductor::Waiting,
};
use schemas::{
    event::{Event, Failed, Finished, History, Release, Score},
    names::Phase,
    site::Progress,
    task::{Outcome, TaskOutput, TaskResult},
};

use super::Server;

/// Follow a job until it ends
#[derive(Args)]
pub struct Watch {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
}

impl Watch {
    /// Prints what happens until the job ends; fails where it fails.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client().await?;
        follow(&client, &self.job).await?;
        Ok(())
    }
}

/// Follows a job to its end. A job that failed or was cancelled is an error with its reason.
pub async fn follow(client: &Client, job: &str) -> anyhow::Result<Finished> {
    let mut watched = client.watch(job).await?;
    let mut view = View::default();
    while let Some(happened) = watched.next().await {
        match happened {
            Watched::Event(Event::Released(release)) => view.released(&release),
            Watched::Event(Event::Finished(finished)) => {
                view.clear();
                print_scores(&finished.history);
                return Ok(*finished);
            }
            Watched::Event(Event::Failed(failed)) => {
                view.clear();
                bail!("job {job} failed: {}", failure(&failed));
            }
            Watched::Event(Event::Cancelled(cancelled)) => {
                view.clear();
                bail!("job {job} was cancelled: {}", cancelled.reason);
            }
            Watched::Event(Event::Rejected(rejected)) => {
                bail!("job {job} was rejected: {}: {}", rejected.path, rejected.reason)
            }
            Watched::Event(Event::DeadlinePassed(passed)) => {
                let snapshot = client.snapshot(job).await?;
                let waiting = snapshot.record.waiting().filter(|_| snapshot.record.overdue());
                view.say(match waiting {
                    Some(waiting) => format!("  {}", self::waiting(&waiting)),
                    None => format!("  the deadline {} has passed", passed.deadline),
                });
            }
            Watched::Event(Event::Resumed(resumed)) => {
                let retried = resumed.retry.len();
                view.say(format!("resumed: {retried} failed tasks are tried again"));
            }
            Watched::Event(Event::Accepted(_)) => {}
            Watched::Result(result) => view.answered(&result),
            Watched::Progress(progress) => view.progressed(&progress),
        }
    }
    bail!("the connection ended before job {job} did")
}

/// One line a release, one bar a site that works; plain lines where there is no terminal.
#[derive(Default)]
struct View {
    bars: MultiProgress,
    sites: BTreeMap<String, ProgressBar>,
    current: Option<(Phase, u32, u32)>,
}

impl View {
    fn say(&self, line: String) {
        if std::io::stderr().is_terminal() {
            let _ = self.bars.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&mut self) {
        for (_, bar) in std::mem::take(&mut self.sites) {
            bar.finish_and_clear();
        }
    }

    fn released(&mut self, release: &Release) {
        self.clear();
        self.current = Some((release.phase, release.round, release.pass));
        let sites: Vec<&str> = release.work.iter().map(|work| &*work.site).collect();
        let what = match (release.phase, release.pass) {
            (Phase::TrainRound, 0) => format!("train-round {}", release.round),
            (Phase::TrainRound, _) => "train-round, scoring the last average".to_owned(),
            (Phase::Average, 0) => format!("average {}", release.round),
            (Phase::Average, _) => "average, writing the results folder".to_owned(),
            (phase, 0) => phase.to_string(),
            (phase, pass) => format!("{phase}, pass {pass}"),
        };
        self.say(format!("{what}: {}", sites.join(", ")));
    }

    fn answered(&mut self, result: &TaskResult) {
        let key = &result.key;
        if let Some(bar) = self.sites.remove(&key.site) {
            bar.finish_and_clear();
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
                self.say(format!(
                    "  {}: val_loss {:.4} before the round{loss}",
                    key.site, validation.loss
                ));
            }
            Outcome::Failed { failure } => self.say(format!(
                "  {}: attempt {} failed: {}: {}",
                key.site, key.attempt, failure.code, failure.message
            )),
            Outcome::Done { .. } | Outcome::Closed { .. } => {}
        }
    }

    fn progressed(&mut self, progress: &Progress) {
        if self.current != Some((progress.phase, progress.round, progress.pass))
            || !std::io::stderr().is_terminal()
        {
            return;
        }
        let bar = self.sites.entry(progress.site.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template("  {prefix:<14} {bar:32} {pos}/{len} {msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bars.add(
                ProgressBar::new(progress.total)
                    .with_style(style)
                    .with_prefix(progress.site.clone()),
            )
        });
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.set_message(progress.what.clone());
    }
}

/// What a job past its deadline waits for.
pub fn waiting(waiting: &Waiting) -> String {
    let Waiting { silent, done, needed } = waiting;
    format!(
        "past the deadline: {done} sites are done, {needed} are needed; waiting for {}",
        silent.join(", ")
    )
}

/// A failed job, in a sentence.
pub fn failure(failed: &Failed) -> String {
    let Failed {
        site,
        phase,
        round,
        failure,
        ..
    } = failed;
    let case = failure
        .case
        .map_or(String::new(), |case| format!(" (case {case} of the site's list)"));
    format!(
        "{site}, {phase} round {round}: {}: {}{case}",
        failure.code, failure.message
    )
}

/// The Dice of each round.
pub fn print_scores(history: &History) {
    for score in &history.scores {
        println!("{}", score_line(score));
    }
}

fn score_line(score: &Score) -> String {
    let dice = |dice: &Option<f64>| dice.map_or("n/a".to_owned(), |dice| format!("{dice:.4}"));
    let weights = match score.round {
        0 => "initial weights".to_owned(),
        round => format!("after round {}", round - 1),
    };
    let classes: Vec<String> = score.dice.iter().map(dice).collect();
    let label = if score.on_training_cases {
        "Dice on training cases"
    } else {
        "Dice"
    };
    format!(
        "{weights:<16} {label} {} [{}]  val_loss {:.4}",
        dice(&score.mean_dice),
        classes.join(", "),
        score.loss
    )
}
