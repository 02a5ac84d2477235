//! `rounds show`: what happened to a job.

use clap::Args;
use schemas::{
    event::Event,
    task::{Outcome, TaskOutput},
};

use super::{Server, watch};
use crate::privacy;

/// Show what happened to a job
#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    server: Server,
    /// The job's id
    job: String,
    /// All of it, as JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    /// Prints the job's record.
    pub async fn run(self) -> anyhow::Result<()> {
        let snapshot = self.server.client().await?.snapshot(&self.job).await?;
        let record = &snapshot.record;
        if self.json {
            let document = serde_json::json!({
                "job": snapshot.job,
                "state": snapshot.state.as_str(),
                "rejected": snapshot.rejected,
                "accepted": record.accepted,
                "releases": record.releases,
                "resumed": record.resumed,
                "waiting": record.waiting().map(|waiting| waiting.silent),
                "results": record.results.values().collect::<Vec<_>>(),
                "end": record.end,
            });
            println!("{}", serde_json::to_string_pretty(&document)?);
            return Ok(());
        }
        println!("{} {}", snapshot.job, snapshot.state.as_str());
        if let Some(rejected) = &snapshot.rejected {
            println!("  {}: {}", rejected.path, rejected.reason);
        }
        if let Some(accepted) = &record.accepted {
            println!("  accepted {} with seed {}", accepted.time, accepted.seed);
            for member in &accepted.members {
                let device = member.device.map_or("its best device", |device| device.as_str());
                println!(
                    "  site {}: {}, {} cases, {device}",
                    member.site, member.dataset, member.cases
                );
            }
            if let Some(privacy) = privacy::so_far(record) {
                println!("  privacy: {privacy}");
            }
            for warning in &accepted.warnings {
                println!("  warning: {warning}");
            }
        }
        for release in &record.releases {
            let results = record.results.values().filter(|result| {
                let key = &result.key;
                (key.phase, key.round, key.pass) == (release.phase, release.round, release.pass)
            });
            let tasks: u32 = release.work.iter().map(|work| work.shards).sum();
            let mut done = 0;
            let mut lines = Vec::new();
            for result in results {
                match &result.outcome {
                    Outcome::Done { output } => {
                        done += 1;
                        if let TaskOutput::Trained { epochs, .. } = output
                            && let Some(last) = epochs.last()
                        {
                            let site = &result.key.site;
                            lines.push(format!("    {site}: train_loss {:.4}", last.train_loss));
                        }
                        if let TaskOutput::Averaged { bounded, .. } = output {
                            lines.extend(bounded.iter().map(|far| {
                                format!(
                                    "    {}: its update of length {:.4} counted with {:.4}",
                                    far.site, far.norm, far.bound
                                )
                            }));
                        }
                    }
                    Outcome::Failed { failure } => lines.push(format!(
                        "    {} attempt {} failed: {}: {}{}",
                        result.key.site,
                        result.key.attempt,
                        failure.code,
                        failure.message,
                        failure
                            .case
                            .map_or(String::new(), |case| format!(" (case {case} of its list)")),
                    )),
                    Outcome::Closed { reason, .. } => {
                        lines.push(format!("    {}: closed: {reason}", result.key.site))
                    }
                }
            }
            println!(
                "  {} round {} pass {}: {done} of {tasks} done",
                release.phase, release.round, release.pass
            );
            lines.iter().for_each(|line| println!("{line}"));
            for site in record.without(release).unwrap_or_default() {
                println!("    {site}: late or failed, and counts nowhere");
            }
        }
        for resumed in &record.resumed {
            let retried = resumed.retry.len();
            println!("  resumed {}: {retried} failed tasks tried again", resumed.time);
        }
        if let Some(waiting) = record.waiting()
            && record.overdue()
        {
            println!("  {}", watch::waiting(&waiting));
        }
        match &record.end {
            Some(Event::Finished(finished)) => watch::print_scores(&finished.history),
            Some(Event::Failed(failed)) => println!("  {}", watch::failure(failed)),
            Some(Event::Cancelled(cancelled)) => println!("  cancelled: {}", cancelled.reason),
            _ => {}
        }
        Ok(())
    }
}
