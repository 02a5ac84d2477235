//! `rounds site approve`: a person's word on a job.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use super::known::Job;
use crate::{
    exposure::approval::{self, Said},
    settings::SiteSettings,
};

/// Let a job run at this site, or refuse it. With `approval = "required"` its first task waits for that
#[derive(Args)]
pub struct Approve {
    /// The site's settings
    settings: PathBuf,
    /// The job's id; `rounds site jobs` lists those that wait
    job: String,
    /// Refuse it, with a reason that the submitter sees
    #[arg(long, value_name = "REASON")]
    refuse: Option<String>,
}

impl Approve {
    /// Keeps the word in the site's folder.
    pub fn run(self) -> anyhow::Result<()> {
        let settings = SiteSettings::read(&self.settings)?;
        let job = Job::find(&settings, &self.job)?.accepted;
        let (said, word) = match self.refuse {
            None => (Said::Approved {}, "approved"),
            Some(reason) => {
                ensure!(!reason.trim().is_empty(), "--refuse: expected a reason");
                (Said::Refused { reason }, "refused")
            }
        };
        approval::say(&settings.root, job, said)?;
        println!("{}: {word}", self.job);
        Ok(())
    }
}
