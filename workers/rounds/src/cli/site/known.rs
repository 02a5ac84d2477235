//! A job that a site is a member of: as its folder knows it, or its server.

use anyhow::{Context, bail};
use pipeline::{
    connection::Connection,
    known::{self, Known},
    metrics::Metrics,
};
use schemas::event::Accepted;

use super::PATIENCE;
use crate::{
    cli::on_runtime,
    exposure::approval::{self, Asked},
    job_folder,
    settings::SiteSettings,
};

/// A job, and what was said to it.
pub struct Job {
    /// The job, as it was accepted.
    pub accepted: Accepted,
    /// What a person was asked and said.
    pub asked: Option<Asked>,
}

impl Job {
    /// The job of that name: in the site's folder, else at its server.
    ///
    /// # Errors
    /// There is none, or the site is no member of it.
    pub fn find(settings: &SiteSettings, name: &str) -> anyhow::Result<Self> {
        schemas::names::check_token("job", name)?;
        let context = || format!("root: {}", settings.root.display());
        if let Some(asked) = approval::read(&settings.root, name).with_context(context)? {
            return Ok(Self {
                accepted: asked.job.clone(),
                asked: Some(asked),
            });
        }
        let folders = job_folder::all(&settings.root).with_context(context)?;
        let own = folders.into_iter().find(|folder| folder.job == name);
        let accepted = match own.and_then(|folder| folder.accepted) {
            Some(accepted) => accepted,
            None => at_server(settings, name)?,
        };
        if !accepted.members.iter().any(|member| member.site == settings.site) {
            bail!("site {} is no member of job {name}", settings.site);
        }
        Ok(Self {
            accepted,
            asked: None,
        })
    }
}

fn at_server(settings: &SiteSettings, name: &str) -> anyhow::Result<Accepted> {
    let known = on_runtime(known_jobs(settings)).with_context(|| {
        format!("job {name} has no folder at this site yet, and the server cannot be asked")
    })?;
    let mut named = known.into_iter().map(|known| known.accepted);
    named
        .find(|accepted| accepted.job == name)
        .with_context(|| format!("there is no job {name:?}"))
}

/// All jobs that the site's server knows.
///
/// # Errors
/// The server cannot be reached.
pub async fn known_jobs(settings: &SiteSettings) -> anyhow::Result<Vec<Known>> {
    let name = format!("site-{}-jobs", settings.site);
    let connection = Connection::open(&settings.nats.access()?, &name, PATIENCE, &Metrics::new()).await?;
    Ok(known::jobs_of(&connection, &settings.site).await?)
}
