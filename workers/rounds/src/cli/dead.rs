//! `rounds dead`: tasks that failed for good.

use clap::Args;
use pipeline::client::dead;

use super::Server;

/// List tasks that failed for good, with their reason
#[derive(Args)]
pub struct Dead {
    #[command(flatten)]
    server: Server,
    /// A job's id; without it those of all jobs
    job: Option<String>,
}

impl Dead {
    /// One line a task.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client().await?;
        let jobs = match self.job {
            Some(job) => vec![job],
            None => client.list().await?.into_iter().map(|job| job.job).collect(),
        };
        for job in jobs {
            for dead in dead(&client.snapshot(&job).await?.record) {
                let (key, failure) = (&dead.key, &dead.failure);
                let then = match dead.counts {
                    true => format!("`rounds retry {job} {}` tries it again", key.site),
                    false => "its job went on without it".to_owned(),
                };
                let case = failure
                    .case
                    .map_or(String::new(), |case| format!(" (case {case} of its list)"));
                println!(
                    "{job} {} {} round {} pass {} shard {} attempt {}: {}: {}{case}; {then}",
                    key.site,
                    key.phase,
                    key.round,
                    key.pass,
                    key.shard,
                    key.attempt,
                    failure.code,
                    failure.message
                );
            }
        }
        Ok(())
    }
}
