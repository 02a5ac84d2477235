//! The seven phases: a task in, one call into `nnunet`, an output back. A build without libtorch has those of an
//! orchestrator, and of a site fingerprint and preprocess.

pub mod aggregate;
pub mod average;
pub mod failure;
pub mod fingerprint;
pub mod infer;
pub mod initial;
pub mod masking;
#[cfg(test)]
mod masking_tests;
pub mod mid_round;
pub mod model;
pub mod momentum;
#[cfg(feature = "torch")]
pub mod plan_verify;
pub mod planned;
pub mod preprocess;
pub mod protected;
pub mod replica;
#[cfg(feature = "torch")]
pub mod survey;
#[cfg(feature = "torch")]
pub mod train_round;

use std::{ops::Range, path::PathBuf, sync::Arc};

use nnunet::progress::Observer;
use pipeline::{
    exit::Kind,
    worker::{Described, Phase, TaskContext},
};
use schemas::{
    job::{Device, Payload, TrainingPayload},
    names,
    task::{ArtifactRef, Failure, Task, TaskInput, TaskOutput},
};
use serde::de::DeserializeOwned;

use crate::site::Site;

/// Passes the algorithm's progress on to the pipeline.
pub struct Watch<'a>(pub &'a TaskContext);

/// What is counted that outlives a crash; iterations and tiles are done again.
const LASTING: [&str; 2] = ["cases", "cases predicted"];

impl Observer for Watch<'_> {
    fn advanced(&self, what: &str, done: usize, total: usize) {
        self.0.progress(what, done, total);
        if LASTING.contains(&what) {
            self.0.finished(what, done);
        }
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

/// Fetches and reads a JSON artifact.
pub fn fetch_json<T: DeserializeOwned>(
    context: &TaskContext,
    artifact: &ArtifactRef,
    what: &str,
) -> Result<T, Failure> {
    let bytes = context.download(artifact)?;
    schemas::parse(&bytes).map_err(|error| Failure::fatal("bad-artifact", format!("{what}: {error}")))
}

/// Stores a value as a JSON artifact.
pub fn store_json<T: serde::Serialize>(context: &TaskContext, value: &T) -> Result<ArtifactRef, Failure> {
    let bytes = serde_json::to_vec(value).map_err(|error| failure::bug(error.to_string()))?;
    context.upload(bytes)
}

/// [`store_json`] of what may leave a site.
pub fn send_json<T: serde::Serialize>(
    context: &TaskContext,
    kind: Kind,
    value: &T,
) -> Result<ArtifactRef, Failure> {
    let bytes = serde_json::to_vec(value).map_err(|error| failure::bug(error.to_string()))?;
    context.send(kind, bytes)
}

/// A document as nnU-Net writes it.
pub fn document<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    schemas::nnunet::python_json::to_string(value).map_err(|error| failure::bug(error.to_string()))
}

/// A pass that the phase does not know.
pub fn unknown_input(task: &Task) -> Failure {
    failure::bug(format!(
        "{} pass {} does not take this input",
        task.key.phase, task.key.pass
    ))
}

/// The handler of one of a site's phases.
macro_rules! site_phase {
    ($(#[$doc:meta])* $handler:ident, $module:ident, $heavy:expr) => {
        $(#[$doc])*
        pub struct $handler(pub Arc<Site>);

        impl Phase for $handler {
            const NAME: names::Phase = names::Phase::$handler;

            fn heavy(&self, task: &Task) -> bool {
                let heavy: fn(&TaskInput) -> bool = $heavy;
                heavy(&task.input)
            }

            fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
                context.describe(described(&self.0, task));
                self.0.begin(task)?;
                $module::run(&self.0, task, context)
            }
        }
    };
}

site_phase!(
    /// Inventory, scan, select.
    Fingerprint, fingerprint, |_| false
);
#[cfg(feature = "torch")]
site_phase!(
    /// Plans and initial weights.
    PlanVerify, plan_verify, |_| false
);
site_phase!(
    /// Cases into the cache.
    Preprocess, preprocess, |_| true
);
#[cfg(feature = "torch")]
site_phase!(
    /// Scores and local epochs.
    TrainRound, train_round, |input| matches!(input, TaskInput::TrainRound { .. })
);
#[cfg(feature = "torch")]
site_phase!(
    /// Segmentations.
    Infer, infer, |input| matches!(input, TaskInput::Predict { .. } | TaskInput::Validate { .. })
);

/// Merges the passes of the fingerprint, at the orchestrator.
pub struct Aggregate;

impl Phase for Aggregate {
    const NAME: names::Phase = names::Phase::Aggregate;

    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        aggregate::run(task, context)
    }
}

/// Averages updates and writes results folders, at the orchestrator. Holds the folder for temporaries.
pub struct Average(pub PathBuf);

impl Phase for Average {
    const NAME: names::Phase = names::Phase::Average;

    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        average::run(&self.0, task, context)
    }
}

/// What may decide the bytes of a result.
pub fn described(site: &Site, task: &Task) -> Described {
    let device = device_of(site, task).map_or("none", |device| device.as_str());
    Described {
        device: device.to_owned(),
        threads: site.settings.threads as u32,
        instruction_set: nnunet::device::instruction_set(),
    }
}

/// The device that the job gives this site.
pub fn device_of(site: &Site, task: &Task) -> Result<Device, Failure> {
    let member = task
        .job
        .members
        .iter()
        .find(|member| member.site == task.key.site);
    match member.and_then(|member| member.device) {
        Some(device) => Ok(device),
        None => nnunet::device::best(&site.settings.devices)
            .ok_or_else(|| Failure::fatal("no-device", "this site's settings list no device")),
    }
}
