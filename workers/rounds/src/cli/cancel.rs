//! `rounds cancel`: stop all work of a job.

use clap::Args;

use super::Server;

/// Cancel a job
#[derive(Args)]
pub struct Cancel {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
    /// Why, for the job's record
    #[arg(long, default_value = "cancelled from the command line")]
    reason: String,
}

impl Cancel {
    /// Cancels.
    pub async fn run(self) -> anyhow::Result<()> {
        self.server
            .client()
            .await?
            .cancel(&self.job, &self.reason)
            .await?;
        println!("{} is cancelled", self.job);
        Ok(())
    }
}
