//! `rounds submit`: a job message to the conductor.

use std::{borrow::Cow, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use pipeline::{
    client::{Client, Verdict},
    clock,
};
use schemas::job::{JobMessage, Payload};

use super::{Server, dry_run, watch};

/// Submit a job message
#[derive(Args)]
pub struct Submit {
    #[command(flatten)]
    server: Server,
    /// The message, a JSON file; `-` for standard input. A bare payload is taken with --datasets
    file: PathBuf,
    /// The data sets, in place of the message's own
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    datasets: Option<Vec<String>>,
    /// Follow the job until it ends; the exit status says whether it finished
    #[arg(long)]
    wait: bool,
    /// Train nothing: take the fingerprint and plan, then show what the training would need at each site, how long it
    /// would take, and what is odd about a site beside the others. Exits with 1 where memory or disk would be short
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

impl Submit {
    /// Checks, submits, and prints the job's id.
    pub async fn run(self) -> anyhow::Result<()> {
        let bytes = match self.file.to_str() {
            Some("-") => std::io::read_to_string(std::io::stdin())
                .context("standard input")?
                .into_bytes(),
            _ => std::fs::read(&self.file).with_context(|| format!("{}", self.file.display()))?,
        };
        let message = JobMessage::parse(&bytes, self.datasets.as_deref())
            .with_context(|| format!("{}", self.file.display()))?;
        let client = self.server.client().await?;
        if self.dry_run {
            return dry_run::run(&client, message).await;
        }
        let job = submit(&client, &message).await?;
        println!("{job}");
        if self.wait {
            watch::follow(&client, &job).await?;
        }
        Ok(())
    }
}

/// An id for a job that gives none: `training-20260131T101502-<process>`.
fn new_id(message: &JobMessage) -> String {
    let mode = match &message.payload {
        Payload::Training(_) => "training",
        Payload::Inference(_) => "inference",
    };
    let time: String = clock::now()
        .chars()
        .take(19)
        .filter(|char| char.is_ascii_alphanumeric())
        .collect();
    format!("{mode}-{time}-{}", std::process::id())
}

/// Submits and waits for the conductor's word. Returns the job's id.
pub async fn submit(client: &Client, message: &JobMessage) -> anyhow::Result<String> {
    let mut message = Cow::Borrowed(message);
    if client.signs() && message.job_id.is_none() {
        // Signed without an id, it could be submitted again as another job.
        let id = new_id(&message);
        message.to_mut().job_id = Some(id);
    }
    let sequence = client.submit(&message).await?;
    match client.verdict(sequence).await? {
        Verdict::Accepted(accepted) => {
            for warning in &accepted.warnings {
                tracing::warn!(job = accepted.job, "{warning}");
            }
            Ok(accepted.job)
        }
        Verdict::Rejected(rejected) => bail!("rejected: {}: {}", rejected.path, rejected.reason),
    }
}
