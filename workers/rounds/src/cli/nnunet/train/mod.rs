//! `train`: nnUNetv2_train. One fold of one configuration, then its validation on whole cases.

mod epochs;
mod experiment;
mod final_validation;
mod log;

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use nnunet::{
    checkpoint::{
        PthFile,
        results::{CHECKPOINT_BEST, CHECKPOINT_FINAL, CHECKPOINT_LATEST},
    },
    network::{StateDict, initial_weights},
};
use schemas::job::{Device, FoldId};

use self::{epochs::State, experiment::Experiment};
use crate::memory::KeepFreed;

/// The command's flags.
#[derive(Debug, Args)]
pub struct Train {
    /// The data set, by id or by name (DatasetXYZ_name)
    #[arg(value_name = "dataset_name_or_id")]
    dataset: String,
    /// The configuration: 2d, 3d_lowres or 3d_fullres
    configuration: String,
    /// The fold of the splits, from 0, or all
    #[arg(value_parser = super::flags::fold)]
    fold: FoldId,
    /// The trainer
    #[arg(long = "tr", value_name = "NAME", default_value = "nnUNetTrainer")]
    trainer: String,
    /// The plans
    #[arg(short = 'p', value_name = "NAME", default_value = "nnUNetPlans")]
    plans: String,
    /// A checkpoint to start from: all its weights but those of the segmentation heads
    #[arg(long = "pretrained_weights", value_name = "FILE")]
    pretrained_weights: Option<PathBuf>,
    /// Accelerators; only 1
    #[arg(long = "num_gpus", value_name = "N", default_value_t = 1)]
    num_gpus: usize,
    /// Save the probabilities of the final validation beside its segmentations
    #[arg(long = "npz")]
    npz: bool,
    /// Continue from the last checkpoint
    #[arg(long = "c")]
    continue_training: bool,
    /// Only validate; the training must be finished
    #[arg(long = "val")]
    only_validate: bool,
    /// Validate checkpoint_best in place of checkpoint_final
    #[arg(long = "val_best")]
    validate_best: bool,
    /// Write no checkpoint
    #[arg(long = "disable_checkpointing")]
    disable_checkpointing: bool,
    /// cpu, cuda or mps
    #[arg(long = "device", value_name = "DEVICE", default_value = "cuda")]
    device: Device,
    /// Training iterations of an epoch, for trials; not in nnU-Net
    #[arg(long = "iterations-per-epoch", value_name = "N", default_value_t = 250,
          value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Validation iterations of an epoch, for trials; not in nnU-Net
    #[arg(long = "val-iterations-per-epoch", value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..))]
    val_iterations: u32,
    /// The network computes in bfloat16, where the processor has it: faster; not in nnU-Net
    #[arg(long = "bfloat16")]
    bfloat16: bool,
    /// Samples that the network sees at once, where the device holds no whole batch: the gradient is still the whole
    /// batch's; not in nnU-Net
    #[arg(long = "micro-batch", value_name = "N")]
    micro_batch: Option<usize>,
    /// Seeds initial weights and every random draw; not in nnU-Net
    #[arg(long = "seed", value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Train {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        self.refuse()?;
        let mut experiment = Experiment::open(&self)?;
        let best = experiment.results.fold.join(CHECKPOINT_BEST);

        let mut weights = if self.only_validate {
            let last = experiment.results.fold.join(CHECKPOINT_FINAL);
            ensure!(
                last.is_file(),
                "--val: {}: missing; the training is not finished",
                last.display()
            );
            read_weights(&last, &experiment)?
        } else {
            let _kept = KeepFreed::start();
            let state = self.start(&mut experiment)?;
            epochs::train(&mut experiment, state)?
        };
        if self.validate_best {
            weights = read_weights(&best, &experiment)?;
        }
        final_validation::run(&mut experiment, &weights)
    }

    fn refuse(&self) -> anyhow::Result<()> {
        ensure!(
            self.num_gpus == 1,
            "-num_gpus {}: only 1 is supported",
            self.num_gpus
        );
        ensure!(
            !(self.continue_training && self.only_validate),
            "--c and --val cannot be set together"
        );
        ensure!(
            !(self.continue_training && self.pretrained_weights.is_some()),
            "-pretrained_weights starts a training, --c continues one: they cannot be set together"
        );
        ensure!(
            !(self.validate_best && self.disable_checkpointing),
            "--val_best needs the checkpoint that --disable_checkpointing does not write"
        );
        if self.configuration.contains("cascade") {
            bail!("{}: cascades cannot be trained", self.configuration);
        }
        Ok(())
    }

    /// The weights and all else that the first epoch starts from.
    fn start(&self, experiment: &mut Experiment) -> anyhow::Result<State> {
        if self.continue_training {
            // As nnU-Net chooses: also to go on with an aborted validation.
            let file = [CHECKPOINT_FINAL, CHECKPOINT_LATEST, CHECKPOINT_BEST]
                .map(|name| experiment.results.fold.join(name))
                .into_iter()
                .find(|file| file.is_file());
            if let Some(file) = file {
                let state =
                    State::of_checkpoint(PthFile::open(&file)?.checkpoint(&experiment.layout)?, &file)?;
                experiment.log.line(format!(
                    "Continuing from {} at epoch {}",
                    file.display(),
                    state.epoch
                ))?;
                return Ok(state);
            }
            experiment
                .log
                .line("WARNING: there is no checkpoint to continue from. Starting a new training...")?;
        }
        let mut weights = initial_weights(&experiment.layout, self.seed)?;
        if let Some(file) = &self.pretrained_weights {
            weights = PthFile::open(file)?.pretrained(&weights)?;
            experiment
                .log
                .line(format!("Starting from the weights of {}", file.display()))?;
        }
        Ok(State::new(weights))
    }
}

fn read_weights(file: &Path, experiment: &Experiment) -> anyhow::Result<StateDict> {
    Ok(PthFile::open(file)?.weights(&experiment.layout)?)
}
