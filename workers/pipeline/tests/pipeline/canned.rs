//! Jobs and outputs that need no nnU-Net: every output is a pure function of its task.

use pipeline::worker::{Phase, TaskContext};
use schemas::{
    PROTOCOL_VERSION,
    event::{Accepted, Member},
    job::{Device, JobMessage},
    masking::{RevealedShare, SealedShares, SignedKeys, SiteKeys, SiteShares},
    names::{self, GLOBAL, ORCHESTRATOR},
    site::{Announce, AnnouncedDataset},
    task::{ArtifactRef, EpochReport, Failure, Task, TaskInput, TaskOutput, Validation},
};
use serde_json::json;

/// The program version in all tests.
pub const VERSION: &str = "0.0.0-test";

/// A training message for sites `a`, `b`, ... with data sets `set-a`, `set-b`, ...
pub fn training(job: Option<&str>, sites: &[&str], rounds: u32) -> JobMessage {
    let datasets: Vec<String> = sites.iter().map(|site| format!("set-{site}")).collect();
    let mut message = json!({
        "datasets": datasets,
        "payload": {
            "mode": "training", "num_rounds": rounds, "dataset_id": 4,
            "model_configuration": "3d_fullres", "device": "cpu", "epochs_per_round": 2
        },
        "federation": { "shard_cases": 2, "seed": 7 }
    });
    if let Some(job) = job {
        message["job_id"] = json!(job);
    }
    JobMessage::parse(message.to_string().as_bytes(), None).unwrap()
}

/// An inference message for the same sites.
pub fn inference(job: Option<&str>, sites: &[&str], model: &str) -> JobMessage {
    let datasets: Vec<String> = sites.iter().map(|site| format!("set-{site}")).collect();
    let message = json!({
        "job_id": job, "datasets": datasets,
        "payload": { "mode": "inference", "checkpoint_path": model, "fold_id": "all", "device": "cpu" },
        "federation": { "shard_cases": 2 }
    });
    JobMessage::parse(message.to_string().as_bytes(), None).unwrap()
}

/// Training cases of a site: unlike at each, and more than one window of shards at site `a`.
pub fn cases(site: &str) -> u32 {
    match site {
        "a" => 21,
        "b" => 5,
        _ => 2,
    }
}

/// How a message would be accepted.
pub fn accepted(job: &str, message: JobMessage, sites: &[&str]) -> Accepted {
    let member = |site: &&str| Member {
        site: site.to_string(),
        dataset: format!("set-{site}"),
        device: Some(Device::Cpu),
        cases: cases(site),
    };
    Accepted {
        job: job.to_owned(),
        submit: 1,
        seed: message.federation.seed,
        message,
        members: sites.iter().map(member).collect(),
        protocol: PROTOCOL_VERSION,
        version: VERSION.to_owned(),
        algorithm: 0,
        continues: None,
        model: None,
        signed: None,
        warnings: Vec::new(),
        time: "2026-01-01T00:00:00Z".to_owned(),
    }
}

/// What a site says of itself.
pub fn announce(site: &str) -> Announce {
    Announce {
        site: site.to_owned(),
        protocol: PROTOCOL_VERSION,
        version: VERSION.to_owned(),
        algorithm: 0,
        datasets: vec![AnnouncedDataset {
            id: format!("set-{site}"),
            dataset_id: 4,
            cases: cases(site),
        }],
        devices: vec![Device::Cpu],
        time: "2026-01-01T00:00:00Z".to_owned(),
    }
}

/// The output of a task. `store` keeps bytes and gives their reference.
pub fn output(
    task: &Task,
    store: &mut dyn FnMut(Vec<u8>) -> Result<ArtifactRef, Failure>,
) -> Result<TaskOutput, Failure> {
    let key = &task.key;
    let digits = |what: &str| schemas::sha256(format!("{what} {} {}", key.site, key.round).as_bytes());
    let mut artifact = |what: &str| {
        // The bytes say what was made from what, so that any difference of inputs shows in the digest.
        let made = json!([
            what,
            key.site,
            key.phase,
            key.round,
            key.pass,
            key.shard,
            task.shards,
            task.input
        ]);
        store(made.to_string().into_bytes())
    };
    Ok(match &task.input {
        TaskInput::Inventory {} => TaskOutput::Inventory {
            dataset_json: json!({"labels": {"background": 0, "tumour": 1}}),
            cases: cases(&key.site),
            digest: schemas::sha256(key.site.as_bytes()),
        },
        TaskInput::Scan { .. } | TaskInput::Select { .. } => TaskOutput::FingerprintPart {
            part: artifact("part")?,
        },
        TaskInput::AggregateInventory { sites } => TaskOutput::PooledDescriptors {
            dataset_json: artifact("dataset")?,
            cases_total: sites.iter().map(|site| u64::from(site.cases)).sum(),
        },
        TaskInput::AggregateScan { .. } => TaskOutput::PooledScan {
            scan: artifact("scan")?,
            request: artifact("request")?,
        },
        TaskInput::AggregateSelect { .. } => TaskOutput::PooledFingerprint {
            fingerprint: artifact("fingerprint")?,
        },
        TaskInput::PlanVerify { pooled } => {
            let plans = json!({"configurations": {"3d_fullres": {"batch_size": 2}}});
            let federation = &task.job.message.federation;
            TaskOutput::Plans {
                plans_digest: schemas::sha256(format!("{plans}{}", pooled.fingerprint.digest).as_bytes()),
                plans,
                weights_digest: schemas::sha256(b"weights"),
                checkpoint_digest: federation
                    .initial_checkpoint
                    .as_ref()
                    .map(|_| schemas::sha256(b"checkpoint")),
                weights: match (&federation.initial_checkpoint, federation.norm_bound) {
                    (Some(_), Some(_)) => Some(store(b"weights".to_vec())?),
                    _ => None,
                },
                training_cases: cases(&key.site),
                validation_cases: 1,
                survey: None,
            }
        }
        TaskInput::Preprocess { .. } => TaskOutput::Preprocessed { made: 2, cached: 0 },
        TaskInput::TrainRound {
            epochs_before, base, ..
        } => {
            let epochs = match key.pass {
                0 => 2,
                _ => 0,
            };
            let report = |index: u32| EpochReport {
                epoch: epochs_before + index,
                learning_rate: 0.01,
                train_loss: -f64::from(key.round) - f64::from(cases(&key.site)),
                iterations: 10,
                seconds: 1.0,
            };
            TaskOutput::Trained {
                update_norm: None,
                base: base.digest().to_owned(),
                update: match key.pass {
                    0 => Some(artifact("update")?),
                    _ => None,
                },
                epochs: (0..epochs).map(report).collect(),
                validation: Validation {
                    // Best in the middle, so that the best is not the last.
                    true_positives: vec![[1, 3, 9, 4, 2][(key.round + key.pass) as usize % 5], 0],
                    false_positives: vec![3, 0],
                    false_negatives: vec![2, 0],
                    loss: 0.5,
                    on_training_cases: true,
                },
            }
        }
        TaskInput::MakeKeys {} => TaskOutput::Keys {
            keys: SignedKeys {
                keys: SiteKeys {
                    job: key.job.clone(),
                    phase: key.phase,
                    round: key.round,
                    site: key.site.clone(),
                    sharing: digits("sharing"),
                    masking: digits("masking"),
                    seed: digits("seed"),
                },
                signature: None,
            },
        },
        TaskInput::ShareSecrets { keys } => TaskOutput::Shared {
            shares: keys
                .iter()
                .filter(|own| own.keys.site != key.site)
                .map(|own| SealedShares {
                    from: key.site.clone(),
                    to: own.keys.site.clone(),
                    sealed: digits(&own.keys.site) + &digits("tag") + &digits("end")[..32],
                })
                .collect(),
        },
        TaskInput::Unmask { sharers, counted, .. } => {
            let told = |of: &str| RevealedShare {
                site: of.to_owned(),
                share: digits(of),
            };
            let rest = sharers.iter().filter(|site| !counted.contains(site));
            TaskOutput::Unmasked {
                shares: SiteShares {
                    site: key.site.clone(),
                    seeds: counted.iter().map(|site| told(site)).collect(),
                    keys: rest.map(|site| told(site)).collect(),
                },
            }
        }
        TaskInput::Average { .. } => TaskOutput::Averaged {
            global: artifact("global")?,
            bounded: Vec::new(),
        },
        TaskInput::Results { .. } => TaskOutput::Results {
            archive: artifact("results")?,
        },
        TaskInput::Validate { .. } => TaskOutput::Validated {
            scores: artifact("scores")?,
        },
        TaskInput::InspectModel {} => TaskOutput::Model {
            digest: schemas::sha256(b"model"),
            cases: cases(&key.site),
        },
        TaskInput::Predict { .. } => TaskOutput::Predicted {
            done: 2,
            failures: Vec::new(),
        },
        TaskInput::Collect { .. } => TaskOutput::Collected {
            archive: artifact("zip")?,
            cases: cases(&key.site),
            failures: Vec::new(),
            scores: None,
            pictures: Vec::new(),
        },
    })
}

/// Where a task's artifacts belong.
pub fn owner(site: &str) -> &str {
    if site == ORCHESTRATOR { GLOBAL } else { site }
}

/// Every artifact that a task starts from.
pub fn artifacts_in(input: &TaskInput) -> Vec<ArtifactRef> {
    let mut found = Vec::new();
    walk(&serde_json::to_value(input).unwrap(), &mut found);
    found
}

fn walk(value: &serde_json::Value, found: &mut Vec<ArtifactRef>) {
    if let Ok(artifact) = serde_json::from_value(value.clone()) {
        found.push(artifact);
    } else if let Some(fields) = value.as_object() {
        fields.values().for_each(|value| walk(value, found));
    } else if let Some(items) = value.as_array() {
        items.iter().for_each(|value| walk(value, found));
    }
}

/// A phase that answers with [`output`], having fetched all that its input names.
macro_rules! canned_phase {
    ($($name:ident = $phase:ident),* $(,)?) => {$(
        pub struct $name;

        impl Phase for $name {
            const NAME: names::Phase = names::Phase::$phase;

            fn heavy(&self, _: &Task) -> bool {
                names::Phase::$phase == names::Phase::TrainRound
            }

            fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
                run(task, context)
            }
        }
    )*};
}

canned_phase! {
    Fingerprint = Fingerprint,
    Aggregate = Aggregate,
    PlanVerify = PlanVerify,
    Preprocess = Preprocess,
    TrainRound = TrainRound,
    Average = Average,
    Infer = Infer,
}

fn run(task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
    for artifact in artifacts_in(&task.input) {
        context.download(&artifact)?;
    }
    context.progress("steps", 1, 1);
    output(task, &mut |bytes| context.upload(bytes))
}
