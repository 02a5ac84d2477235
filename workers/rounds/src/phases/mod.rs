//! The seven phases: a task in, one call into `nnunet`, an output back.

pub mod aggregate;
pub mod average;
pub mod failure;
pub mod fingerprint;
pub mod infer;
pub mod plan_verify;
pub mod planned;
pub mod preprocess;
pub mod train_round;

use std::ops::Range;

use nnunet::progress::Observer;
use pipeline::TaskContext;
use schemas::{
    job::{FoldId, Payload, TrainingPayload},
    task::{ArtifactRef, Failure, Task},
};
use serde::de::DeserializeOwned;

/// Passes the algorithm's progress on to the pipeline.
pub struct Watch<'a>(pub &'a TaskContext);

impl Observer for Watch<'_> {
    fn advanced(&self, what: &str, done: usize, total: usize) {
        self.0.progress(what, done as u64, total as u64);
    }
    fn stop_requested(&self) -> bool {
        self.0.stopped()
    }
}

/// The ordinals of a task's shard: shard k of n over `cases` in order, sizes differing by at most one.
pub fn shard(task: &Task, cases: usize) -> Range<usize> {
    let (shard, shards) = (task.key.shard as usize, task.shards.max(1) as usize);
    (cases * shard / shards)..(cases * (shard + 1) / shards)
}

/// The training payload of a training job's task.
pub fn training(task: &Task) -> Result<&TrainingPayload, Failure> {
    match &task.job.message.payload {
        Payload::Training(payload) => Ok(payload),
        Payload::Inference(_) => Err(failure::bug("a training task of an inference job")),
    }
}

/// The fold whose weights the results folder holds: fold_all or fold_X.
pub fn fold_folder(fold: FoldId) -> String {
    format!("fold_{fold}")
}

/// Fetches and reads a JSON artifact.
pub fn fetch_json<T: DeserializeOwned>(
    context: &TaskContext,
    artifact: &ArtifactRef,
    what: &str,
) -> Result<T, Failure> {
    let bytes = context.download(artifact)?;
    schemas::parse(&bytes).map_err(|error| failure::lasting("bad-artifact", format!("{what}: {error}")))
}

/// Stores a value as a JSON artifact.
pub fn store_json<T: serde::Serialize>(
    context: &TaskContext,
    owner: &str,
    value: &T,
) -> Result<ArtifactRef, Failure> {
    let bytes = serde_json::to_vec(value).map_err(|error| failure::bug(error.to_string()))?;
    context.upload(owner, &bytes)
}

/// A pass that the phase does not know.
pub fn unknown_input(task: &Task) -> Failure {
    failure::bug(format!("{} pass {} does not take this input", task.key.phase, task.key.pass))
}
