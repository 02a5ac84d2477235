//! `rounds list`: all jobs, oldest first.

use clap::Args;

use super::Server;

/// List the jobs
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    server: Server,
}

impl List {
    /// One line a job.
    pub async fn run(self) -> anyhow::Result<()> {
        let jobs = self.server.client().await?.list().await?;
        println!(
            "{:<24} {:<9} {:<10} {:<18} {:<20} DATA SETS",
            "JOB", "STATE", "MODE", "PHASE", "SUBMITTED"
        );
        for job in jobs {
            let phase = job
                .phase
                .map_or(String::new(), |(phase, round)| format!("{phase} {round}"));
            println!(
                "{:<24} {:<9} {:<10} {phase:<18} {:<20} {}",
                job.job,
                job.state.as_str(),
                job.mode,
                job.time,
                job.datasets.join(",")
            );
        }
        Ok(())
    }
}
