//! `rounds download`: what a finished job made.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
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
                    bail!("{} is there already; choose another --output", place.display());
                }
                std::fs::create_dir_all(place.parent().unwrap_or(output))?;
                std::fs::rename(&model, &place).with_context(|| format!("{}", place.display()))?;
                written.push(place);
            }
        }
    }
    for made in &finished.segmentations {
        let place = output.join(format!("{}-{}.zip", finished.job, made.dataset));
        client.download(&made.archive, &place).await?;
        written.push(place);
    }
    Ok(written)
}
