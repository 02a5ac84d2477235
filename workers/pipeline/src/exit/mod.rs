//! The one way out of a site.
//!
//! Whatever a process of a site publishes goes through [`crate::publish`], which shows it to the connection's [`Exit`]
//! before a byte leaves. The exit lets out what is of a listed [`Kind`] and read as such; it refuses all else.

mod kind;

use std::{fmt, path::Path, sync::Arc};

use schemas::{
    Invalid,
    names::{Phase, check_token},
    nnunet::DatasetJson,
    site::{Announce, Heartbeat, Progress, SiteFolder},
    task::{ArtifactRef, Failure, Outcome, TaskKey, TaskOutput, TaskResult},
};

pub use self::kind::Kind;
use crate::{metrics, subjects};

/// What stands at the way out of a site. Its calls may block.
pub trait Exit: Send + Sync {
    /// A message is about to leave.
    ///
    /// # Errors
    /// It stays; the reason says why.
    fn message(&self, subject: &str, payload: &[u8]) -> Result<(), String>;

    /// An artifact is about to leave: the bytes of `file`, where they lie in one. Without this its chunks are refused.
    ///
    /// # Errors
    /// It stays; the reason says why.
    fn artifact(
        &self,
        kind: Kind,
        task: &TaskKey,
        artifact: &ArtifactRef,
        file: Option<&Path>,
    ) -> Result<(), String>;

    /// What came of a task, without the names that stay at the site.
    fn cleaned(&self, task: &TaskKey, came: Result<TaskOutput, Failure>) -> Result<TaskOutput, Failure>;
}

/// An exit, shared. Cheap to clone.
#[derive(Clone)]
pub struct Guard(Arc<dyn Exit>);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl Guard {
    /// The guard at this exit.
    pub fn new(exit: Arc<dyn Exit>) -> Self {
        Self(exit)
    }

    /// The exit.
    pub fn exit(&self) -> &dyn Exit {
        &*self.0
    }
}

/// What units of work are called in messages of progress.
const UNITS: [&str; 13] = [
    "cases",
    "cases surveyed",
    "cases predicted",
    "cases evaluated",
    "cases post-processed",
    "cases merged",
    "chunks",
    "epochs",
    "part",
    "tensors averaged",
    "tiles",
    "train iteration",
    "validation iteration",
];

/// A task that waits for a person at its site tells it as progress of this.
pub const APPROVAL: &str = "a person's approval";

/// What a message is, by its subject and by its bytes, which hold nothing else.
///
/// # Errors
/// It is of no listed kind.
pub fn kind_of(subject: &str, payload: &[u8]) -> Result<Kind, Invalid> {
    if let Some(key) = subjects::key_of(subject).filter(|_| subject.starts_with("rounds.result.")) {
        let result: TaskResult = schemas::parse(payload)?;
        if result.key != key {
            return Err(Invalid::new("key", "differs from the subject"));
        }
        return match &result.outcome {
            Outcome::Failed { .. } | Outcome::Closed { .. } => Ok(Kind::Failure),
            Outcome::Done { output } => kind_of_output(output),
        };
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens[..] {
        ["rounds", "site", _, "announce"] => schemas::parse::<Announce>(payload).map(|_| Kind::Announcement),
        ["rounds", "site", _, "folder"] => {
            let folder: SiteFolder = schemas::parse(payload)?;
            check_token("mark", &folder.mark).map(|()| Kind::Folder)
        }
        ["rounds", "progress", _, _] => {
            let progress: Progress = schemas::parse(payload)?;
            if !UNITS.contains(&&*progress.what) && progress.what != APPROVAL {
                let reason = format!("{:?}: expected one of {}", progress.what, UNITS.join(", "));
                return Err(Invalid::new("what", reason));
            }
            Ok(Kind::Progress)
        }
        ["rounds", "heartbeat", _] => {
            let heartbeat: Heartbeat = schemas::parse(payload)?;
            match heartbeat
                .samples
                .iter()
                .find(|sample| !metrics::travels(&sample.name))
            {
                Some(sample) => {
                    let reason = format!("{:?} is no metric that leaves a site", sample.name);
                    Err(Invalid::new("samples", reason))
                }
                None => Ok(Kind::Heartbeat),
            }
        }
        _ => Err(Invalid::new("subject", "nothing of a site leaves on it")),
    }
}

fn kind_of_output(output: &TaskOutput) -> Result<Kind, Invalid> {
    match output {
        TaskOutput::Inventory { dataset_json, .. } => {
            let keys = dataset_json
                .as_object()
                .into_iter()
                .flat_map(|object| object.keys());
            for key in keys {
                if !DatasetJson::TRAVELLING.contains(&&**key) {
                    let reason = format!("{key:?} stays at the site");
                    return Err(Invalid::new("outcome.output.dataset_json", reason));
                }
            }
            Ok(Kind::Descriptors)
        }
        TaskOutput::Plans { plans, .. } => {
            match ["dataset_name", "image_reader_writer"]
                .iter()
                .find(|key| plans.get(key).is_some())
            {
                Some(key) => {
                    let reason = format!("{key:?} stays at the site");
                    Err(Invalid::new("outcome.output.plans", reason))
                }
                None => Ok(Kind::Plans),
            }
        }
        TaskOutput::Preprocessed { .. } | TaskOutput::Model { .. } | TaskOutput::Predicted { .. } => {
            Ok(Kind::CaseCounts)
        }
        TaskOutput::Trained { .. } => Ok(Kind::RoundMetrics),
        TaskOutput::Keys { .. } | TaskOutput::Shared { .. } | TaskOutput::Unmasked { .. } => {
            Ok(Kind::Masking)
        }
        TaskOutput::FingerprintPart { .. } | TaskOutput::Validated { .. } | TaskOutput::Collected { .. } => {
            Ok(Kind::References)
        }
        TaskOutput::PooledDescriptors { .. }
        | TaskOutput::PooledScan { .. }
        | TaskOutput::PooledFingerprint { .. }
        | TaskOutput::Averaged { .. }
        | TaskOutput::Results { .. } => Err(Invalid::new(
            "outcome.output",
            "an output of the orchestrator's, which no site makes",
        )),
    }
}

/// The phase and job in a subject, where it has them.
pub fn about(subject: &str) -> (Option<String>, Option<Phase>) {
    if let Some(key) = subjects::key_of(subject) {
        return (Some(key.job), Some(key.phase));
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens[..] {
        ["rounds", "progress", _, job] => (Some(job.to_owned()), None),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(subject: &str, payload: serde_json::Value) -> String {
        kind_of(subject, payload.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    }

    const RESULT: &str = "rounds.result.a.fingerprint.job.0.0.0.1";

    fn result(output: serde_json::Value) -> serde_json::Value {
        json!({
            "key": { "site": "a", "phase": "fingerprint", "job": "job", "round": 0, "pass": 0, "shard": 0, "attempt": 1 },
            "outcome": { "outcome": "done", "output": output },
            "made": null,
        })
    }

    #[test]
    fn what_is_listed_is_known_by_its_bytes() {
        let inventory = |document: serde_json::Value| {
            result(json!({ "kind": "inventory", "dataset_json": document, "cases": 3, "digest": "0" }))
        };
        let fine = inventory(json!({ "labels": { "background": 0 } })).to_string();
        assert_eq!(kind_of(RESULT, fine.as_bytes()), Ok(Kind::Descriptors));
        let said = refused(
            RESULT,
            inventory(json!({ "labels": {}, "description": "Jane Roe" })),
        );
        assert!(said.contains("\"description\" stays at the site"), "{said}");
        let mut more = inventory(json!({}));
        more["patient"] = json!("Jane Roe");
        assert!(refused(RESULT, more).contains("patient"));
        let other = refused("rounds.result.a.fingerprint.job.0.0.1.1", inventory(json!({})));
        assert!(other.contains("differs from the subject"), "{other}");
        let global = result(json!({
            "kind": "averaged", "global": { "owner": "global", "job": "job", "digest": "0", "size": 1 },
        }));
        assert!(refused(RESULT, global).contains("no site makes"));
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        for subject in [
            "rounds.submit",
            "rounds.job.j.end.0",
            "rounds.task.a.infer.j.0.0.0.1",
            "elsewhere",
        ] {
            assert!(
                refused(subject, json!({})).contains("nothing of a site leaves"),
                "{subject}"
            );
        }
        let progress = |what: &str| {
            json!({ "job": "j", "site": "a", "phase": "infer", "round": 0, "pass": 0, "shard": 0, "what": what,
                    "done": 1, "total": 2 })
        };
        let subject = "rounds.progress.a.j";
        assert!(refused(subject, progress("Jane Roe")).contains("what"));
        let fine = progress("cases").to_string();
        assert_eq!(kind_of(subject, fine.as_bytes()), Ok(Kind::Progress));
        let heartbeat = json!({ "site": "a", "worker": "w-1", "version": "1", "time": 0.0,
            "samples": [{ "name": "patients", "labels": {}, "value": 1.0 }] });
        assert!(refused("rounds.heartbeat.a", heartbeat).contains("patients"));
    }
}
