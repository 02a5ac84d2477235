//! `rounds download`: what a finished job made.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use nnunet::evaluate::Scores;
use pipeline::client::Client;
use schemas::event::{Event, Finished};

use super::Server;
use crate::phases::model::unpack;

/// Download what a job made
#[derive(Args)]
pub struct Download {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
    /// Where it goes: a training job's results folder (unpacked), an inference job's zips
    #[arg(long, short, default_value = ".")]
    output: PathBuf,
}

impl Download {
    /// Downloads, and prints the paths.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client().await?;
        let snapshot = client.snapshot(&self.job).await?;
        let Some(Event::Finished(finished)) = &snapshot.record.end else {
            bail!(
                "job {} is {}: only a finished job has results",
                self.job,
                snapshot.state.as_str()
            );
        };
        for path in fetch(&client, finished, &self.output).await? {
            println!("{}", path.display());
        }
        Ok(())
    }
}

/// Fetches a finished job's results into `output`; digests are verified. Returns what was written:
/// the folder Trainer__Plans__Configuration, or one zip a site.
pub async fn fetch(client: &Client, finished: &Finished, output: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(output).with_context(|| format!("{}", output.display()))?;
    let mut written = Vec::new();
    if let Some(results) = &finished.results {
        let temporary = tempfile::tempdir_in(output)?;
        let archive = temporary.path().join("results.zip");
        client.download(results, &archive).await?;
        let unpacked = temporary.path().join("results");
        unpack(&archive, &unpacked).map_err(|failure| anyhow::anyhow!("{}", failure.message))?;
        for dataset in std::fs::read_dir(&unpacked)? {
            let dataset = dataset?.path();
            for model in std::fs::read_dir(&dataset)? {
                let model = model?.path();
                let place = output
                    .join(dataset.file_name().unwrap_or_default())
                    .join(model.file_name().unwrap_or_default());
                if place.exists() {
                    add_fold(&model, &place)?;
                } else {
                    std::fs::create_dir_all(place.parent().unwrap_or(output))?;
                    std::fs::rename(&model, &place).with_context(|| format!("{}", place.display()))?;
                }
                written.push(place);
            }
        }
    }
    for made in &finished.segmentations {
        let place = output.join(format!("{}-{}.zip", finished.job, made.dataset));
        client.download(&made.archive, &place).await?;
        written.push(place);
    }
    if let Some(summary) = summary(client, finished, output).await? {
        written.push(summary);
    }
    Ok(written)
}

/// Puts the folds of the model folder `new` into that of another job, whose plans and data set are the same.
fn add_fold(new: &Path, place: &Path) -> anyhow::Result<()> {
    for document in ["plans.json", "dataset.json"] {
        let same = std::fs::read(new.join(document))? == std::fs::read(place.join(document))?;
        ensure!(
            same,
            "{} is there already, with another {document}; choose another --output",
            place.display()
        );
    }
    for entry in std::fs::read_dir(new)? {
        let (from, to) = {
            let entry = entry?;
            (entry.path(), place.join(entry.file_name()))
        };
        if from.is_dir() {
            ensure!(
                !to.exists(),
                "{} is there already; choose another --output",
                to.display()
            );
            std::fs::rename(&from, &to).with_context(|| format!("{}", to.display()))?;
        }
    }
    Ok(())
}

/// The scores of all sites together as nnU-Net's summary.json, where the job asked for them and a site has references.
async fn summary(client: &Client, finished: &Finished, output: &Path) -> anyhow::Result<Option<PathBuf>> {
    let sites = scores(client, finished).await?;
    if sites.is_empty() {
        return Ok(None);
    }
    let place = output.join(format!("{}-summary.json", finished.job));
    Scores::summary(&sites)?.write(&place)?;
    Ok(Some(place))
}

/// How an inference job's segmentations did, by site: of those that have references, if the job asked.
pub async fn scores(client: &Client, finished: &Finished) -> anyhow::Result<Vec<(String, Scores)>> {
    let temporary = tempfile::tempdir()?;
    let mut sites = Vec::new();
    for made in &finished.segmentations {
        let Some(scores) = &made.scores else { continue };
        let file = temporary.path().join("scores.json");
        client.download(scores, &file).await?;
        let scores: Scores =
            schemas::parse(&std::fs::read(&file)?).with_context(|| format!("the scores of {}", made.site))?;
        sites.push((made.site.clone(), scores));
    }
    Ok(sites)
}
