//! `rounds report`: a job on one HTML page.

mod chart;
mod content;
mod dice;
mod page;
mod timeline;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use nnunet::{cross_validation::read_scores, evaluate::Scores};
use pipeline::client::{Client, Snapshot};
use schemas::event::{Event, Finished};

use self::content::{Picture, Report as Content};
use super::Server;

/// Write a job's curves, scores, plans, timings and pictures as one HTML page, which opens without a network
#[derive(Args)]
pub struct Report {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
    /// The page; the default is JOB.html
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Of a training job that was told to evaluate: its downloaded results folder (Trainer__Plans__Configuration), for
    /// the Dice of whole cases
    #[arg(long)]
    results: Option<PathBuf>,
}

impl Report {
    /// Gathers and writes the page, and prints its path.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client().await?;
        let snapshot = client.snapshot(&self.job).await?;
        let mut scores = Vec::new();
        let mut pictures = Vec::new();
        if let Some(Event::Finished(finished)) = &snapshot.record.end {
            scores = super::download::scores(&client, finished).await?;
            pictures = fetch_pictures(&client, finished).await?;
        }
        if let Some(results) = &self.results {
            scores = scores_in(results, &snapshot)?;
        }
        let mut content = Content::of(&snapshot, &scores)?;
        content.pictures = pictures;
        let output = self
            .output
            .unwrap_or_else(|| PathBuf::from(format!("{}.html", self.job)));
        std::fs::write(&output, page::of(&content)).with_context(|| format!("{}", output.display()))?;
        println!("{}", output.display());
        Ok(())
    }
}

/// The pictures of sites that allow them.
async fn fetch_pictures(client: &Client, finished: &Finished) -> anyhow::Result<Vec<Picture>> {
    let temporary = tempfile::tempdir()?;
    let file = temporary.path().join("picture.png");
    let mut pictures = Vec::new();
    for made in &finished.segmentations {
        for picture in &made.pictures {
            client.download(&picture.image, &file).await?;
            pictures.push(Picture {
                name: format!("{}, case {} of its list", made.site, picture.case),
                png: std::fs::read(&file)?,
            });
        }
    }
    Ok(pictures)
}

/// What sites counted of the validation cases, in the folder of the job's fold.
fn scores_in(results: &Path, snapshot: &Snapshot) -> anyhow::Result<Vec<(String, Scores)>> {
    let message = snapshot
        .record
        .accepted
        .as_ref()
        .map(|accepted| &accepted.message);
    let fold = message.and_then(|message| match &message.payload {
        schemas::job::Payload::Training(training) => Some(training.fold_id),
        schemas::job::Payload::Inference(_) => None,
    });
    let fold = fold.context("--results: this is no training job")?;
    let folder = results.join(format!("fold_{fold}")).join("validation");
    let scores = read_scores(&folder)?;
    ensure!(
        scores.is_some(),
        "--results: {} holds no scores of sites: did the job have federation.evaluate?",
        folder.display()
    );
    Ok(scores.unwrap_or_default())
}
