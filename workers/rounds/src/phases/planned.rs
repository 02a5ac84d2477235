//! What a training job goes by: the pooled documents, and the plans that are made from them or kept from a checkpoint.
//! The same at every site and at the orchestrator.

use nnunet::{
    fingerprint::CaseShape,
    network::{Layout, StateDict, initial_weights},
    plan::{Options, Planner, plan_experiment},
    train::{TrainerVariant, network_of},
};
use pipeline::worker::TaskContext;
use schemas::{
    job::{self, TrainingPayload},
    nnunet::{Configuration, DatasetJson, Fingerprint, Plans},
    survey::Room,
    task::{Failure, Pooled, Task},
};
use serde_json::Value;

use super::{device_of, failure, fetch_json, training};
use crate::{
    free_memory::{self, Need},
    room,
    site::Site,
};

/// The pooled documents and the plans.
pub struct Planned {
    /// dataset_fingerprint.json of all sites.
    pub fingerprint: Fingerprint,
    /// dataset.json of all sites.
    pub dataset_json: DatasetJson,
    /// The plans; `dataset_name` and `image_reader_writer` as given.
    pub plans: Plans,
    /// The configuration that the job trains.
    pub configuration: Configuration,
    /// The job's trainer.
    pub trainer_name: String,
    /// Digest of the plans without `dataset_name` and `image_reader_writer`.
    pub digest: String,
}

impl Planned {
    /// Fetches the pooled documents, and plans from them where no plans are kept.
    pub fn make(
        context: &TaskContext,
        task: &Task,
        pooled: &Pooled,
        kept_plans: Option<&Value>,
        dataset_name: &str,
        reader: &str,
    ) -> Result<Self, Failure> {
        let fingerprint: Fingerprint = fetch_json(context, &pooled.fingerprint, "the pooled fingerprint")?;
        let dataset_json: DatasetJson = fetch_json(context, &pooled.dataset_json, "the pooled dataset.json")?;
        let plans = match kept_plans {
            Some(kept) => with_own(kept, dataset_name, reader)?,
            None => plan(task, &fingerprint, &dataset_json, dataset_name, reader)?,
        };
        let payload = training(task)?;
        let name = payload.model_configuration.as_str();
        let configuration = plans.configuration(name).map_err(|error| {
            let planned: Vec<&str> = plans.configuration_names().collect();
            let reason = format!(
                "payload.model_configuration: {error}; the plans have {}",
                planned.join(", ")
            );
            Failure::fatal("no-configuration", reason)
        })?;
        let digest = plans
            .digest()
            .map_err(|error| Failure::fatal("plans", error.to_string()))?;
        Ok(Self {
            fingerprint,
            dataset_json,
            plans,
            configuration,
            trainer_name: payload.trainer_name.clone(),
            digest,
        })
    }

    /// Fails where these plans are not the ones all sites agreed on.
    pub fn must_be(&self, digest: &str) -> Result<(), Failure> {
        if self.digest == digest {
            return Ok(());
        }
        let message = format!(
            "the plans made here have digest {}, the job's {digest}",
            self.digest
        );
        Err(Failure::fatal("plan-differs", message))
    }

    /// The parameters of the network that the job's trainer builds.
    pub fn layout(&self) -> Result<Layout, Failure> {
        Layout::new(
            &network_of(&self.trainer_name, &self.configuration.architecture),
            self.dataset_json.channels(),
            self.dataset_json.segmentation_heads(),
        )
        .map_err(failure::of_error)
    }

    /// Fails where the device that the job gives this site has too little memory for an iteration.
    pub fn must_fit(&self, site: &Site, task: &Task) -> Result<(), Failure> {
        let layout = self.layout()?;
        let need = self.need(site, task, &layout)?;
        need.check(free_memory::of_device(need.device))
            .map_err(|reason| Failure::retryable("out-of-memory", reason))
    }

    /// About how many bytes cases of these shapes take once they are preprocessed.
    pub fn preprocessed_bytes(&self, shapes: &[CaseShape]) -> u64 {
        let shapes = shapes.iter().map(|case| {
            let shape = case.after.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            (shape, case.spacing_bits.map(f64::from_bits))
        });
        room::estimate(shapes, &self.plans, &self.configuration)
    }

    /// The memory that an iteration needs on the device that the job gives this site, and what is free there.
    pub fn memory(&self, site: &Site, task: &Task) -> Result<Room, Failure> {
        let layout = self.layout()?;
        let need = self.need(site, task, &layout)?;
        Ok(Room {
            needed: need.needed(),
            free: free_memory::of_device(need.device),
        })
    }

    fn need<'a>(&'a self, site: &Site, task: &Task, layout: &'a Layout) -> Result<Need<'a>, Failure> {
        Ok(Need {
            variant: TrainerVariant::by_name(&self.trainer_name).map_err(failure::of_error)?,
            configuration: &self.configuration,
            layout,
            device: device_of(site, task)?,
            bfloat16: task.job.message.federation.bfloat16,
            micro_batch: site.settings.micro_batch,
        })
    }

    /// The weights of a training that starts from no checkpoint.
    pub fn drawn_weights(&self, task: &Task) -> Result<StateDict, Failure> {
        initial_weights(&self.layout()?, task.job.seed).map_err(failure::of_error)
    }
}

/// The plans made from the pooled documents.
pub fn plan(
    task: &Task,
    fingerprint: &Fingerprint,
    dataset_json: &DatasetJson,
    dataset_name: &str,
    reader: &str,
) -> Result<Plans, Failure> {
    let federation = &task.job.message.federation;
    let options = Options {
        planner: match federation.planner {
            job::Planner::ExperimentPlanner => Planner::Default,
            job::Planner::ResEncUNetPlanner => Planner::ResEnc,
            job::Planner::ResEncM => Planner::ResEncM,
            job::Planner::ResEncL => Planner::ResEncL,
            job::Planner::ResEncXL => Planner::ResEncXL,
            job::Planner::Torchres => Planner::Torchres,
            job::Planner::ResEncLTorchres => Planner::ResEncLTorchres,
            job::Planner::ResEncLTorchresSepz => Planner::ResEncLTorchresSepz,
            job::Planner::ResEncLNoResampling => Planner::ResEncLNoResampling,
        },
        gpu_memory_target_gb: federation.gpu_memory_target_gb,
        overwrite_target_spacing: federation.overwrite_target_spacing,
        plans_name: federation.plans.clone(),
        ..Options::default()
    };
    plan_experiment(fingerprint, dataset_json, &options, dataset_name, reader).map_err(failure::of_error)
}

/// Kept plans with the two entries that are each site's own.
fn with_own(kept: &Value, dataset_name: &str, reader: &str) -> Result<Plans, Failure> {
    let mut plans = kept.clone();
    if let Value::Object(fields) = &mut plans {
        fields.insert("dataset_name".to_owned(), dataset_name.into());
        fields.insert("image_reader_writer".to_owned(), reader.into());
    }
    Plans::from_value(&plans).map_err(|error| Failure::fatal("plans", format!("the kept plans: {error}")))
}

/// `DatasetXYZ_name` of the federation.
pub fn dataset_name(task: &Task, payload: &TrainingPayload) -> String {
    let name = task
        .job
        .message
        .federation
        .name
        .as_deref()
        .unwrap_or(&task.job.job);
    format!("Dataset{:03}_{name}", payload.dataset_id)
}
