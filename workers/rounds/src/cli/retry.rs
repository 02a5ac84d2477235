//! `rounds retry`: another attempt at tasks that failed for good, once the cause is mended.

use clap::Args;

use super::{Server, resume};

/// Try tasks again that failed for good; a job that failed of them goes on
#[derive(Args)]
pub struct Retry {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
    /// The sites whose tasks are tried again, as `rounds dead` lists them
    #[arg(required = true)]
    sites: Vec<String>,
}

impl Retry {
    /// Has them tried again.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client().await?;
        resume::say(&self.job, client.resume(&self.job, &self.sites).await?);
        Ok(())
    }
}
