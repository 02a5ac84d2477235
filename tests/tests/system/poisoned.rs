//! One poisoned site of five on real training: held-out Dice by each average. Figures are printed, never asserted:
//! `just poisoned DATA`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result, ensure};
use nnunet::{
    checkpoint::{
        results::{CHECKPOINT_FINAL, ModelFolder},
        safetensors,
    },
    network::{Layout, StateDict, Tensor32},
};
use pipeline::worker::{Phase, TaskContext};
use schemas::{
    job::FoldId,
    names,
    task::{EpochReport, Failure, Task, TaskInput, TaskOutput, Validation, Weights},
};
use serde_json::{Value, json};
use tests::{federation::Federation, hippocampus, process};
use tokio_util::sync::CancellationToken;

const NAME: &str = "Dataset004_Hippocampus";
const MODEL: &str = "Dataset004_Hippocampus/nnUNetTrainer_1epoch__Small__3d_fullres";
/// Learns in few iterations: nnU-Net's SGD finds no foreground in the first two hundred of so small a network.
const TRAINER: &str = "nnUNetTrainerAdam";
const SITES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// The one that is poisoned.
const POISONED: &str = "e";
/// The planned network begins with 32 features, and takes 4 patches at once.
const FEATURES: u64 = 16;
const BATCH: u64 = 2;

/// What is compared: its name, whether a site is poisoned, what of `federation` is not the default.
fn variants() -> Vec<(&'static str, bool, Value)> {
    vec![
        ("FedAvg, all honest", false, json!({})),
        ("FedAvg", true, json!({})),
        ("median", true, json!({ "algorithm": "median" })),
        (
            "trimmed mean, trim 1",
            true,
            json!({ "algorithm": "trimmed-mean", "trim": 1 }),
        ),
        ("FedAvg, norm bound 1", true, json!({ "norm_bound": 1 })),
    ]
}

/// A hostile worker. It trains nothing: it sends the weights that the round started from less ten times what the last
/// average had brought, and so turns back what the others learn.
struct Poison {
    start: StateDict,
    /// What each job's last round started from.
    last: Mutex<BTreeMap<String, StateDict>>,
}

impl Poison {
    const SCALE: f32 = -10.0;

    fn update(&self, job: &str, base: &StateDict) -> Result<StateDict> {
        let mut last = self.last.lock().expect("no worker panicked");
        let before = last.insert(job.to_owned(), base.clone());
        let mut update = StateDict::new();
        for (name, tensor) in base.iter() {
            let before = before.as_ref().and_then(|before| before.get(name));
            // Before the first average all of the weights count as learnt.
            let brought = |place: usize| tensor.data[place] - before.map_or(0.0, |before| before.data[place]);
            let data = tensor.data.iter().enumerate();
            let data = data.map(|(place, value)| value + Self::SCALE * brought(place));
            update.insert(name, Tensor32::new(tensor.shape.clone(), data.collect())?)?;
        }
        Ok(update)
    }
}

impl Phase for Poison {
    const NAME: names::Phase = names::Phase::TrainRound;

    fn run(&self, task: &Task, context: &TaskContext) -> Result<TaskOutput, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::fatal("poison", error.to_string());
        let TaskInput::TrainRound {
            base, epochs_before, ..
        } = &task.input
        else {
            return Err(failed(&"not a round"));
        };
        let weights = match base {
            Weights::Initial { .. } => self.start.clone(),
            Weights::Average { artifact } => {
                safetensors::from_bytes(&context.download(artifact)?, "the average")
                    .map_err(|e| failed(&e))?
            }
        };
        let trains = task.key.pass == 0;
        let update = if trains {
            let made = self.update(&task.key.job, &weights).map_err(|e| failed(&e))?;
            Some(context.upload(safetensors::to_bytes(&made))?)
        } else {
            None
        };
        let epoch = EpochReport {
            epoch: *epochs_before,
            learning_rate: 0.01,
            train_loss: 0.0,
            iterations: task.job.message.federation.iterations_per_epoch,
            seconds: 0.0,
        };
        Ok(TaskOutput::Trained {
            update,
            epochs: if trains { vec![epoch] } else { Vec::new() },
            validation: Validation {
                true_positives: vec![0; 2],
                false_positives: vec![0; 2],
                false_negatives: vec![0; 2],
                loss: 0.0,
                on_training_cases: true,
            },
            base: base.digest().to_owned(),
            update_norm: None,
        })
    }
}

/// The training cases of all sites in `raw/`, of each in `sites/`, and what is held out, four of nine, in `held-out/`.
fn split(data: &Path, work: &Path) -> Result<()> {
    let all = work.join("all").join(NAME);
    hippocampus::pool(&hippocampus::sites(data)?, &all)?;
    let mut labels: Vec<String> = fs::read_dir(all.join("labelsTr"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    labels.sort();
    let document: Value = serde_json::from_slice(&fs::read(all.join("dataset.json"))?)?;
    let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (place, label) in labels.iter().enumerate() {
        let image = label.replace(".nii.gz", "_0000.nii.gz");
        let folders = match place % 9 {
            0..5 => vec![work.join("raw").join(NAME), site(work, SITES[place % 9])],
            _ => vec![work.join("held-out")],
        };
        for folder in folders {
            for (part, file) in [("imagesTr", &image), ("labelsTr", label)] {
                fs::create_dir_all(folder.join(part))?;
                fs::copy(all.join(part).join(file), folder.join(part).join(file))?;
            }
            *counts.entry(folder).or_default() += 1;
        }
    }
    for (folder, count) in counts {
        let mut own = document.clone();
        own["numTraining"] = count.into();
        fs::write(folder.join("dataset.json"), own.to_string())?;
    }
    Ok(())
}

fn site(work: &Path, name: &str) -> PathBuf {
    work.join("sites").join(name).join(NAME)
}

fn nnunet(work: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = process::command(&[&["nnunet"], arguments].concat())?;
    for (name, folder) in [
        ("raw", "raw"),
        ("preprocessed", "preprocessed"),
        ("results", "models"),
    ] {
        command.env(format!("nnUNet_{name}"), work.join(folder));
    }
    let output = command.output()?;
    // Before its last line it says how far it was.
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next_back().unwrap_or_default();
    ensure!(output.status.success(), "{}: {said}", arguments[0]);
    Ok(())
}

/// A model of few features, trained for one iteration, that all jobs start from: its folder.
fn small_model(work: &Path) -> Result<PathBuf> {
    nnunet(work, &["plan-and-preprocess", "-d", "4", "-c", "3d_fullres"])?;
    let folder = work.join("preprocessed").join(NAME);
    let mut plans: Value = serde_json::from_slice(&fs::read(folder.join("nnUNetPlans.json"))?)?;
    plans["plans_name"] = "Small".into();
    let configuration = &mut plans["configurations"]["3d_fullres"];
    configuration["batch_size"] = BATCH.into();
    let features = &mut configuration["architecture"]["arch_kwargs"]["features_per_stage"];
    let stages = features.as_array_mut().context("features_per_stage")?;
    for stage in stages {
        *stage = (stage.as_u64().context("a number of features")? * FEATURES / 32).into();
    }
    fs::write(folder.join("Small.json"), plans.to_string())?;
    let train = "train 4 3d_fullres all --tr nnUNetTrainer_1epoch -p Small --device cpu --seed 1 --iterations-per-epoch 1 \
                 --val-iterations-per-epoch 1";
    nnunet(work, &train.split_whitespace().collect::<Vec<_>>())?;
    Ok(work.join("models").join(MODEL))
}

fn weights(model: &Path) -> Result<StateDict> {
    let folder = ModelFolder::open(model)?;
    let layout = Layout::new(&folder.plans.configuration("3d_fullres")?.architecture, 1, 3)?;
    Ok(folder
        .checkpoint(FoldId::All, CHECKPOINT_FINAL)?
        .weights(&layout)?)
}

/// Trains a variant; mean foreground Dice of its last weights on the held-out cases.
fn trained(federation: &Federation, work: &Path, name: &str, settings: &Value) -> Result<f64> {
    let number = |variable: &str, default: u32| -> Result<u32> {
        std::env::var(variable).map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let job: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut message = json!({
        "job_id": job,
        "datasets": SITES,
        "payload": { "mode": "training", "num_rounds": number("ROUNDS_POISONED_ROUNDS", 20)?, "dataset_id": 4,
                     "model_configuration": "3d_fullres", "device": "cpu", "trainer_name": TRAINER },
        "federation": { "iterations_per_epoch": number("ROUNDS_POISONED_ITERATIONS", 10)?,
                        "val_iterations_per_epoch": 1, "seed": 1,
                        "initial_checkpoint": { "path": MODEL, "fold_id": "all", "plans": "keep" } },
    });
    let fields = message["federation"].as_object_mut().context("an object")?;
    fields.extend(settings.as_object().context("an object")?.clone());
    let sent = federation.submit(&message)?;
    federation.finished(&sent)?;
    let model = federation.download(&sent)?.remove(0);
    let scores = work.join(format!("{job}.json"));
    let path = |path: PathBuf| path.display().to_string();
    let (segmented, written) = (path(work.join(&job)), path(scores.clone()));
    let (images, labels) = (
        path(work.join("held-out/imagesTr")),
        path(work.join("held-out/labelsTr")),
    );
    let (document, plans) = (path(model.join("dataset.json")), path(model.join("plans.json")));
    let model = path(model);
    let predict = [
        "predict-from-modelfolder",
        "-i",
        &images,
        "-o",
        &segmented,
        "-m",
        &model,
    ];
    nnunet(
        work,
        &[&predict[..], &["-f", "all", "--device", "cpu", "--disable_tta"]].concat(),
    )?;
    let evaluate = ["evaluate-folder", &labels, &segmented, "-o", &written];
    nnunet(
        work,
        &[&evaluate[..], &["--djfile", &document, "--pfile", &plans]].concat(),
    )?;
    let summary: Value = serde_json::from_slice(&fs::read(scores)?)?;
    summary["foreground_mean"]["Dice"].as_f64().context("a Dice")
}

#[test]
#[ignore = "a measurement: just poisoned"]
fn one_poisoned_site_of_five() {
    let data = std::env::var_os("ROUNDS_POISONED_DATA").map(PathBuf::from);
    let data = data.or_else(hippocampus::folder).expect("ROUNDS_POISONED_DATA");
    let mut federation = Federation::start().unwrap();
    let work = federation.folder().join("poisoned");
    split(&data, &work).unwrap();
    let model = small_model(&work).unwrap();
    for name in SITES {
        let own = format!("models = [{:?}]", work.join("models"));
        let datasets = format!("\n[[datasets]]\nid = {name:?}\npath = {:?}\n", site(&work, name));
        federation.site_with(name, &own, &datasets).unwrap();
    }
    let stop = CancellationToken::new();
    let mut hostile = false;
    let mut lines = vec![format!("{:<24}{:>16}", "", "held-out Dice")];
    for (name, poisoned, settings) in variants() {
        if poisoned && !hostile {
            let others = "fingerprint,plan-verify,preprocess,infer";
            federation.restart_for(POISONED, others).unwrap();
            let poison = Poison {
                start: weights(&model).unwrap(),
                last: Mutex::default(),
            };
            federation.impostor(POISONED, poison, &stop).unwrap();
            hostile = true;
        }
        // Weights that left the numbers fail the job: that is a figure too.
        let dice = match trained(&federation, &work, name, &settings) {
            Ok(dice) => format!("{dice:.4}"),
            Err(error) => format!("failed: {}", error.to_string().lines().next().unwrap_or_default()),
        };
        lines.push(format!("{name:<24}{dice:>16}"));
        println!("\n{}", lines.join("\n"));
    }
    stop.cancel();
}
