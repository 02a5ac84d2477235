//! Sites that do not train: they only touch the weights.

use std::path::PathBuf;

use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::safetensors,
    network::{StateDict, Tensor32},
    progress::Unobserved,
};
use pipeline::worker::{Phase, TaskContext};
use schemas::{
    names,
    task::{EpochReport, Failure, Task, TaskInput, TaskOutput, Update, Validation, Weights},
};
use serde_json::json;

/// Tensors of the stub's network.
const TENSORS: usize = 24;

/// What all stubs share.
#[derive(Clone)]
pub struct Stub {
    /// Where what is averaged lies meanwhile.
    pub scratch: PathBuf,
    /// Bytes of a model.
    pub bytes: usize,
}

/// A phase that answers with [`Stub::run`].
macro_rules! stubs {
    ($($name:ident),*) => {$(
        pub struct $name(pub Stub);

        impl Phase for $name {
            const NAME: names::Phase = names::Phase::$name;

            fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
                self.0.run(task, context)
            }
        }
    )*};
}

stubs!(
    Fingerprint,
    PlanVerify,
    Preprocess,
    TrainRound,
    Aggregate,
    Average
);

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::fatal("stub", error.to_string())
}

impl Stub {
    fn initial(&self) -> StateDict {
        let values = self.bytes / 4 / TENSORS;
        let mut weights = StateDict::new();
        for index in 0..TENSORS {
            let tensor = Tensor32 {
                shape: vec![values],
                data: vec![0.0; values],
            };
            weights
                .insert(format!("{index:02}"), tensor)
                .expect("a name once");
        }
        weights
    }

    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        let store = |what: &str| context.upload(what.as_bytes().to_vec());
        let digest = |what: &str| schemas::sha256(what.as_bytes());
        Ok(match &task.input {
            TaskInput::Inventory {} => TaskOutput::Inventory {
                dataset_json: json!({ "labels": { "background": 0, "tumour": 1 } }),
                cases: 2,
                digest: digest("cases"),
            },
            TaskInput::Scan { .. } | TaskInput::Select { .. } => {
                TaskOutput::FingerprintPart { part: store("part")? }
            }
            TaskInput::AggregateInventory { sites } => TaskOutput::PooledDescriptors {
                dataset_json: store("dataset.json")?,
                cases_total: sites.iter().map(|site| u64::from(site.cases)).sum(),
            },
            TaskInput::AggregateScan { .. } => TaskOutput::PooledScan {
                scan: store("scan")?,
                request: store("request")?,
            },
            TaskInput::AggregateSelect { .. } => TaskOutput::PooledFingerprint {
                fingerprint: store("fingerprint")?,
            },
            TaskInput::PlanVerify { .. } => TaskOutput::Plans {
                plans: json!({}),
                plans_digest: digest("plans"),
                weights_digest: digest("weights"),
                checkpoint_digest: None,
                weights: None,
                training_cases: 2,
                validation_cases: 1,
                survey: None,
            },
            TaskInput::Preprocess { .. } => TaskOutput::Preprocessed { made: 2, cached: 0 },
            TaskInput::TrainRound { base, .. } => self.train(task, context, base)?,
            TaskInput::Average { updates, .. } => {
                let folder = tempfile::tempdir_in(&self.scratch).map_err(failed)?;
                let contribution = |update: &Update| Contribution {
                    site: update.site.clone(),
                    weights: folder.path().join(&update.site),
                    weight: update.weight,
                };
                let contributions: Vec<_> = updates.iter().map(contribution).collect();
                let pairs = updates.iter().zip(&contributions);
                let files: Vec<_> = pairs
                    .map(|(update, to)| (&update.artifact, &*to.weights))
                    .collect();
                context.download_updates(&files)?;
                let output = folder.path().join("average");
                let averaged = average(&contributions, &Rule::Mean, &output, &Unobserved).map_err(failed)?;
                TaskOutput::Averaged {
                    global: context.upload_digested(&output, averaged.digest)?,
                    bounded: Vec::new(),
                }
            }
            TaskInput::Results { .. } => TaskOutput::Results {
                archive: store("results")?,
            },
            _ => return Err(failed("not a task of training")),
        })
    }

    /// Fetches the global weights, adds one to each, and sends them.
    fn train(&self, task: &Task, context: &TaskContext, base: &Weights) -> Result<TaskOutput, Failure> {
        let start = match base {
            Weights::Initial { .. } => self.initial(),
            Weights::Average { artifact } => {
                safetensors::from_bytes(&context.download(artifact)?, "the average").map_err(failed)?
            }
        };
        let training = task.key.pass == 0;
        let update = if training {
            let mut touched = StateDict::new();
            for (name, mut tensor) in start {
                tensor.data.iter_mut().for_each(|value| *value += 1.0);
                touched.insert(name, tensor).map_err(failed)?;
            }
            Some(context.upload(safetensors::to_bytes(&touched))?)
        } else {
            None
        };
        let epoch = EpochReport {
            epoch: task.key.round,
            learning_rate: 0.01,
            train_loss: 0.0,
            iterations: 1,
            seconds: 0.0,
        };
        Ok(TaskOutput::Trained {
            update,
            epochs: if training { vec![epoch] } else { Vec::new() },
            validation: Validation {
                true_positives: vec![1],
                false_positives: vec![1],
                false_negatives: vec![1],
                loss: 0.0,
                on_training_cases: true,
            },
            base: base.digest().to_owned(),
            update_norm: None,
        })
    }
}
