//! What a training works on: documents, cases, settings and folders.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use nnunet::{
    checkpoint::results::ResultsFolder,
    network::Layout,
    preprocess::REMEDY,
    splits::{self, Fold, Split},
    train::{TrainerVariant, network_of},
};
use schemas::{
    job::{Device, FoldId},
    nnunet::{Configuration, DatasetJson, Plans, python_json},
};
use serde_json::json;

use super::{Train, log::TrainingLog};
use crate::cli::nnunet::{extract_fingerprint::FINGERPRINT, folders, plan::describe, threads};

/// One training, opened.
pub struct Experiment {
    /// The plans.
    pub plans: Plans,
    /// The name of the configuration.
    pub configuration_name: String,
    /// The configuration.
    pub configuration: Configuration,
    /// dataset.json.
    pub dataset_json: DatasetJson,
    /// What the trainer's name changes.
    pub variant: TrainerVariant,
    /// The fold.
    pub fold: FoldId,
    /// The cases to train and to validate on.
    pub split: Split,
    /// The network.
    pub layout: Layout,
    /// The folder of the preprocessed cases.
    pub cases: PathBuf,
    /// The data set's fingerprint.
    pub fingerprint: PathBuf,
    /// The folder of the reference segmentations.
    pub references: PathBuf,
    /// Where the results go.
    pub results: ResultsFolder,
    /// The training log.
    pub log: TrainingLog,
    /// Where to train.
    pub device: Device,
    /// The seed.
    pub seed: u64,
    /// Training iterations of an epoch.
    pub iterations: usize,
    /// Validation iterations of an epoch.
    pub val_iterations: usize,
    /// Whether the network computes in bfloat16.
    pub bfloat16: bool,
    /// Samples that the network sees at once.
    pub micro_batch: Option<usize>,
    /// Threads of libtorch.
    pub threads: usize,
    /// Threads that make batches.
    pub loader_threads: usize,
    /// Whether checkpoints are written.
    pub checkpoints: bool,
    /// Whether the final validation writes probabilities.
    pub probabilities: bool,
}

impl Experiment {
    /// Reads the documents, makes the splits where they are missing, makes the results folder and its log.
    pub fn open(command: &Train) -> anyhow::Result<Self> {
        let variant = *TrainerVariant::by_name(&command.trainer)?;
        // A device that is not there should not be found out after the first log line.
        crate::device::check_present(command.device)?;
        let name = folders::dataset_name(&command.dataset)?;
        let preprocessed = folders::preprocessed()?.join(&name);
        let results = folders::results()?;
        let plans = folders::read_plans(&preprocessed.join(format!("{}.json", command.plans)))?;
        let dataset_json = folders::read_dataset_json(&preprocessed.join("dataset.json"))?;
        let configuration = plans.configuration(&command.configuration).with_context(|| {
            let names: Vec<&str> = plans.configuration_names().collect();
            format!(
                "{}.json of {name} has the configurations {}",
                command.plans,
                names.join(", ")
            )
        })?;
        ensure!(
            configuration.previous_stage.is_none(),
            "{}: cascades cannot be trained",
            command.configuration
        );
        let (channels, heads) = (dataset_json.channels(), dataset_json.segmentation_heads());
        let architecture = network_of(variant.name, &configuration.architecture);
        let layout = Layout::new(&architecture, channels, heads)?;
        let cases = preprocessed.join(&configuration.data_identifier);
        let identifiers = identifiers(&cases)?;

        // What can be wrong with the request is known before the first file is written.
        let results = ResultsFolder::create(
            &results,
            &plans.dataset_name,
            variant.name,
            &plans.plans_name,
            &command.configuration,
            command.fold,
        )?;
        let mut log = TrainingLog::create(&results.fold)?;
        let split = split(&preprocessed, &identifiers, command.fold, &mut log)?;
        let cores = threads::cores();
        Ok(Self {
            configuration_name: command.configuration.clone(),
            configuration,
            dataset_json,
            variant,
            fold: command.fold,
            split,
            layout,
            cases,
            references: preprocessed.join("gt_segmentations"),
            results,
            log,
            device: command.device,
            seed: command.seed,
            iterations: command.iterations as usize,
            val_iterations: command.val_iterations as usize,
            bfloat16: command.bfloat16,
            micro_batch: command.micro_batch,
            // On an accelerator the processor's threads are the loader's, as in nnU-Net.
            threads: if command.device == Device::Cpu { cores } else { 1 },
            loader_threads: threads::loader_threads()?,
            checkpoints: !command.disable_checkpointing,
            probabilities: command.npz,
            fingerprint: preprocessed.join(FINGERPRINT),
            plans,
        })
    }

    /// Writes the model's documents and debug.json.
    pub fn write_documents(&self) -> anyhow::Result<()> {
        let fingerprint = fs::read_to_string(&self.fingerprint)
            .with_context(|| format!("{}", self.fingerprint.display()))?;
        let dataset_json = python_json::to_string(self.dataset_json.document())?;
        self.results
            .write_documents(&self.plans.to_json(), &dataset_json, &fingerprint)?;
        self.write_debug()
    }

    /// Says what is trained, and how.
    pub fn describe(&mut self) -> anyhow::Result<()> {
        let configuration = describe(&self.configuration);
        self.log.line(format!("Using device: {}", self.device.as_str()))?;
        self.log.line(format!(
            "Configuration {}: {configuration}",
            self.configuration_name
        ))?;
        self.log.line(format!(
            "{}: {} epochs of {} training and {} validation iterations, initial learning rate {}, seed {}, \
             {} threads, {} loader threads",
            self.variant.name,
            self.variant.epochs,
            self.iterations,
            self.val_iterations,
            self.variant.initial_learning_rate,
            self.seed,
            self.threads,
            self.loader_threads,
        ))
    }

    /// debug.json: what the training was started with, for people.
    fn write_debug(&self) -> anyhow::Result<()> {
        let variant = &self.variant;
        Ok(self.results.write_debug(&json!({
            "program": concat!("rounds ", env!("CARGO_PKG_VERSION")),
            "trainer_name": variant.name,
            "configuration_name": self.configuration_name,
            "fold": self.fold,
            "device": self.device.as_str(),
            "num_epochs": variant.epochs,
            "num_iterations_per_epoch": self.iterations,
            "num_val_iterations_per_epoch": self.val_iterations,
            "initial_lr": variant.initial_learning_rate,
            "schedule": format!("{:?}", variant.schedule),
            "loss": format!("{:?}", variant.loss),
            "enable_deep_supervision": variant.deep_supervision,
            "foreground_oversampling": format!("{:?}", variant.foreground),
            "mirroring": format!("{:?}", variant.mirroring),
            "batch_size": variant.batch_size_of(&self.configuration),
            "patch_size": self.configuration.patch_size,
            "seed": self.seed,
            "bfloat16": self.bfloat16,
            "micro_batch": self.micro_batch,
            "threads": self.threads,
            "loader_threads": self.loader_threads,
            "preprocessed_dataset_folder": self.cases,
            "output_folder": self.results.fold,
            "training_cases": self.split.train,
            "validation_cases": self.split.val,
        }))?)
    }
}

/// The preprocessed cases of a configuration, sorted.
fn identifiers(folder: &Path) -> anyhow::Result<Vec<String>> {
    ensure!(
        folder.is_dir(),
        "{}: missing; `rounds nnunet preprocess` makes it",
        folder.display()
    );
    let mut identifiers = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let Ok(name) = entry
            .with_context(|| format!("{}", folder.display()))?
            .file_name()
            .into_string()
        else {
            continue;
        };
        ensure!(
            !name.ends_with(".b2nd"),
            "{}: Python nnU-Net preprocessed this folder, and Rounds does not read its .b2nd files: {REMEDY} \
             (or remove the folder first)",
            folder.display()
        );
        if let Some(identifier) = name.strip_suffix(".npz") {
            identifiers.push(identifier.to_owned());
        }
    }
    ensure!(
        !identifiers.is_empty(),
        "{}: no preprocessed cases (.npz); run `rounds nnunet preprocess`",
        folder.display()
    );
    identifiers.sort();
    Ok(identifiers)
}

/// nnU-Net's do_split: the splits are made once, then kept.
fn split(
    preprocessed: &Path,
    identifiers: &[String],
    fold: FoldId,
    log: &mut TrainingLog,
) -> anyhow::Result<Split> {
    let number = match fold {
        FoldId::All => {
            log.line(format!(
                "Fold all: all {} cases train and validate",
                identifiers.len()
            ))?;
            return Ok(splits::select(identifiers, &[], Fold::All)?);
        }
        FoldId::Fold(number) => number,
    };
    let file = preprocessed.join("splits_final.json");
    let splits = if file.is_file() {
        log.line(format!(
            "Using splits from existing split file: {}",
            file.display()
        ))?;
        splits::read(&file)?
    } else {
        log.line("Creating new 5-fold cross-validation split...")?;
        let splits = splits::generate(identifiers)?;
        splits::write(&splits, &file)?;
        splits
    };
    log.line(format!("Desired fold for training: {number}"))?;
    if number as usize >= splits.len() {
        log.line(format!(
            "INFO: the splits contain only {} folds: fold {number} is a random (but seeded) 80:20 split",
            splits.len()
        ))?;
    }
    let split = splits::select(identifiers, &splits, Fold::Number(number))?;
    log.line(format!(
        "This split has {} training and {} validation cases.",
        split.train.len(),
        split.val.len()
    ))?;
    if split.train.iter().any(|case| split.val.contains(case)) {
        log.line("WARNING: Some validation cases are also in the training set.")?;
    }
    Ok(split)
}
