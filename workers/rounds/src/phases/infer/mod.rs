//! infer: digest the model and freeze the list of scans, segment a shard of them, zip the segmentations. Of a training
//! job: segment and score the validation cases.

mod collect;
mod pictures;
#[cfg(feature = "torch")]
mod predict;
mod scans;
#[cfg(feature = "torch")]
mod validate;

use std::path::PathBuf;

use nnunet::{dataset::RawCase, evaluate::ScoredCase};
use pipeline::worker::TaskContext;
use schemas::{
    job::Payload,
    task::{Failure, Task, TaskInput, TaskOutput},
};
use serde::{Deserialize, Serialize};

use self::scans::Scans;
#[cfg(feature = "torch")]
use super::device_of;
use super::{Watch, failure, model, shard, unknown_input};
use crate::{job_folder::SEGMENTED, memory::KeepFreed, site::Site};

/// Runs one task.
#[cfg(feature = "torch")]
pub fn run(site: &Site, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    let _kept = KeepFreed::small();
    let payload = match &task.job.message.payload {
        Payload::Inference(payload) => payload,
        Payload::Training(payload) => return validate::run(site, task, context, payload),
    };
    let named = model::named(task)?;
    let folder = model::folder(site, task, context, &named)?;
    let digest = model::digest(&folder, &named)?;
    let dataset = scans::dataset(site, task)?;
    let model = Model {
        folder,
        digest,
        dataset,
    };
    match &task.input {
        TaskInput::InspectModel {} => {
            let scans = Scans::freeze(site, task, payload, model.dataset.as_ref(), &model.folder)?;
            Ok(TaskOutput::Model {
                digest: model.digest,
                cases: scans.cases().len() as u32,
            })
        }
        TaskInput::Predict { model_digest } => {
            model.must_be(model_digest)?;
            predict::run(site, task, context, payload, &model)
        }
        TaskInput::Collect { model_digest } => {
            model.must_be(model_digest)?;
            collect::run(site, task, context, payload, &model)
        }
        _ => Err(unknown_input(task)),
    }
}

/// The files of segmentations that an inference job would take from the site.
///
/// # Errors
/// As of the job's first task.
pub fn would_leave(site: &Site, task: &Task) -> Result<Vec<String>, Failure> {
    let Payload::Inference(payload) = &task.job.message.payload else {
        return Ok(Vec::new());
    };
    let dataset = scans::dataset(site, task)?;
    // Only a data set that is not described needs the model to say what its scans are.
    let model = match &dataset {
        Some(_) => PathBuf::new(),
        None => model::local_folder(site, &model::named(task)?)?,
    };
    let scans = Scans::find(site, task, payload, dataset.as_ref(), &model)?;
    let file = |case: RawCase| format!("{}{}", case.identifier, scans.file_ending);
    Ok(scans.cases().into_iter().map(file).collect())
}

/// What segments, and what is segmented.
struct Model {
    /// Trainer__Plans__Configuration.
    folder: PathBuf,
    /// Of checkpoint, plans and dataset.json.
    digest: String,
    /// The site's data set, where it is described.
    dataset: Option<nnunet::dataset::RawDataset>,
}

impl Model {
    fn must_be(&self, expected: &str) -> Result<(), Failure> {
        if self.digest == expected {
            return Ok(());
        }
        let message = format!("the model here has digest {}, the job's {expected}", self.digest);
        Err(Failure::fatal("model-differs", message))
    }
}

/// What became of a shard's cases, beside their segmentations.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Segmented {
    /// Cases without a segmentation.
    failures: Vec<Failure>,
    /// How the segmentations did, where there is a reference and the job asks.
    scores: Vec<ScoredCase>,
    /// Segmentations whose reference could not be held against them.
    unscored: Vec<Failure>,
}

impl Segmented {
    /// Where it is kept.
    fn file(site: &Site, task: &Task, shard: u32) -> PathBuf {
        site.job(task).join(SEGMENTED).join(format!("{shard}.json"))
    }
}
