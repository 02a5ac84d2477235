//! Doing what [`super::next()`] says.

use schemas::{
    event::{Event, Failed},
    names::{GLOBAL, ORCHESTRATOR, Phase},
    task::Failure,
};

use super::{next::Action, run::Conductor};
use crate::{Error, artifacts, publish, subjects};

impl Conductor {
    /// Does one thing. Doing it twice changes nothing.
    ///
    /// # Errors
    /// The server did not answer, or will never take the message.
    pub(super) async fn perform(&self, action: &Action) -> Result<(), Error> {
        match action {
            Action::Publish(event) => {
                let subject = subjects::event(event);
                publish::create(&self.connection, &subject, publish::encode(event)).await?;
            }
            Action::Task(task) => {
                publish::create(
                    &self.connection,
                    &subjects::task(&task.key),
                    publish::encode(task),
                )
                .await?;
            }
            Action::Timer(timer) => {
                let passed = &timer.passed;
                publish::schedule(
                    &self.connection,
                    &subjects::timer(passed, timer.resumes),
                    &passed.deadline,
                    &subjects::deadline(passed),
                    publish::encode(&Event::DeadlinePassed(passed.clone())),
                )
                .await?;
            }
            Action::Close(result) => {
                let mut result = result.clone();
                self.identity.sign(&mut result)?;
                publish::create(
                    &self.connection,
                    &subjects::result(&result.key),
                    publish::encode(&result),
                )
                .await?;
            }
            Action::Purge(purge) => {
                artifacts::purge(
                    &self.connection,
                    &purge.owner,
                    &purge.job,
                    purge.digest.as_deref(),
                )
                .await?;
                if let (Some(archive), GLOBAL, Some(digest)) = (&self.archive, &*purge.owner, &purge.digest) {
                    archive.forget(&purge.job, digest)?;
                }
            }
        }
        Ok(())
    }

    /// A message that the server will never take ends the job.
    pub(super) async fn give_up(&self, job: &str, resumes: u32, error: &Error) {
        let end = Event::Failed(Failed {
            job: job.to_owned(),
            site: ORCHESTRATOR.to_owned(),
            phase: Phase::Aggregate,
            round: 0,
            failure: Failure::fatal("message-refused", error.to_string()),
            resumes,
        });
        if let Err(error) =
            publish::create(&self.connection, &subjects::event(&end), publish::encode(&end)).await
        {
            tracing::error!("job {job}: {error}");
        }
    }
}
