//! `rounds watch`: a job, followed until it ends: a live view in a terminal, plain lines elsewhere. `story.rs` is
//! what it tells.

mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
};

use anyhow::bail;
use clap::Args;
use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pipeline::{
    client::{Client, Watched},
    conductor::Waiting,
    exit::APPROVAL,
};
use schemas::{
    event::{Event, Failed, Finished, History, Release, Score},
    site::Progress,
    task::TaskResult,
};

use self::story::Story;
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
    let mut view = View::new();
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
                view.say([match waiting {
                    Some(waiting) => format!("  {}", self::waiting(&waiting)),
                    None => format!("  the deadline {} has passed", passed.deadline),
                }]);
            }
            Watched::Event(Event::Resumed(resumed)) => {
                let retried = resumed.retry.len();
                view.say([format!("resumed: {retried} failed tasks are tried again")]);
            }
            Watched::Event(Event::Accepted(accepted)) => view.story.accepted(&accepted),
            Watched::Result(result) => view.answered(&result),
            Watched::Progress(progress) => view.progressed(&progress),
        }
    }
    bail!("the connection ended before job {job} did")
}

/// Lines that stay; under them a bar for the rounds and one for each site that works. Without a terminal only lines.
struct View {
    bars: MultiProgress,
    rounds: Option<ProgressBar>,
    sites: BTreeMap<String, ProgressBar>,
    story: Story,
    /// Sites where a person is asked.
    waiting: BTreeSet<String>,
    live: bool,
}

impl View {
    fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            rounds: None,
            sites: BTreeMap::new(),
            story: Story::default(),
            waiting: BTreeSet::new(),
            live: std::io::stderr().is_terminal(),
        }
    }

    fn say(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            if self.live {
                let _ = self.bars.println(line);
            } else {
                eprintln!("{line}");
            }
        }
        self.draw();
    }

    fn clear(&mut self) {
        self.clear_sites();
        if let Some(bar) = self.rounds.take() {
            bar.finish_and_clear();
        }
    }

    fn clear_sites(&mut self) {
        for (_, bar) in std::mem::take(&mut self.sites) {
            bar.finish_and_clear();
        }
    }

    /// The bar of the rounds: what the job is at, how many rounds are done, the Dice, the time left.
    fn draw(&mut self) {
        if !self.live || self.story.rounds == 0 {
            return;
        }
        let bar = self.rounds.get_or_insert_with(|| {
            let template = "  {prefix:<14} {bar:32} {pos}/{len} rounds  {msg}";
            let bar = self
                .bars
                .insert(0, ProgressBar::new(0).with_style(style(template)));
            bar.set_prefix("all");
            bar
        });
        let mut said = vec![self.story.step()];
        said.extend(self.story.dice.map(|dice| format!("Dice {dice:.4}")));
        let left = self.story.seconds_left();
        said.extend(left.map(|seconds| format!("about {} left", story::duration(seconds))));
        bar.set_length(u64::from(self.story.rounds));
        bar.set_position(u64::from(self.story.averaged));
        bar.set_message(said.join(", "));
    }

    fn released(&mut self, release: &Release) {
        self.clear_sites();
        let lines = self.story.released(release);
        self.say(lines);
    }

    fn answered(&mut self, result: &TaskResult) {
        if let Some(bar) = self.sites.remove(&result.key.site) {
            bar.finish_and_clear();
        }
        let lines = self.story.answered(result);
        self.say(lines);
    }

    fn progressed(&mut self, progress: &Progress) {
        if progress.what == APPROVAL {
            if self.waiting.insert(progress.site.clone()) {
                self.say([format!("  {}: waits for {APPROVAL} at the site", progress.site)]);
            }
            return;
        }
        self.waiting.remove(&progress.site);
        if !self.live || self.story.at != Some((progress.phase, progress.round, progress.pass)) {
            return;
        }
        let bar = self.sites.entry(progress.site.clone()).or_insert_with(|| {
            let template = "  {prefix:<14} {bar:32} {pos}/{len} {msg} {elapsed}";
            let bar = ProgressBar::new(progress.total).with_style(style(template));
            self.bars.add(bar.with_prefix(progress.site.clone()))
        });
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.set_message(progress.what.clone());
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
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
