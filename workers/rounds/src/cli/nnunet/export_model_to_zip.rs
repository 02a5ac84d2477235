//! `export-model-to-zip`: nnUNetv2_export_model_to_zip.

use std::path::PathBuf;

use clap::Args;
use nnunet::model_zip::Export;
use schemas::job::FoldId;

use super::{flags::fold, folders};

/// The command's flags.
#[derive(Debug, Args)]
pub struct ExportModelToZip {
    /// The data set, by id or by name (DatasetXYZ_name)
    #[arg(short = 'd', value_name = "DATASET", required = true)]
    dataset: String,
    /// The zip to write
    #[arg(short = 'o', value_name = "FILE", required = true)]
    output: PathBuf,
    /// The configurations
    #[arg(short = 'c', value_name = "NAME", num_args = 1..,
          default_values = ["3d_lowres", "3d_fullres", "2d", "3d_cascade_fullres"])]
    configurations: Vec<String>,
    /// The trainer
    #[arg(long = "tr", value_name = "NAME", default_value = "nnUNetTrainer")]
    trainer: String,
    /// The plans
    #[arg(short = 'p', value_name = "NAME", default_value = "nnUNetPlans")]
    plans: String,
    /// The folds
    #[arg(short = 'f', value_name = "FOLD", num_args = 1.., default_values = ["0", "1", "2", "3", "4"],
          value_parser = fold)]
    folds: Vec<FoldId>,
    /// The checkpoints of each fold
    #[arg(long = "chk", value_name = "FILE", num_args = 1.., default_values = ["checkpoint_final.pth"])]
    checkpoints: Vec<String>,
    /// Leave out folds and configurations that were not trained
    #[arg(long = "not_strict")]
    not_strict: bool,
    /// Put in the predictions of the cross-validation
    #[arg(long = "exp_cv_preds")]
    predictions: bool,
}

impl ExportModelToZip {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let dataset_name = folders::dataset_name(&self.dataset)?;
        let files = Export {
            results: &folders::results()?,
            dataset_name: &dataset_name,
            trainer: &self.trainer,
            plans: &self.plans,
            configurations: &self.configurations,
            folds: &self.folds,
            checkpoints: &self.checkpoints,
            partial: self.not_strict,
            predictions: self.predictions,
        }
        .write(&self.output)?;
        println!("{} files are in {}", files.len(), self.output.display());
        Ok(())
    }
}
