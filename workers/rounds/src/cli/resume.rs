//! `rounds resume`: a job goes on that failed, was cancelled, is finished, or was lost with the server's disk.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use pipeline::{
    archive::{Archive, Restored},
    client::{Client, Resumption, Snapshot, State},
};
use schemas::job::{JobMessage, Payload};

use super::{Server, submit, watch};

/// Let a job go on that failed or was cancelled, or train a finished one for more rounds. A job that the server has lost
/// comes back from the orchestrators' archive
#[derive(Args)]
pub struct Resume {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
    /// More rounds for a finished training job: a new job, which continues it
    #[arg(long)]
    rounds: Option<u32>,
    /// The orchestrators' archive; by default that of `rounds up`
    #[arg(long, env = "ROUNDS_ARCHIVE")]
    archive: Option<PathBuf>,
    /// Follow the job until it ends; the exit status says whether it finished
    #[arg(long)]
    wait: bool,
}

impl Resume {
    /// Resumes, and prints the id of the job that goes on.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client().await?;
        let (snapshot, restored) = self.find(&client).await?;
        let job = match (snapshot.state, self.rounds) {
            (State::Finished, None) if restored => self.job,
            (State::Running | State::Paused, None) if restored => {
                println!("{} goes on", self.job);
                self.job
            }
            (State::Finished, Some(rounds)) => more(&client, &snapshot, rounds).await?,
            (State::Finished, None) => bail!("job {} is finished: expected --rounds N", self.job),
            (state, Some(_)) => bail!(
                "job {} is {}: --rounds is for a finished job",
                self.job,
                state.as_str()
            ),
            (_, None) => {
                say(&self.job, client.resume(&self.job, &[]).await?);
                self.job
            }
        };
        if self.wait {
            watch::follow(&client, &job).await?;
        }
        Ok(())
    }

    /// The job as the streams hold it; where they have lost it, as the archive brings it back, which is said.
    async fn find(&self, client: &Client) -> anyhow::Result<(Snapshot, bool)> {
        let lost = match client.snapshot(&self.job).await {
            Err(error @ pipeline::Error::NoSuchJob { .. }) => error,
            other => return Ok((other?, false)),
        };
        let archive = self.archive.clone().or_else(|| self.server.archive());
        let Some(archive) = archive.filter(|folder| folder.is_dir()) else {
            return Err(lost)
                .context("--archive names the orchestrators' archive, where the server has lost jobs");
        };
        let restored = client.restore(&Archive::open(&archive)?, &self.job).await;
        let restored = restored.with_context(|| format!("archive {}", archive.display()))?;
        for Restored {
            job,
            messages,
            bytes,
            again,
        } in &restored
        {
            println!("{job} is back from the archive: {messages} messages, {bytes} bytes of artifacts");
            for step in again {
                println!("  {step} is done again");
            }
        }
        Ok((client.snapshot(&self.job).await?, true))
    }
}

/// Says what became of it.
pub fn say(job: &str, resumption: Resumption) {
    match resumption {
        Resumption::GoesOn(0) => println!("{job} goes on"),
        Resumption::GoesOn(retried) => println!("{job} goes on; {retried} failed tasks are tried again"),
        Resumption::Waits(silent) => println!(
            "{job} has not ended, and none of its tasks failed for good: it waits for {} and goes on when they answer",
            silent.join(", ")
        ),
    }
}

/// Submits the same job for the rounds behind those of a finished one; its id.
async fn more(client: &Client, snapshot: &Snapshot, rounds: u32) -> anyhow::Result<String> {
    let accepted = snapshot
        .record
        .accepted
        .as_ref()
        .context("a job without its message")?;
    let mut message: JobMessage = accepted.message.clone();
    let Payload::Training(training) = &mut message.payload else {
        bail!("job {} is no training job: it has no rounds", snapshot.job);
    };
    training.starting_fed_round += training.num_rounds;
    training.num_rounds = rounds;
    let total = training.starting_fed_round + rounds;
    // The horizon of the learning rate is what was given, or the new end.
    let horizon = &mut message.federation.total_rounds;
    *horizon = horizon.filter(|given| *given >= total);
    message
        .federation
        .name
        .get_or_insert_with(|| snapshot.job.clone());
    message.job_id = None;
    message.resume_from = Some(snapshot.job.clone());
    message.check()?;
    let job = submit::submit(client, &message).await?;
    println!("{job}");
    Ok(job)
}
