//! `rounds site jobs`: the jobs in a site's folder, and what was said to them.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context;
use clap::Args;
use schemas::{event::Accepted, job::Payload};

use crate::{
    exposure::approval::{self, Said},
    job_folder,
    settings::SiteSettings,
};

/// List the jobs that reached this site, and those that wait for a person
#[derive(Args)]
pub struct Jobs {
    /// The site's settings
    settings: PathBuf,
}

impl Jobs {
    /// Prints a line a job.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = SiteSettings::read(&self.settings)?;
        let context = || format!("root: {}", settings.root.display());
        let mut jobs: BTreeMap<String, (Accepted, String)> = BTreeMap::new();
        for folder in job_folder::all(&settings.root).with_context(context)? {
            if let Some(accepted) = folder.accepted {
                jobs.insert(folder.job, (accepted, "taken on".to_owned()));
            }
        }
        for asked in approval::all(&settings.root).with_context(context)? {
            let by = asked.by.map_or(String::new(), |by| format!(" by {by}"));
            let state = match asked.said {
                Said::Waiting {} => format!("waits for a person since {}", asked.time),
                Said::Approved {} => format!("approved{by} {}", asked.time),
                Said::Refused { reason } => format!("refused{by} {}: {reason}", asked.time),
            };
            jobs.insert(asked.job.job.clone(), (asked.job, state));
        }
        for (name, (accepted, state)) in jobs {
            let mode = match accepted.message.payload {
                Payload::Training(_) => "training",
                Payload::Inference(_) => "inference",
            };
            let own = accepted
                .members
                .iter()
                .find(|member| member.site == settings.site);
            let dataset = own.map_or("", |member| &member.dataset);
            println!("{name}  {mode} on {dataset}: {state}");
        }
        Ok(())
    }
}
