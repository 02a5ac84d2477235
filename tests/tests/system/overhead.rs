//! What a round costs when nobody trains: stub trainers that only touch the weights. Everything between them is real: a
//! nats-server that syncs always, a conductor with an archive, the averaging. Figures are printed, never asserted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use futures::StreamExt;
use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::safetensors,
    network::{StateDict, Tensor32},
    progress::Unobserved,
};
use pipeline::{
    archive::Archive,
    client::{Client, Verdict, Watched},
    conductor::Conductor,
    connection::Connection,
    metrics::Metrics,
    server::{Server, ServerSettings},
    streams::{self, Pace, StreamSettings},
    worker::{Phase, TaskContext, Worker, WorkerSettings, announce},
};
use schemas::{
    PROTOCOL_VERSION,
    event::Event,
    job::{Device, JobMessage},
    names::{self, ORCHESTRATOR},
    site::{Announce, AnnouncedDataset},
    task::{EpochReport, Failure, Task, TaskInput, TaskOutput, Update, Validation, Weights},
};
use serde_json::json;
use tests::{federation::PATIENCE, process};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const VERSION: &str = "stub";
/// Tensors of the stub's network.
const TENSORS: usize = 24;

/// What all stubs share.
#[derive(Clone)]
struct Stub {
    scratch: PathBuf,
    /// Bytes of a model.
    bytes: usize,
}

/// A phase that answers with [`Stub::run`].
macro_rules! stubs {
    ($($name:ident),*) => {$(
        struct $name(Stub);

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

/// Where a federation of stubs runs.
struct Stage<'a> {
    folder: &'a Path,
    stop: &'a CancellationToken,
}

impl Stage<'_> {
    fn start<P: Phase>(&self, connection: &Connection, site: &str, phase: P, archive: Option<&Archive>) {
        let settings = WorkerSettings {
            archive: archive.cloned(),
            ..WorkerSettings::new(site, VERSION, self.folder.join(site))
        };
        let worker = Worker::new(connection.clone(), phase, settings, Metrics::new());
        tokio::spawn(worker.run(self.stop.clone()));
    }
}

/// Seconds of each round of a job of stubs, and the bytes that the artifacts' stream holds behind the third and the
/// last.
async fn rounds(sites: usize, bytes: usize, rounds: u32) -> anyhow::Result<(Vec<f64>, [u64; 2])> {
    let folder = tempfile::tempdir()?;
    let settings = ServerSettings {
        program: process::nats_server(),
        ..ServerSettings::new(folder.path().join("nats"))
    };
    let server = tokio::task::spawn_blocking(move || Server::start(&settings)).await??;
    let connection = Connection::open(&server.access(), "overhead", PATIENCE, &Metrics::new()).await?;
    streams::set_up(&connection, &StreamSettings::default()).await?;
    let stop = CancellationToken::new();
    let stage = Stage {
        folder: folder.path(),
        stop: &stop,
    };
    let stub = Stub {
        scratch: folder.path().to_owned(),
        bytes,
    };
    let names: Vec<String> = (0..sites).map(|index| format!("site-{index:03}")).collect();
    for site in &names {
        streams::set_up_site(&connection, site, Pace::default()).await?;
        let connection = Connection::open(&server.access(), site, PATIENCE, &Metrics::new()).await?;
        let announced = Announce {
            site: site.clone(),
            protocol: PROTOCOL_VERSION,
            version: VERSION.to_owned(),
            algorithm: 0,
            datasets: vec![AnnouncedDataset {
                id: site.clone(),
                dataset_id: 1,
                cases: 2,
            }],
            devices: vec![Device::Cpu],
            time: String::new(),
        };
        announce(&connection, &announced).await?;
        stage.start(&connection, site, Fingerprint(stub.clone()), None);
        stage.start(&connection, site, PlanVerify(stub.clone()), None);
        stage.start(&connection, site, Preprocess(stub.clone()), None);
        stage.start(&connection, site, TrainRound(stub.clone()), None);
    }
    streams::set_up_site(&connection, ORCHESTRATOR, Pace::default()).await?;
    let archive = Archive::open(folder.path().join("archive"))?;
    stage.start(&connection, ORCHESTRATOR, Aggregate(stub.clone()), Some(&archive));
    stage.start(&connection, ORCHESTRATOR, Average(stub), Some(&archive));
    let check = Arc::new(|_: &JobMessage| Ok(Vec::new()));
    let conductor = Conductor::new(connection.clone(), VERSION, check, Metrics::new());
    tokio::spawn(conductor.with_archive(archive).run(stop.clone()));

    let message = json!({
        "datasets": names,
        "payload": { "mode": "training", "num_rounds": rounds, "dataset_id": 1, "device": "cpu",
                     "model_configuration": "3d_fullres" },
    });
    let client = Client::new(connection.clone());
    let submit = client.submit_bytes(message.to_string().into()).await?;
    let Verdict::Accepted(accepted) = client.verdict(submit).await? else {
        anyhow::bail!("the job was rejected");
    };
    let mut watching = client.watch(&accepted.job).await?;
    let (mut seconds, mut stored, mut begun) = (Vec::new(), [0; 2], None);
    loop {
        let next = tokio::time::timeout(PATIENCE, watching.next()).await?;
        let Some(Watched::Event(event)) = next else {
            anyhow::ensure!(next.is_some(), "the job ended without its end");
            continue;
        };
        match event {
            Event::Released(release) if release.phase == names::Phase::TrainRound => {
                if let Some(begun) = begun.replace(Instant::now()) {
                    seconds.push((Instant::now() - begun).as_secs_f64());
                }
                let mut stream = connection.jetstream().get_stream(streams::ARTIFACTS).await?;
                let bytes = stream.info().await?.state.bytes;
                stored[1] = bytes;
                if release.round <= 3 {
                    stored[0] = bytes;
                }
            }
            Event::Finished(_) => break,
            event if event.is_end() => anyhow::bail!("{event:?}"),
            _ => {}
        }
    }
    stop.cancel();
    Ok((seconds, stored))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

#[test]
#[ignore = "a measurement: just overhead"]
fn overhead_of_a_round() {
    for megabytes in [12, 120] {
        let (seconds, _) = runtime().block_on(rounds(3, megabytes * 1_000_000, 6)).unwrap();
        let line = json!({ "peer": "rounds", "megabytes": megabytes, "seconds": median(seconds) });
        println!("\n{line}");
    }
}

#[test]
#[ignore = "a measurement: just scale"]
fn overhead_of_many_sites() {
    println!("\n{:>6}{:>16}{:>16}", "sites", "s a round", "ms a site");
    for sites in [3, 10, 30, 100] {
        let (seconds, _) = runtime().block_on(rounds(sites, 100_000, 6)).unwrap();
        let seconds = median(seconds);
        println!("{sites:>6}{seconds:>16.3}{:>16.2}", seconds * 1e3 / sites as f64);
    }
}

/// Files that this process has open, and the memory that it holds, in bytes.
fn held() -> (usize, u64) {
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    (files, pages * 4096)
}

#[test]
#[ignore = "a measurement: just scale"]
fn overhead_of_many_rounds() {
    let count = 1_000;
    let (seconds, stored) = runtime().block_on(rounds(10, 100_000, count)).unwrap();
    let (files, memory) = held();
    println!(
        "\n10 sites, {count} rounds: {:.3} s a round at first, {:.3} s at last; artifacts hold {} bytes after round 3, {} after \
         the last; {files} open files and {} MB of memory at the end",
        median(seconds[..100].to_vec()),
        median(seconds[seconds.len() - 100..].to_vec()),
        stored[0],
        stored[1],
        memory >> 20
    );
}
